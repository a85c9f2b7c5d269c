"""What an episode was paid, as learning sees it: parts ``(turns, reward) -> reward``. Needs numpy only.

``shaping`` has the environment's reward, limits on length, format and KL; ``tool_calls`` what calls cost and earn;
``rubrics`` what supports an answer. Parts are joined by ``chain``, ``add`` and ``scale`` of the room ``advantage``.
"""
