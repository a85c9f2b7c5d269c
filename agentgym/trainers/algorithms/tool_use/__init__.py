"""Methods that pay for how tools are used, beside the outcome."""
