"""Language models: loaded or built on the spot, talked to, sampled from, and served. Knows no algorithm.

``loading``, ``tiny`` and ``lora`` give a model and a tokenizer; ``kinds`` says what kind a name stands for.
``chat_template`` and ``contexts`` say what a model reads; ``local_policy`` plays with it, by ``engines``; ``server``
answers over HTTP. ``attention`` computes rows on kept keys; ``admission`` compares sampling with plain forward passes;
``precision`` and ``memory`` keep numbers exact and equal.
"""
