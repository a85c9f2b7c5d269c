"""Where is the loss: from the update's action tokens to one number.

``tokens`` is what every part reads; ``surrogate`` joins a ratio, a bound and a shape into a loss per token;
``penalties`` add to it; ``token_weights`` say how much a token counts; ``aggregate`` makes one number of all.
Nothing here imports torch: the parts take torch tensors.
"""

from agentgym.trainers.loss.tokens import Tokens

__all__ = ["Tokens"]
