"""Methods whose episodes are forked from each other, so that a turn is compared with its alternatives."""
