"""Web applications to click, type and scroll in: ``agentgym/GUI-v0``.

**One definition, two backends.** An application (:class:`~agentgym.envs.gui.app.App`, one file in ``apps/``) is a small
state machine in Python: a :class:`~agentgym.envs.gui.app.State` of plain JSON data, ``view(state) -> Screen`` that only
reads it, and ``act(state, key, value)`` that changes it in place. A :class:`~agentgym.envs.gui.world.World` is the
applications of one task with their tabs and histories. It gives every element that can be acted on an id, and it is
what both backends drive:

=========================  =======================================================================================
backend                    what stands between the agent and the world
=========================  =======================================================================================
``page`` (default)         :class:`~agentgym.envs.gui.page.PageBackend`: the elements of the world's screen, in process
``chromium``               a real page: the world's screen as HTML, real clicks, keys and wheels, and a snapshot that is
                           read from the document
=========================  =======================================================================================

The seam is :class:`~agentgym.envs.gui.snapshot.Backend`: ``snapshot()`` says what is on the screen,
``perform(command)`` does what was found possible there. Everything an agent reads or is refused is made from snapshots,
by :class:`~agentgym.envs.gui.driver.Driver`, so two backends that agree on snapshots agree on every word.

**What a screen is.** A title and zones of widgets (a form, a toolbar, a list with a window), perhaps a dialog above
them that hides the rest. There is no focus: Enter and Escape go to the element that is shown to answer to them.
A list shows ``window`` rows; scrolling moves it by that many.

**Ids** are pairs of consonants, as link hints of keyboard browsers. They are a pure function of the task and of the
screen, never of the way there, so equal states have equal actions; they differ between tasks, so a policy must read
them off the page.

**Goals.** The data of every application (``State.data``: mails, events, orders, but not drafts or what was opened) must
equal what the task asks for, in every application of the task. So a goal is a matter of the final state, never of the
path, and damage anywhere else fails it. Questions are answered by ``done("...")`` with the data untouched.
"""

from __future__ import annotations

from agentgym.envs.gui.env import GUIEnv

__all__ = ["GUIEnv"]
