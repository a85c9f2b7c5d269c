"""Supervised fine-tuning before reinforcement learning.

``experts`` says who plays the demonstrations; ``demonstrations`` makes training data of episodes that nobody sampled;
``imitation`` learns to write what they wrote.
"""
