"""Rows that share prefixes are computed once.

``rows`` makes rows of episodes; ``tree`` merges them and cuts micro-batches; ``blocks`` lays those out for attention;
``attention`` computes them; ``scoring`` runs them through a model: log-probability, entropy, value.
"""
