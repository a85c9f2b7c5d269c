"""``agentgym/GUI-v0``: the environment around a driver, in plain text or in a tool syntax."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any, Self

from gymnasium.error import ResetNeeded

from agentgym.env import TextEnv, digest
from agentgym.envs.gui import commands, names, tasks
from agentgym.envs.gui.commands import Command, Unreadable
from agentgym.envs.gui.driver import OBSERVE, Driver, Impossible
from agentgym.envs.gui.names import NamedBackend
from agentgym.envs.gui.page import PageBackend
from agentgym.envs.gui.snapshot import Backend, Write, possible
from agentgym.envs.gui.tasks import Task
from agentgym.envs.gui.tools import TOOLS, acting, as_call
from agentgym.envs.gui.world import HINTS, World
from agentgym.errors import UnknownName, UsageError
from agentgym.tools.browser import find_chromium, shared_chromium
from agentgym.tools.syntax import make_syntax, syntaxes
from agentgym.tools.syntax.base import Parsed
from agentgym.tools.toolbox import Gate, Toolbox

OVER = "The episode is over."
NO_CALL = "neither a tool call nor an answer"
_SAMPLES = 8  # tasks of each family that stand for the generator in the fingerprint

INSTRUCTIONS = """You use web applications. Each line of the screen is an element: {parts}; a \
textbox or combobox also has its value in quotes, a combobox its options, [Enter] marks what the key does.
After an action you see what has changed, or the whole of another page. Do what the task says and nothing else, then \
say that you are done; where the task asks a question, with the answer."""
_PARTS = {
    "id": "its id, its role and its name",
    "name": "its role and its name, which is also its id; it is called by what comes before the first comma or colon, "
    "and of several with one name the second by what its line begins with, e.g. Save 2",
}
_FORMS = {"id": commands.FORMS, "name": names.FORMS}

BACKENDS = ("page", "chromium")


class GUIEnv(TextEnv):
    """``agentgym/GUI-v0``: do a task in web applications: read pages, click, type, and say when it is done.

    The reward is 1.0 on the turn that says that the task is done, where it is, and else 0.0.
    ``reset(seed=n)`` starts task ``n`` of the split; without a seed the number is drawn.
    ``reset(options={"family": f})`` asks for a family: the name of an application, or ``flow`` for several of them.

    The first observation is the whole screen, and the task in its last line. An action that is not understood or not
    possible costs a turn and says why, also in ``info["error"]``. ``info`` has ``family`` and ``columns`` besides the
    common keys; ``columns["expert_steps"]`` is how many actions the expert needs from the start, for curricula.
    ``admissible`` lists texts to type from the task and its pages, not every text.

    ``unseen`` has labels in other words, other arrangements, and longer flows than train and test have.

    Args:
        split: ``"train"``, ``"test"`` or ``"unseen"``.
        families: only tasks of these; none named: of all. ``mail/star`` is one template of a family.
        backend: ``"page"``, a model of the pages in process; ``"chromium"``, the same pages in a real browser, which
            needs the extra ``browser`` and a Chromium.
        observe: ``"diff"`` tells after an action what has changed, ``"full"`` always the whole screen.
        refer: ``"id"``: an element has an id, ``click(kd)``; ``"name"``: it is called by its name, ``click Save``
            (:mod:`~agentgym.envs.gui.names`).
        max_turns: an episode that does not end by ``done`` until then is truncated.
        syntax: how tool calls are written (:func:`agentgym.tools.syntax.syntaxes`); then the syntax's answer is
            ``done``, and budgets count and refuse calls. ``"plain"``: an action is a text such as ``click(kd)``.
        max_calls: calls that one action may hold, in a tool syntax.
        headless: whether Chromium runs without a window.
        screenshots: whether ``info["screenshot"]`` has a picture of every screen, which records then keep.

    Raises:
        UsageError: ``max_turns`` or ``max_calls`` is not a positive integer, or a window or a picture is asked of the
            page model.
        UnknownName: no such backend, syntax or way to observe.
        MissingExtra, SandboxUnavailable: Playwright or Chromium is not installed.
    """

    splits: tuple[str, ...] = ("train", "test", "unseen")

    def __init__(
        self,
        *,
        split: str = "train",
        families: Sequence[str] = (),
        backend: str = "page",
        observe: str = "diff",
        refer: str = "id",
        max_turns: int = 30,
        syntax: str = "plain",
        max_calls: int = 8,
        headless: bool = True,
        screenshots: bool = False,
    ) -> None:
        super().__init__(split=split)
        for name, number in (("max_turns", max_turns), ("max_calls", max_calls)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise UsageError(f"{name}={number!r}: give a positive integer, e.g. 30")
        for what, name, known in (
            ("backend", backend, list(BACKENDS)),
            ("observe", observe, list(OBSERVE)),
            ("refer", refer, list(_PARTS)),
            ("syntax", syntax, ["plain", *syntaxes()]),
        ):
            if name not in known:
                raise UnknownName(what, str(name), known)
        self.families = tuple([self._family(name) for name in families])
        self._refer = refer
        self._write: Write = str if refer == "id" else names.write
        self._parse = commands.parse if refer == "id" else names.parse
        self.permutable_names = (*([HINTS] if refer == "id" else []), *tasks.permutable_names())
        self.max_turns, self.max_calls = max_turns, max_calls
        self._make_backend, self._observe = _maker(backend, headless), observe
        self.waits = backend == "chromium"
        if screenshots and backend != "chromium":
            raise UsageError("screenshots=True: only a browser has pictures; give backend='chromium' too")
        self._screenshots = screenshots
        about = INSTRUCTIONS.format(parts=_PARTS[refer])
        self.instructions = f"{about}\nWrite one action a turn: {', '.join(_FORMS[refer].values())}."
        self.syntax = None if syntax == "plain" else make_syntax(syntax, TOOLS)
        if self.syntax is not None:
            self.tools = Toolbox(TOOLS)
            self.gate: Gate | None = None
            self.instructions = f"{about}\n\n{self.syntax.describe()}"
        self._task: Task | None = None
        self._driver: Driver | None = None
        self._turns = self.expert_steps = 0

    @property
    def fingerprint(self) -> str:
        """Content hash of the instructions, of the first tasks of every family, and of their first screens."""
        screens = []
        for family in self.families or tasks.templates(self.split):
            for number in range(_SAMPLES):
                task = tasks.build(self.split, number, (family,))
                screens.append((task.sentence, Driver(self._called_so(PageBackend(World(task))), "full").first()))
        return digest(super().fingerprint, tasks.VERSION, screens, self._observe, self.max_turns, self.max_calls)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start a task.

        Raises:
            UsageError: an option other than ``family``.
            UnknownName: no such family.
        """
        super().reset(seed=seed)
        families = self._asked(options)
        number = operator.index(seed) if seed is not None else int(self.np_random.integers(2**31))
        self.close()
        task = tasks.build(self.split, number, families)
        world = World(task)
        self._task, self._turns = task, 0
        self._driver = Driver(self._called_so(self._make_backend(world)), self._observe, self._write)
        self.expert_steps = tasks.expert_steps(world.copy())
        if self.syntax is not None:
            self.tools = self.tools.open()
        return f"{self._driver.first()}\nTask: {task.sentence}", self._info(task, self._driver)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one action.

        Raises:
            gymnasium.error.ResetNeeded: no episode is running.
        """
        task, driver = self._running()
        self._turns += 1
        observation, answer, more = self._read(action, driver)
        terminated = answer is not None
        truncated = not terminated and self._turns >= self.max_turns
        solved = answer is not None and driver.backend.solved(answer)
        info = self._info(task, driver) | more
        if terminated or truncated:
            info["success"] = solved
            self.close()
        return observation, 1.0 if solved else 0.0, terminated, truncated, info

    def expert(self) -> str | None:
        """What somebody who can do the task would do next; None when the episode is over.

        Followed from the start, it solves every task. After damage that cannot be undone it says that it is done.
        """
        return self._written(self._driver.backend.expert()) if self._driver is not None else None

    def fork(self) -> Self:
        """An independent copy of the running episode; the applications, which never change, are shared."""
        _, driver = self._running()
        twin = copy.copy(self)
        twin._driver = driver.fork()
        twin._np_random = copy.deepcopy(self._np_random)
        twin.observation_space, twin.action_space = type(self.observation_space)(), type(self.action_space)()
        if self.syntax is not None:
            twin.tools, twin.gate = self.tools.fork(), None
        return twin

    def screenshot(self) -> bytes | None:
        """The screen as PNG; None where the backend has no picture."""
        return self._running()[1].backend.screenshot()

    def close(self) -> None:
        if self._driver is not None:
            self._driver.backend.close()
            self._driver = None

    def _read(self, action: str, driver: Driver) -> tuple[str, str | None, dict[str, Any]]:
        """Play an action: the observation, the answer that ends the episode, and what info says of the turn."""
        if self.syntax is not None:
            return self._called(self.syntax.parse(action), driver)
        try:
            command = self._parse(action)
            if command.name == "done":
                return OVER, command.text, {}
            return driver.do(command), None, {}
        except (Unreadable, Impossible) as refusal:
            return str(refusal), None, {"error": str(refusal)}

    def _called(self, parsed: Parsed, driver: Driver) -> tuple[str, str | None, dict[str, Any]]:
        """Play an action that is written in a tool syntax."""
        assert self.syntax is not None
        if parsed.answer is not None:
            return OVER, parsed.answer, {}
        error = parsed.error or (None if parsed.calls else NO_CALL)
        if len(parsed.calls) > self.max_calls:
            error = f"{len(parsed.calls)} calls in one action; at most {self.max_calls} are allowed"
        if error is not None:
            return f"Not understood: {error}. {self.syntax.hint}", None, {"error": error}
        with acting(driver):
            results = self.tools.call_all(parsed.calls, gate=self.gate)
        more: dict[str, Any] = {"tool_calls": results}
        if wrong := [call.error for call in results if call.error is not None and call.status != "refused"]:
            more["error"] = wrong[0]
        return "\n".join(map(self.syntax.render_result, results)), None, more

    def _written(self, command: Command) -> str:
        """A command as the agent writes it."""
        if self.syntax is None:
            return self._write(command)
        if command.name == "done":
            return self.syntax.render(answer=command.text or "done")
        return self.syntax.render([as_call(command)])

    def _info(self, task: Task, driver: Driver) -> dict[str, Any]:
        ends = [str(commands.done(text)) for text in task.texts] if task.answer else ["done"]
        actions = possible(driver.now, task.texts) + ends
        if self.syntax is not None or self._refer == "name":
            actions = [self._written(commands.parse(action)) for action in actions]
        info: dict[str, Any] = {"screenshot": driver.backend.screenshot()} if self._screenshots else {}
        return info | {
            "task_id": task.task_id,
            "anchor": driver.backend.anchor(),
            "admissible": actions,
            "family": task.family,
            "columns": {"expert_steps": self.expert_steps},
        }

    def _called_so(self, backend: Backend) -> Backend:
        """The backend with its elements called as they are to be."""
        return NamedBackend(backend) if self._refer == "name" else backend

    def _running(self) -> tuple[Task, Driver]:
        if self._driver is None or self._task is None:
            raise ResetNeeded("no episode is running: call reset() first")
        return self._task, self._driver

    def _asked(self, options: dict[str, Any] | None) -> tuple[str, ...]:
        """The families that the reset options ask for."""
        options = options or {}
        if unknown := sorted(set(options) - {"family"}, key=str):
            raise UsageError(f"reset option {unknown[0]!r} is not known here; the only one is 'family'")
        return (self._family(options["family"]),) if options.get("family") is not None else self.families

    def _family(self, name: object) -> str:
        """The name of a family, or of a template in it."""
        if not isinstance(name, str) or not tasks.named(self.split, name):
            known = tasks.templates(self.split)
            family = str(name).partition("/")[0]
            raise UnknownName("family", str(name), [f"{family}/{kind.name}" for kind in known.get(family, ())] or known)
        return name


def _maker(backend: str, headless: bool) -> Callable[[World], Backend]:
    """What makes the backend of an episode; a browser that is not there is missed now."""
    if backend == "page":
        if not headless:
            raise UsageError("headless=False: only a browser has a window; give backend='chromium' too")
        return PageBackend
    from agentgym.envs.gui.browser import ChromiumBackend

    find_chromium(headless=headless)
    chromium = shared_chromium(headless)
    return lambda world: ChromiumBackend(world, chromium)
