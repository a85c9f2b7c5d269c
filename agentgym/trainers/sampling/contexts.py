"""What the policy sees, as parts; :mod:`agentgym.models.contexts` says how each is made."""

from agentgym.models import contexts
from agentgym.trainers.parts import context

full_history = context(contexts.full_history)
window = context(contexts.window)
workspace = context(contexts.workspace)
