"""The page model: an agent's hands on a world, in process."""

from __future__ import annotations

from agentgym.envs.gui.commands import Command
from agentgym.envs.gui.snapshot import Snapshot, snapshot
from agentgym.envs.gui.world import World


class WorldBackend:
    """What every backend asks the world itself.

    Args:
        world: what it drives.
    """

    __slots__ = ("_world",)

    def __init__(self, world: World) -> None:
        self._world = world

    def expert(self) -> Command:
        command = self._world.expert()
        return command._replace(element=self._world.ids()[command.element]) if command.element else command

    def anchor(self) -> str:
        return self._world.code()

    def solved(self, answer: str) -> bool:
        return self._world.solved(answer)


class PageBackend(WorldBackend):
    """``backend="page"``."""

    __slots__ = ()

    def snapshot(self) -> Snapshot:
        world = self._world
        rendered = world.render()
        ids, screen = world.ids(), rendered.screen
        zone = rendered.windowed()
        return snapshot(
            screen.title,
            [(ids[widget.key] if widget.key else "", widget) for widget in rendered.shown()],
            dialog=screen.dialog.title if screen.dialog is not None else "",
            up=zone is not None and rendered.top > 0,
            down=zone is not None and rendered.top + zone.window < len(zone.widgets),
            back=bool(world.state.past),
            here=world.here,
            tabs=tuple(world.tabs),
            apps=tuple(world.task.apps),
        )

    def perform(self, command: Command) -> None:
        if command.element:
            key = next(key for key, element in self._world.ids().items() if element == command.element)
            command = Command(command.name, key, command.text)
        self._world.perform(command)

    def screenshot(self) -> None:
        return None

    def fork(self) -> PageBackend:
        return PageBackend(self._world.copy())

    def close(self) -> None:
        return
