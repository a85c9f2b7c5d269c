"""Played episodes of the GUI world with every word of what comes back, and its parameters."""

from __future__ import annotations

import pytest
from gymnasium.error import ResetNeeded

from agentgym.budget import Budget, BudgetedEnv
from agentgym.envs.gui import GUIEnv, commands, tasks
from agentgym.envs.gui.apps.settings import Settings, _drawn
from agentgym.envs.gui.commands import Command, Unreadable
from agentgym.envs.gui.look import Look
from agentgym.errors import UnknownName, UsageError
from agentgym.keyed_random import Dice
from agentgym.tools.syntax import syntaxes
from agentgym.tools.syntax.base import Call

SETTINGS = """\
Settings: General
{tab General} tab General (selected)
{tab Privacy} tab Privacy
{tab Notifications} tab Notifications
{tab Display} tab Display
{checkbox Automatic updates} checkbox Automatic updates (checked)
{checkbox Start at login} checkbox Start at login
{checkbox Spell checking} checkbox Spell checking (checked)
{checkbox Offline mode} checkbox Offline mode
{combobox Language} combobox Language: "English" of English, French, German, Spanish
{button Undo} button Undo (disabled)
{button Reset this tab} button Reset this tab
{button Rename device} button Rename device
text Device: Blue phone
Task: In the settings, turn off Sounds."""


class Hands:
    """Plays by names instead of ids, and shows ids as names."""

    def __init__(self, env, observation):
        self.env, self.seen = env, {}
        self.look(observation)

    def look(self, observation):
        for line in observation.splitlines():
            element, _, rest = line.partition(" ")
            if len(element) == 2 and rest:
                name = rest.partition(":")[0].partition(" (")[0].partition(" [")[0]
                self.seen[name] = element
        return observation

    def step(self, action):
        result = self.env.step(self.said(action))
        self.look(result[0])
        return result

    def said(self, action):
        for name, element in sorted(self.seen.items(), key=lambda pair: -len(pair[0])):
            action = action.replace("{" + name + "}", element)
        return action


@pytest.fixture
def start(monkeypatch):
    """Start an episode with a task made by hand."""

    def make(task, **arguments):
        monkeypatch.setattr(tasks, "build", lambda split, number, families: task)
        env = GUIEnv(**arguments)
        observation, info = env.reset(seed=0)
        return Hands(env, observation), observation, info

    return make


def by_hand(app, sentence, goal, answer="", texts=()):
    return tasks.Task(
        sentence,
        {app.name: app},
        lambda world: commands.done(),
        [{app.name: goal}],
        answer=answer,
        texts=texts,
        task_id="gui/train/hand/0",
        family="hand",
        first={app.name: app.data()},
    )


@pytest.fixture
def settings():
    values = dict.fromkeys(_drawn(Dice("any")), False)
    values |= {"Language": "English", "Lock after": "1 hour", "Quiet hours": "at no time", "Theme": "Sand"}
    values |= {"Automatic updates": True, "Spell checking": True, "Sounds": True}
    app = Settings(Look(0, 0), values, "Blue phone")
    goal = app.data()
    goal["values"]["Sounds"] = False
    return by_hand(app, "In the settings, turn off Sounds.", goal)


def check(hands, script):
    """Play ``action -> observation`` pairs, lines of which are joined by " / "."""
    for line in script.strip().splitlines():
        action, expected = line.strip().split(" -> ")
        observation, reward, terminated, truncated, info = hands.step(action)
        assert (action, observation.replace("\n", " / ")) == (action, hands.said(expected))
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert "error" not in info


def test_an_episode(start, settings):
    hands, observation, info = start(settings)
    assert observation == hands.said(SETTINGS)
    assert info["columns"] == {"expert_steps": 1}
    assert info["family"] == "hand"
    check(
        hands,
        """
        select({combobox Language}, "French") -> status Language: French. / {combobox Language} combobox Language: \
"French" of English, French, German, Spanish / {button Undo} button Undo
        click({button Undo}) -> status Language is as before. / {combobox Language} combobox Language: "English" of \
English, French, German, Spanish / {button Undo} button Undo (disabled)
        select({combobox Language}, "English") -> Nothing changed.
        click({button Rename device}) -> dialog Rename device / {textbox Device name} textbox Device name: \
"Blue phone" / {button OK} button OK [Enter] / {button Cancel} button Cancel [Escape]
        type({textbox Device name}, "") -> {textbox Device name} textbox Device name: ""
        press(Enter) -> alert A device needs a name.
        press(Escape) -> The dialog is closed.
        """,
    )
    observation, *_ = hands.step("click({tab Notifications})")
    assert observation.splitlines()[0] == "Settings: Notifications"
    check(
        hands,
        "check({checkbox Sounds}) -> status Sounds is off. / {checkbox Sounds} checkbox Sounds / "
        "{button Undo} button Undo",
    )
    observation, reward, terminated, truncated, info = hands.step("done")
    assert (observation, reward, terminated, truncated) == ("The episode is over.", 1.0, True, False)
    assert info["success"] is True
    with pytest.raises(ResetNeeded):
        hands.step("done")


def test_what_is_not_possible_says_why_and_changes_nothing(start, settings):
    hands, _, info = start(settings)
    how = (
        'Write one of: click(ID), type(ID, "TEXT"), select(ID, "OPTION"), check(ID), press(Enter) or press(Escape), '
        'scroll(down) or scroll(up), back, open_tab(APPLICATION), switch_tab(APPLICATION), done or done("ANSWER").'
    )
    script = f"""
        look around -> Not understood. {how}
        clik(aa) -> There is no action 'clik'. {how}
        click -> Not understood. Write: click(ID).
        click(aa, bb) -> Not understood. Write: click(ID).
        type({{button Undo}}) -> Not understood. Write: type(ID, "TEXT").
        press -> Not understood. Write: press(Enter) or press(Escape).
        back(aa) -> Not understood. Write: back.
        click(nothing) -> There is no element 'nothing' on this screen.
        click({{button Undo}}) -> {{button Undo}} is disabled.
        check({{button Undo}}) -> {{button Undo}} is a button: write click({{button Undo}}).
        click({{combobox Language}}) -> {{combobox Language}} is a combobox: write \
select({{combobox Language}}, "OPTION").
        select({{combobox Language}}, "Latin") -> {{combobox Language}} has no option 'Latin'; it has English, \
French, German, Spanish.
        press(Enter) -> Nothing on this screen answers to the key 'Enter'.
        scroll(left) -> Not understood: scroll(left). Write scroll(down) or scroll(up).
        scroll(up) -> There is nothing to scroll up to.
        back -> There is no page to go back to.
        open_tab(mail) -> There is no application 'mail'; there are: settings.
        open_tab(settings) -> settings is open already.
        switch_tab(settings) -> You are in settings already.
        switch_tab(mail) -> There is no tab 'mail'. There are: settings.
        """
    for line in script.strip().splitlines():
        action, error = line.strip().split(" -> ")
        observation, reward, terminated, _, after = hands.step(action)
        assert (action, observation) == (action, hands.said(error))
        assert (after["error"], reward, terminated) == (observation, 0.0, False)
        assert (after["anchor"], after["admissible"]) == (info["anchor"], info["admissible"])


def test_a_text_that_is_too_long():
    with pytest.raises(Unreadable, match=r"^The text has 201 characters; at most 200 are allowed\.$"):
        commands.parse(f'type(kd, "{"x" * 201}")')
    with pytest.raises(Unreadable, match=r"^Not understood\. Write one of:"):
        commands.parse("click(" + "x" * 1000 + ")")


@pytest.mark.parametrize(
    ("action", "command"),
    [
        ("click(kd)", Command("click", "kd")),
        ("  click ( kd ) \n", Command("click", "kd")),
        ('type(kd, "a, \\"b\\" \\\\ c")', Command("type", "kd", 'a, "b" \\ c')),
        ("type(kd, plain words)", Command("type", "kd", "plain words")),
        ("type(kd, 'one\n  line')", Command("type", "kd", "one line")),
        ('type(kd, "")', Command("type", "kd")),
        ("back()", Command("back")),
        ("back", Command("back")),
        ("done", Command("done")),
        ('done("12 May")', Command("done", "", "12 May")),
        ("done(12 May)", Command("done", "", "12 May")),
    ],
)
def test_actions_are_read_leniently_and_written_one_way(action, command):
    assert commands.parse(action) == command
    assert commands.parse(str(command)) == command


def test_everything_is_shown_each_time_where_that_is_asked_for(start, settings):
    hands, observation, _ = start(settings, observe="full")
    told, *_ = hands.step("select({combobox Language}, 'French')")
    first = observation.rpartition("\n")[0].replace('"English"', '"French"').replace("Undo (disabled)", "Undo")
    title, rest = first.split("\n", 1)
    assert told == f"{title}\nstatus Language: French.\n{rest}"


@pytest.mark.parametrize("damage", ["check({checkbox Offline mode})", 'select({combobox Language}, "French")'])
def test_damage_beside_the_task_fails_it(start, settings, damage):
    hands, *_ = start(settings)
    hands.step(damage)
    hands.step("click({tab Notifications})")
    hands.step("check({checkbox Sounds})")
    assert hands.step("done")[1] == 0.0


def test_damage_that_was_undone_does_not(start, settings):
    hands, *_ = start(settings)
    hands.step("check({checkbox Offline mode})")
    hands.step("click({button Undo})")
    hands.step("click({tab Notifications})")
    hands.step("check({checkbox Sounds})")
    assert hands.step("done")[1] == 1.0


def test_a_question_wants_its_answer_and_no_damage(start, settings):
    app = settings.apps["settings"]
    asked = by_hand(app, "What is the device called?", app.data(), answer="Blue phone", texts=("Blue phone", "Lab"))
    _, _, info = start(asked)
    assert info["admissible"][-2:] == ['done("Blue phone")', 'done("Lab")']
    for first, answer, reward in (
        ("click({tab General})", 'done("blue PHONE")', 1.0),
        ("click({tab General})", 'done("Lab")', 0.0),
        ("click({tab General})", "done", 0.0),
        ("check({checkbox Offline mode})", 'done("Blue phone")', 0.0),
    ):
        hands, *_ = start(asked)
        hands.step(first)
        assert (first, answer, hands.step(answer)[1]) == (first, answer, reward)


def test_an_episode_that_is_not_ended_is_truncated(start, settings):
    hands, *_ = start(settings, max_turns=2)
    assert hands.step("back")[2:4] == (False, False)
    _, reward, terminated, truncated, info = hands.step("click({tab Display})")
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)


# ---- tool syntaxes


def test_as_tool_calls(start, settings):
    hands, _, info = start(settings, syntax="hermes")
    env = hands.env
    element = hands.seen["combobox Language"]

    def said(*calls):
        return env.syntax.render([Call(name, arguments) for name, arguments in calls])

    assert said(("select", {"id": element, "option": "French"})) in info["admissible"]
    french = ("select", {"id": element, "option": "French"})
    undo = ("click", {"id": hands.seen["button Undo"]})
    observation, *_, info = env.step(said(french, undo, undo))
    undone = hands.seen["button Undo"]
    assert observation == (
        "<tool_response>\nstatus Language: French.\n"
        f'{element} combobox Language: "French" of English, French, German, Spanish\n{undone} button Undo\n'
        "</tool_response>\n<tool_response>\nstatus Language is as before.\n"
        f'{element} combobox Language: "English" of English, French, German, Spanish\n'
        f"{undone} button Undo (disabled)\n</tool_response>\n"
        f"<tool_response>\nerror: {undone} is disabled.\n</tool_response>"
    )
    assert [call.name for call in info["tool_calls"]] == ["select", "click", "click"]
    assert info["error"] == f"{undone} is disabled."
    assert env.tools.tally["click"].calls == 2
    observation, *_, info = env.step(said(*[undo] * 9))
    assert info["error"] == "9 calls in one action; at most 8 are allowed"
    observation, *_, info = env.step("hm")
    assert info["error"] == "neither a tool call nor an answer"
    assert observation == f"Not understood: neither a tool call nor an answer. {env.syntax.hint}"
    observation, *_, info = env.step(said(("clik", {"id": element})))
    assert "did you mean 'click'" in info["error"]
    assert env.step("<answer>I have done it.</answer>")[2:4] == (True, False)


@pytest.mark.parametrize("syntax", syntaxes())
def test_the_expert_solves_tasks_in_every_syntax(syntax):
    env = GUIEnv(syntax=syntax)
    for seed in range(12):
        env.reset(seed=seed)
        over = False
        while not over:
            _, reward, over, truncated, info = env.step(env.expert())
            assert "error" not in info
            assert not truncated
        assert reward == 1.0


def test_a_budget_refuses_calls():
    env = BudgetedEnv(GUIEnv(syntax="tags"), Budget(tool_calls=1))
    for seed in range(20):
        env.reset(seed=seed)
        if env.unwrapped.expert_steps > 2:
            break
    *_, info = env.step(env.unwrapped.expert())
    assert info["budget"] == {"tool_calls": 0}
    anchor = info["anchor"]
    *_, info = env.step(env.unwrapped.expert())
    assert info["tool_calls"][0].error.startswith("refused: ")
    assert "error" not in info
    assert info["anchor"] == anchor


def test_plain_text_has_no_calls_to_limit():
    with pytest.raises(UsageError, match="has no tools, so tool calls cannot be limited"):
        BudgetedEnv(GUIEnv(), Budget(tool_calls=1))


# ---- parameters


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_turns": 0}, "max_turns=0: give a positive integer, e.g. 30"),
        ({"max_calls": True}, "max_calls=True: give a positive integer, e.g. 30"),
        ({"backend": "firefox"}, "unknown backend 'firefox'"),
        ({"observe": "dif"}, "unknown observe 'dif'; did you mean 'diff'?"),
        ({"syntax": "hermit"}, "unknown syntax 'hermit'; did you mean 'hermes'?"),
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"families": ["mial"]}, "unknown family 'mial'; did you mean 'mail'?"),
        ({"families": ["mail/sta"]}, "unknown family 'mail/sta'; did you mean 'mail/star'"),
    ],
)
def test_arguments_that_are_refused(arguments, error):
    with pytest.raises(UsageError) as refusal:
        GUIEnv(**arguments)
    assert str(refusal.value).startswith(error)


def test_options_that_are_refused():
    with pytest.raises(UnknownName, match=r"unknown family 'setting'; did you mean 'settings'\?"):
        GUIEnv().reset(seed=0, options={"family": "setting"})
    with pytest.raises(UsageError, match="reset option 'task' is not known here; the only one is 'family'"):
        GUIEnv().reset(seed=0, options={"task": 1})


@pytest.mark.parametrize("family", tasks.templates("train"))
def test_a_family_can_be_asked_for(family):
    env = GUIEnv()
    for seed in range(3):
        _, info = env.reset(seed=seed, options={"family": family})
        assert info["family"] == info["task_id"].split("/")[2] == family


def test_only_some_families_can_be_played():
    env = GUIEnv(families=["wiki", "mail"])
    assert [env.reset(seed=seed)[1]["family"] for seed in range(4)] == ["wiki", "mail", "wiki", "mail"]
    assert env.reset(seed=0, options={"family": "shop"})[1]["family"] == "shop"
    assert env.fingerprint != GUIEnv(families=["wiki"]).fingerprint


@pytest.mark.parametrize("split", ["train", "test", "unseen"])
def test_one_template_of_a_family_can_be_played(split):
    def begins(env, **options):
        return ["/".join(env.reset(seed=s, options=options)[1]["task_id"].split("/")[2:4]) for s in range(3)]

    env = GUIEnv(split=split, families=["mail/star", "wiki/erase"])
    assert begins(env) == ["mail/star", "wiki/erase", "mail/star"]
    assert begins(env, family="forms/ask") == ["forms/ask"] * 3


def test_a_template_that_only_unseen_has_is_refused_elsewhere():
    assert GUIEnv(split="unseen", families=["mail/clear"]).reset(seed=0)[1]["family"] == "mail"
    with pytest.raises(UnknownName, match="unknown family 'mail/clear'"):
        GUIEnv(split="train", families=["mail/clear"])


def test_a_fork_counts_its_own_calls():
    env = GUIEnv(syntax="tags")
    env.reset(seed=3)
    env.step(env.expert())
    env.gate = lambda call: "no more"
    twin = env.fork()
    assert twin.gate is None
    before = env.tools.ran
    twin.step(twin.expert())
    assert (env.tools.ran, twin.tools.ran) == (before, before + 1)
