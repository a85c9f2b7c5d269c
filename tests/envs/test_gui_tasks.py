"""Tasks of the GUI world: what every template promises, over many numbers."""

from __future__ import annotations

import re
from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym import keyed_random
from agentgym.envs.gui import GUIEnv, tasks
from agentgym.envs.gui.apps import mail, wiki
from agentgym.envs.gui.apps.forms import FORMS
from agentgym.envs.gui.commands import Command, parse
from agentgym.envs.gui.driver import CLOSED, NOTHING
from agentgym.envs.gui.look import COMMON
from agentgym.envs.gui.page import PageBackend
from agentgym.envs.gui.snapshot import impossible, possible, whole
from agentgym.envs.gui.world import HINTS, World
from agentgym.keyed_random import Dice

SPLITS = ("train", "test", "unseen")
KINDS = [kind for family in tasks.templates("unseen").values() for kind in family]
NAMES = [f"{kind.family}/{kind.name}" for kind in KINDS]
every_template = pytest.mark.parametrize("kind", KINDS, ids=NAMES)


def split_for(kind):
    return "unseen" if kind.unseen else "train"


def started(task, monkeypatch, **arguments):
    """An environment in which this task was started; observation and info."""
    monkeypatch.setattr(tasks, "build", lambda split, number, families: task)
    env = GUIEnv(**arguments)
    return env, *env.reset(seed=0)


def finished(world):
    """The world as the expert leaves it, and its last words."""
    for _ in range(tasks.MOST_STEPS):
        command = world.expert()
        if command.name == "done":
            return world, command.text
        world.perform(command)
    raise AssertionError("no end")


def data(world):
    return orjson.dumps({name: s.data for name, s in world.states.items()}, option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_solves_every_task_in_as_many_steps_as_is_said(split):
    env, met = GUIEnv(split=split), set()
    for number in range(300):
        _, info = env.reset(seed=number)
        met.add(info["task_id"].rpartition("/")[0])
        steps, over = 0, False
        while not over:
            action = env.expert()
            assert action in info["admissible"], (info["task_id"], action)
            _, reward, over, truncated, info = env.step(action)
            steps += 1
            assert not truncated
            assert "error" not in info, info
        assert (info["task_id"], reward, info["success"]) == (info["task_id"], 1.0, True)
        assert steps == info["columns"]["expert_steps"]
    known = {f"gui/{split}/{k.family}/{k.name}" for family in tasks.templates(split).values() for k in family}
    assert met == known


def test_there_are_enough_of_them():
    families = tasks.templates("unseen")
    assert len(families) == 9  # eight applications and flows over them
    assert len([k for k in KINDS if not k.unseen]) >= 40
    asked = set()
    for number in range(1500):
        task = tasks.build("train", number)
        asked.add((task.sentence, task.about))
    assert len(asked) > 1200


def test_no_task_is_in_two_splits():
    asked = {split: set() for split in SPLITS}
    for split in SPLITS:
        for number in range(400):
            task = tasks.build(split, number)
            asked[split].add((task.sentence, task.about))
    assert not asked["train"] & asked["test"]


def test_unseen_has_words_and_orders_that_no_other_split_has():
    common = {split: set() for split in SPLITS}
    looks = {split: set() for split in SPLITS}
    for split in SPLITS:
        for number in range(60):
            app = next(iter(tasks.build(split, number).apps.values()))
            common[split] |= {app.say[key] for key in COMMON}
            looks[split].add(app.look.order)
    assert looks == {"train": {0, 1}, "test": {0, 1}, "unseen": {2, 3}}
    assert not common["unseen"] & (common["train"] | common["test"])
    assert common["train"] == common["test"]
    for kind in KINDS:
        for app in tasks.from_template(kind, split_for(kind), 0).apps.values():
            for words in app.words.values():
                assert len(set(words)) == 3


def test_unseen_has_templates_and_longer_flows_that_no_other_split_has():
    held_out = {f"{k.family}/{k.name}" for k in KINDS if k.unseen}
    assert len(held_out) >= 8
    for split in ("train", "test"):
        assert not held_out & {f"{k.family}/{k.name}" for f in tasks.templates(split).values() for k in f}
    longest = dict.fromkeys(SPLITS, 0)
    for kind in KINDS:
        if kind.family == "flow":
            for number in range(5):
                task = tasks.from_template(kind, split_for(kind), number)
                longest[split_for(kind)] = max(
                    longest[split_for(kind)], len(task.apps) * tasks.expert_steps(World(task))
                )
    assert longest["unseen"] > longest["train"]


@every_template
def test_it_can_always_be_made_and_is_never_done_already(kind):
    for number in range(60):
        task = tasks.from_template(kind, split_for(kind), 1000 + number)
        world = World(task)
        assert not world.solved("")
        assert 2 <= tasks.expert_steps(world) <= 25 or task.answer


def test_an_inbox_is_never_empty():
    for number in range(400):
        listed = mail.messages(Dice(f"mail {number}"), 3, [mail.Message("Ada", "keys", "", "Bin")])
        assert any(m.folder == "Inbox" for m in listed)


@every_template
def test_it_is_made_from_its_number_alone(kind):
    split = split_for(kind)
    for number in range(3):
        one, other = (tasks.from_template(kind, split, number) for _ in range(2))
        assert one.sentence == other.sentence
        assert World(one).code() == World(other).code()
        assert whole(PageBackend(World(one)).snapshot()) == whole(PageBackend(World(other)).snapshot())
    sentences = {tasks.from_template(kind, split, number).sentence for number in range(30)}
    assert len(sentences) >= 8


@every_template
def test_what_is_wanted_is_what_the_expert_does_and_nothing_less(kind):
    for number in range(6):
        task = tasks.from_template(kind, split_for(kind), number)
        begin = World(task)
        assert data(begin) == orjson.dumps(dict(task.first), option=orjson.OPT_SORT_KEYS)
        if task.answer:
            assert not begin.solved("")
            assert not begin.solved(task.answer + "x")
            assert task.answer in task.texts
            assert len(task.texts) >= 2
        else:
            assert not begin.solved("")
        world, answer = finished(World(task))
        assert world.solved(answer)
        if task.answer:
            assert data(world) == data(begin)
            assert answer == task.answer


@every_template
def test_damage_beside_the_task_fails_it(kind):
    """Once all is done, whatever else comes to be in the data of any of the applications fails it."""
    damaged = set()
    for number in range(8):
        task = tasks.from_template(kind, split_for(kind), number)
        world, answer = finished(World(task))
        done = data(world)
        for name in task.apps:
            backend = PageBackend(world.copy())
            backend._world.show(name)
            for step in range(400):
                actions = [a for a in possible(backend.snapshot(), task.texts) if "_tab" not in a]
                backend.perform(parse(keyed_random.choice(actions, kind.name, number, name, step)))
                if data(backend._world) != done:
                    assert not backend.solved(answer), (task.task_id, name, step)
                    damaged.add(name)
                    break
                assert backend.solved(answer)
    assert damaged == set(task.apps)


@every_template
def test_the_expert_goes_on_from_wherever_a_stranger_leaves_it(kind, monkeypatch):
    solved = 0
    for number in range(4):
        task = tasks.from_template(kind, split_for(kind), number)
        env, _, info = started(task, monkeypatch, max_turns=60)
        over, turn = False, 0
        while not over:
            action = env.expert()
            assert action in info["admissible"] or action.startswith("type("), (task.task_id, action)
            others = [a for a in info["admissible"] if not a.startswith("done")]
            if turn < 20 and keyed_random.uniform(kind.name, number, turn) < 0.4 and others:
                action = keyed_random.choice(others, kind.name, number, turn, "which")
            _, reward, over, truncated, info = env.step(action)
            assert "error" not in info, (task.task_id, action, info["error"])
            turn += 1
            over = over or truncated
        solved += reward
    assert solved >= 1


@every_template
def test_screens_are_small_and_their_ids_are_a_matter_of_the_state_alone(kind, monkeypatch):
    met = {}
    words = []
    for number in range(3):
        task = tasks.from_template(kind, split_for(kind), number)
        env, observation, info = started(task, monkeypatch, max_turns=12)
        over, turn = False, 0
        while not over:
            now, rendered = env._driver.now, env._driver.backend._world.render()
            widgets = [w for zone in rendered.screen.zones for w in zone.widgets]
            keys = [w.key for w in widgets if w.key]
            assert len(keys) == len(set(keys))
            assert len(rendered.shown()) <= 40
            assert len(set(now.elements)) == len([w for w in rendered.shown() if w.key])
            assert set(now.elements) <= set(HINTS)
            for widget in rendered.shown():
                assert widget.name == " ".join(widget.name.split()) != ""
                assert widget.value is None or widget.value == " ".join(widget.value.split())
                assert widget.options == () or widget.value in widget.options
            shown = whole(now._replace(messages=()))
            assert met.setdefault(info["anchor"], shown) == shown
            words.append(len(re.findall(r"\w+|[^\w\s]|\n", observation)))
            action = keyed_random.choice(info["admissible"], kind.name, number, turn)
            observation, _, over, truncated, info = env.step(action)
            over, turn = over or truncated, turn + 1
    assert sum(words) / len(words) < 150


@every_template
def test_what_is_told_is_what_has_changed(kind, monkeypatch):
    """Whoever applies each observation to what it knew knows the screen."""
    for number in range(3):
        task = tasks.from_template(kind, split_for(kind), number)
        env, observation, info = started(task, monkeypatch, max_turns=15)
        pages = {}
        over, turn = False, 0
        while True:
            now = env._driver.now
            lines = [x for x in observation.splitlines() if not re.match(r"(status|alert|Task:) ", x)]
            first = f"dialog {now.dialog}" if now.dialog else now.title
            if lines and lines[0] == first:
                known = lines[1:]
            else:
                known = pages[first]
                gone = [x.removeprefix("gone: ") for x in lines if x.startswith("gone: ")]
                told = [x for x in lines if x not in (CLOSED, NOTHING) and not x.startswith("gone: ")]
                changed = {x.split(" ")[0]: x for x in told if x.split(" ")[0] in HINTS}
                known = [changed.get(x.split(" ")[0], x) for x in known]
                for x in (y for line in gone for y in re.split(r", (?=\w\w\b(?!\w))|, (?=text |scroll:)", line)):
                    known = [y for y in known if y != x and not y.startswith(x + " ")]
                known += [x for x in told if x not in known]
            assert sorted(known) == sorted(now.lines.values()), (task.task_id, observation)
            pages[first] = list(now.lines.values())
            action = keyed_random.choice(info["admissible"], kind.name, number, turn)
            observation, _, over, truncated, info = env.step(action)
            turn += 1
            if over or truncated:
                break


@every_template
def test_a_copy_goes_its_own_way(kind):
    task = tasks.from_template(kind, split_for(kind), 1)
    world = World(task)
    twin = world.copy()
    before = world.code(), whole(PageBackend(world).snapshot())
    finished(twin)
    assert (world.code(), whole(PageBackend(world).snapshot())) == before
    finished(world)
    assert world.code() == twin.code()


@given(st.integers(0, 10_000), st.lists(st.integers(0, 2**32), max_size=12))
@settings(max_examples=60, deadline=None)
def test_what_is_listed_is_possible_and_what_is_possible_is_done(number, choices):
    task = tasks.build("train", number)
    backend = PageBackend(World(task))
    for choice in choices:
        now = backend.snapshot()
        actions = possible(now, task.texts)
        assert len(actions) == len(set(actions))
        commands = [parse(action) for action in actions]
        assert [str(c) for c in commands] == actions
        assert not any(impossible(now, c) for c in commands)
        for element in set(HINTS[:3]) - set(now.elements):
            assert impossible(now, Command("click", element))
        backend.perform(commands[choice % len(commands)])


def test_names_that_can_be_exchanged_are_no_labels():
    """What is said of a label is not said of a name: exchanged, a task would ask for what is not on the page."""
    sets = tasks.permutable_names()
    names = [name for names in sets for name in names]
    assert len(names) == len(set(names)) > 150
    labels = set()
    for kind in KINDS:
        for app in tasks.from_template(kind, split_for(kind), 0).apps.values():
            labels |= {text for words in (*COMMON.values(), *app.words.values()) for text in words}
    labels |= {text for fields in FORMS.values() for field in fields for text in (field.name, *field.words)}
    labels |= {name for facts in wiki.KINDS.values() for name in facts}
    words = {word.casefold() for label in labels for word in (label, *re.findall(r"\w+", label))}
    assert words & {name.casefold() for name in names} == set()


def test_numbers_go_through_all_templates_in_turn():
    for split in SPLITS:
        kinds = [k for family in tasks.templates(split).values() for k in family]
        met = [tasks.build(split, number) for number in range(len(kinds))]
        assert {task.task_id.rpartition("/")[0] for task in met} == {f"gui/{split}/{k.family}/{k.name}" for k in kinds}
        assert [task.family for task in met[:9]] == sorted(tasks.templates(split))
        assert {tasks.build(split, number, ("wiki",)).family for number in range(9)} == {"wiki"}


def test_a_template_whose_tasks_all_belong_elsewhere_is_told():
    kind = replace(KINDS[0], make=lambda dice, look: KINDS[0].make(Dice("always the same"), look))
    split = "test" if tasks.split_of(kind.make(Dice("any"), tasks.Look(0, 0))) == "train" else "train"
    with pytest.raises(AssertionError, match=f"no task of {kind.family}/{kind.name} belongs to {split}"):
        tasks.from_template(kind, split, 0)
