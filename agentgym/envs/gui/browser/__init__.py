"""``backend="chromium"``: the world's screens as real pages, with real clicks, keys and wheels.

``site.py`` serves the pages on 127.0.0.1; ``page.html``, ``page.css`` and ``page.js`` are the page, the same for every
application: it draws the screen it is sent and sends back what its user did. ``backend.py`` is that user.
"""

from __future__ import annotations

from agentgym.envs.gui.browser.backend import ChromiumBackend

__all__ = ["ChromiumBackend"]
