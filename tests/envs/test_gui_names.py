"""Elements that are called by their names: what is read, what is written, what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agentgym.check import check_env
from agentgym.envs.gui import GUIEnv, names, tasks
from agentgym.envs.gui.commands import Command, Unreadable, parse
from agentgym.envs.gui.names import NamedBackend
from agentgym.envs.gui.snapshot import Snapshot, snapshot
from agentgym.envs.gui.widgets import Widget
from agentgym.errors import UnknownName
from agentgym.tools.syntax import syntaxes

SHOWN = [
    ("kd", Widget("textbox", "Search", value="")),
    ("br", Widget("button", "Search", shortcut="Enter")),
    ("zz", Widget("button", "Search")),
    ("st", Widget("link", "Ada: picnic, unread")),
    ("zj", Widget("checkbox", "song.txt, 73 KB")),
    ("gw", Widget("link", "11:00 Choir, Every week")),
    ("ln", Widget("textbox", "Telephone *", value="", states=("invalid",))),
    ("qd", Widget("link", "x = y")),
    ("mn", Widget("button", ", nothing")),
    ("", Widget("text", "Search")),
]


class Recorded:
    """A backend that shows one screen and writes down what is done."""

    def __init__(self, shown: Sequence[tuple[str, Widget]], expert: Command = Command("back")) -> None:
        self.shown, self.said, self.done = shown, expert, list[Command]()

    def snapshot(self) -> Snapshot:
        return snapshot("Page", self.shown)

    def perform(self, command: Command) -> None:
        self.done.append(command)

    def expert(self) -> Command:
        return self.said


def test_a_name_is_the_first_column_and_the_second_of_one_name_says_so() -> None:
    backend = Recorded(SHOWN)
    named = NamedBackend(backend)  # type: ignore[arg-type]
    now = named.snapshot()
    assert list(now.lines.items()) == [
        ("Search", 'textbox Search: ""'),
        ("Search 2", "Search 2: button Search [Enter]"),
        ("Search 3", "Search 3: button Search"),
        ("Ada", "link Ada: picnic, unread"),
        ("song.txt", "checkbox song.txt, 73 KB"),
        ("11:00 Choir", "link 11:00 Choir, Every week"),
        ("Telephone", 'textbox Telephone *: "" (invalid)'),
        ("x", "link x = y"),
        ("button", "button , nothing"),
        ("text Search", "text Search"),
    ]
    assert [widget.role for widget in now.elements.values()] == [widget.role for key, widget in SHOWN if key]
    for name in now.elements:
        named.perform(Command("click", name))
    named.perform(Command("scroll", "", "down"))
    assert backend.done == [*(Command("click", key) for key, _ in SHOWN if key), Command("scroll", "", "down")]


def test_a_name_that_is_a_line_of_text_is_another_one() -> None:
    named = NamedBackend(Recorded([("", Widget("text", "Ada")), ("kd", Widget("link", "text Ada"))]))  # type: ignore[arg-type]
    assert list(named.snapshot().lines) == ["text Ada", "text Ada 2"]


def test_an_expert_says_the_name() -> None:
    named = NamedBackend(Recorded(SHOWN, Command("type", "ln", "12")))  # type: ignore[arg-type]
    named.snapshot()
    assert named.expert() == Command("type", "Telephone", "12")
    assert NamedBackend(Recorded(SHOWN)).expert() == Command("back")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("click Save 2", Command("click", "Save 2")),
        ("check song.txt", Command("check", "song.txt")),
        ("type Title = Gym = fun", Command("type", "Title", "Gym = fun")),
        ("type Title =", Command("type", "Title", "")),
        ("select Day = Monday", Command("select", "Day", "Monday")),
        ("press Enter", Command("press", "", "Enter")),
        ("scroll down", Command("scroll", "", "down")),
        ("back", Command("back")),
        ("open_tab mail", Command("open_tab", "", "mail")),
        ("switch_tab mail", Command("switch_tab", "", "mail")),
        ("done", Command("done")),
        ("done 30 ha", Command("done", "", "30 ha")),
    ],
)
def test_an_action_is_read_as_it_is_written(text: str, command: Command) -> None:
    assert names.parse(f"  {text.replace(' ', '   ')} ") == command
    assert names.write(command).rstrip() == text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "Not understood. Write one of: click NAME, type NAME = TEXT"),
        ("tap Save", "Not understood. Write one of: click NAME"),
        ("click", "Not understood. Write: click NAME."),
        ("click(kd)", "Not understood. Write one of"),
        ("type Title", "Not understood. Write: type NAME = TEXT."),
        ("select = Monday", "Not understood. Write: select NAME = OPTION."),
        ("back home", "Not understood. Write: back."),
        ("press", "Not understood. Write: press Enter or press Escape."),
        ("scroll", "Not understood. Write: scroll down or scroll up."),
        ("type Title = " + "x" * 201, "The text has 201 characters; at most 200 are allowed."),
    ],
)
def test_any_other_text_is_told_how_one_is_written(text: str, answer: str) -> None:
    with pytest.raises(Unreadable) as refusal:
        names.parse(text)
    assert str(refusal.value).startswith(answer)


def test_a_refusal_recommends_words() -> None:
    env = GUIEnv(refer="name")
    env.reset(seed=0, options={"family": "directory"})
    for action, answer in (
        ("click Search", "Search is a textbox: write type Search = TEXT."),
        ("click Nobody", "There is no element 'Nobody' on this screen."),
        ("scroll left", "Not understood: scroll left. Write scroll down or scroll up."),
    ):
        observation, _, _, _, info = env.step(action)
        assert observation.replace("Find", "Search") == answer
        assert info["error"] == observation


@pytest.mark.parametrize("family", list(tasks.templates("unseen")))
def test_the_expert_solves_tasks_and_its_actions_are_possible(family: str) -> None:
    for split in ("train", "unseen"):
        env, by_id = GUIEnv(split=split, refer="name"), GUIEnv(split=split)
        for number in range(3):
            options = {"family": family}
            _, info = env.reset(seed=number, options=options)
            _, other = by_id.reset(seed=number, options=options)
            over, reward = False, 0.0
            while not over:
                assert info["anchor"] == other["anchor"]
                assert len(info["admissible"]) == len(set(info["admissible"])) == len(other["admissible"])
                action, same = env.expert() or "", by_id.expert() or ""
                assert names.parse(action).text == parse(same).text
                if not action.startswith("done"):
                    assert action in info["admissible"]
                _, reward, over, _, info = env.step(action)
                *_, other = by_id.step(same)
            assert reward == 1.0


def test_as_tool_calls() -> None:
    env = GUIEnv(refer="name", syntax=syntaxes()[0])
    env.reset(seed=1, options={"family": "settings"})
    reward, over = 0.0, False
    while not over:
        _, reward, over, _, _ = env.step(env.expert() or "")
    assert reward == 1.0


def test_a_fork_calls_elements_by_name_too() -> None:
    env = GUIEnv(refer="name")
    env.reset(seed=1, options={"family": "settings"})
    twin = env.fork()
    action = env.expert() or ""
    assert env.step(action) == twin.step(action)
    assert env.expert() == twin.expert()


def test_there_are_no_ids_to_permute() -> None:
    assert GUIEnv(refer="name").permutable_names == GUIEnv().permutable_names[1:] == tasks.permutable_names()
    assert GUIEnv(refer="name").fingerprint != GUIEnv().fingerprint
    assert "id, its role" not in GUIEnv(refer="name").instructions
    assert "click NAME" in GUIEnv(refer="name").instructions


def test_it_keeps_the_contract() -> None:
    check_env("agentgym/GUI-v0", refer="name").raise_on_violation()


def test_another_way_is_refused() -> None:
    with pytest.raises(UnknownName, match="refer"):
        GUIEnv(refer="role")
