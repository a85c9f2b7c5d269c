"""Episodes in, new weights out.

``learner`` makes an update; ``batch`` holds its tokens as columns and its optimizer steps; ``answer_probe`` asks the
model for its belief in the answer; ``optimizer`` is AdamW or ``muon``; ``metrics`` is what an update reports.
"""

from agentgym.trainers.update.learner import Learner, OptimizerConfig, Update

__all__ = ["Learner", "OptimizerConfig", "Update"]
