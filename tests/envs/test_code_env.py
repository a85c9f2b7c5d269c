"""The code environment as an agent, a trainer and a user of other tasks meet it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentgym.check import check_env as check_contract
from agentgym.env import ReplayWrapper, fork
from agentgym.envs.code import CodeEnv, reasoning
from agentgym.envs.code.judge import passed
from agentgym.envs.code.verifier_client import same_maths
from agentgym.errors import MissingExtra, SandboxUnavailable, UnknownName, UsageError
from agentgym.policy import ExpertPolicy
from agentgym.records import StopReason, Task
from agentgym.rollout import Group, Rollout
from agentgym.tools.python.protocol import Limits
from agentgym.tools.python.tool import failure_of, shared_sandbox

QUICK = Limits(wall=1.0, cpu=1.0, memory=96 << 20, processes=8, file_size=1 << 20, disk=2 << 20, output=4000)


@pytest.fixture(scope="module", autouse=True)
def _sandbox() -> None:
    try:
        shared_sandbox()
    except SandboxUnavailable as error:
        pytest.skip(str(error))


def solved(env: CodeEnv, seed: int) -> tuple[float, bool, int]:
    """The expert's reward, success and turns."""
    env.reset(seed=seed)
    for turn in range(1, env.max_turns + 1):
        action = env.expert()
        assert action is not None
        _, reward, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return reward, info["success"], turn
    raise AssertionError("the episode never ended")


@pytest.mark.filterwarnings("ignore")
def test_gymnasium_accepts_it() -> None:
    check_env(CodeEnv(), skip_render_check=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stateful": False, "families": ("sales", "number_program"), "syntax": "hermes"},
        {"split": "unseen", "level": 5, "penalties": {"exception": 0.1}},
    ],
)
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    check_contract(CodeEnv, seeds=(0, 1), **options).raise_on_violation()


@pytest.mark.parametrize("split", ["train", "test", "unseen"])
@pytest.mark.parametrize("stateful", [True, False])
def test_the_expert_solves_it_by_one_call(split: str, stateful: bool) -> None:
    env = CodeEnv(split=split, level=(1, 3), stateful=stateful)
    assert {solved(env, seed) for seed in range(40)} == {(1.0, True, 2)}
    env.close()


def test_the_expert_gives_up_without_its_tool() -> None:
    env = CodeEnv()
    env.reset(seed=0)
    env.gate = lambda call: "no call is left"
    action = env.expert()
    assert action is not None
    env.step(action)
    assert env.expert() is None


def test_variables_and_files_live_through_an_episode_only() -> None:
    env = CodeEnv(families="sales")
    env.reset(seed=1)
    env.step("<python>rows = open('sales.csv').read().count('\\n')</python>")
    lines = env.question.data["files"]["sales.csv"].count("\n")
    assert env.step("<python>print(rows)</python>")[0] == f"<result>\n{lines}\n</result>"
    env.reset(seed=1)
    assert "NameError" in env.step("<python>print(rows)</python>")[0]
    env.close()


def test_random_numbers_belong_to_the_task() -> None:
    env, other = CodeEnv(), CodeEnv()
    said = "<python>import random\nprint(random.random())</python>"
    drawn = []
    for one, seed in ((env, 0), (other, 0), (env, 0), (env, 1)):
        one.reset(seed=seed)
        drawn.append(one.step(said)[0])
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3]


def met(step: tuple[Any, ...]) -> tuple[Any, ...]:
    """A step's results; the wall-clock times in them do not count in comparisons."""
    return step


STATEFUL = [
    "<python>import random\nx = [random.random()]\nopen('note', 'w').write('a')</python>",
    "<python>x.append(random.randint(0, 99))\nprint(x)\n1 / 0</python>",
    "no call at all",
    "<python>open('note', 'a').write('b')\ndef f(): return len(x), open('note').read()\nf()</python>",
    "<python>import os\nos._exit(1)</python>",
    "<python>print(os.listdir('.'))</python>",
    "<python>y = 5</python>\n<python>y * 2</python>",
    "<answer>42</answer>",
]


@pytest.mark.parametrize("stateful", [True, False])
def test_a_fork_at_every_turn_goes_on_like_a_fresh_replay(stateful: bool) -> None:
    def fresh() -> CodeEnv:
        return CodeEnv(families="log", max_turns=20, stateful=stateful)

    original, replayed = fresh(), fresh()
    original.reset(seed=4)
    for turn in range(len(STATEFUL)):
        twin = fork(original)
        replayed.reset(seed=4)
        for action in STATEFUL[:turn]:
            replayed.step(action)
        for action in STATEFUL[turn:]:
            assert met(twin.step(action)) == met(replayed.step(action))
        assert twin.unwrapped.np_random.random() == replayed.np_random.random()  # type: ignore[attr-defined]
        twin.close()
        original.step(STATEFUL[turn])
    original.close()


def test_a_replay_wrapper_replays_it() -> None:
    gym.register("agentgym-tests/Code-v0", entry_point="agentgym.envs.code:CodeEnv", disable_env_checker=True)
    try:
        env = ReplayWrapper(gym.make("agentgym-tests/Code-v0", families="sales"))
        env.reset(seed=2)
        env.step(STATEFUL[0])
        twin = env.replay()
        assert met(twin.step(STATEFUL[1])) == met(env.step(STATEFUL[1]))
        twin.close()
        env.close()
    finally:
        del gym.registry["agentgym-tests/Code-v0"]


def test_failures_cost_what_was_said() -> None:
    env = CodeEnv(penalties={"timeout": 0.5, "exception": 0.25}, limits=QUICK, max_turns=9)
    env.reset(seed=0)
    rewards = [
        env.step(f"<python>{code}</python>")[1]
        for code in ("1", "1 / 0", "import time\ntime.sleep(9)", "import os\nos._exit(0)")
    ]
    assert rewards == [0.0, -0.25, -0.5, 0.0]
    assert env.step("<python>1 / 0</python>\n<python>y</python>")[1] == -0.5
    assert [str(failure_of(call)) for call in env.calls[1:4]] == ["exception", "timeout", "exited"]
    env.close()


def test_interpreters_end_with_their_episodes() -> None:
    env = CodeEnv()
    env.reset(seed=0)
    env.step("<python>x = 1</python>")
    twin = env.fork()
    assert env.tools._sessions
    env.step("<answer>none</answer>")
    assert not env.tools._sessions
    assert "1" in twin.step("<python>x</python>")[0]
    twin.close()
    assert not twin.tools._sessions


def test_arguments_are_obeyed_or_refused() -> None:
    with pytest.raises(UsageError, match="level must be 1 to 5, or several of them, got 9"):
        CodeEnv(level=9)
    with pytest.raises(UnknownName, match="unknown family 'power'; did you mean 'powers'"):
        CodeEnv(families="power")
    with pytest.raises(UnknownName, match="unknown failure 'timeouts'; did you mean 'timeout'"):
        CodeEnv(penalties={"timeouts": 1.0})
    with pytest.raises(UsageError, match=r"penalties are not negative, got -1.0 for 'timeout'"):
        CodeEnv(penalties={"timeout": -1.0})
    with pytest.raises(UsageError, match="level and families belong to generated tasks"):
        CodeEnv(tasks="x.jsonl", level=1)
    with pytest.raises(UsageError, match=r"no file 'x.jsonl'"):
        CodeEnv(tasks="x.jsonl")
    with pytest.raises(UnknownName, match="unknown sandbox 'dokcer'"):
        CodeEnv(sandbox="dokcer")
    with pytest.raises(SandboxUnavailable, match="--unsafe-local-python"):
        CodeEnv(sandbox="unsafe-local")


def test_fingerprints_differ_where_episodes_may() -> None:
    made = [CodeEnv(), CodeEnv(level=1), CodeEnv(limits=QUICK), CodeEnv(stateful=False), CodeEnv(characters=500)]
    made.append(CodeEnv(penalties={"timeout": 1.0}))
    assert len({env.fingerprint for env in made}) == len(made)
    assert CodeEnv().fingerprint == made[0].fingerprint


def test_many_episodes_at_once_lose_nothing() -> None:
    groups = [Group(f"g{i}", Task(seed=i), size=2) for i in range(8)]
    with Rollout(CodeEnv, ExpertPolicy(), max_concurrent_episodes=8) as rollout:
        episodes = list(rollout.play(groups))
    assert len(episodes) == 16
    assert {(e.stop, e.success) for e in episodes} == {(StopReason.TERMINATED, True)}


# Programs


def program_env(**options: Any) -> CodeEnv:
    env = CodeEnv(families="number_program", **options)
    env.reset(seed=0)
    return env


def test_hidden_tests_stay_hidden() -> None:
    env = program_env()
    observation, info = env.reset(seed=0)
    assert "answers" not in info
    given, expected = env.question.data["tests"][0]
    assert given.strip() not in observation
    looked = env.step("<python>import os\nprint(os.listdir('.'), sorted(globals()))</python>")[0]
    assert expected not in looked
    assert given.strip() not in looked


@pytest.mark.parametrize(
    "program",
    [
        "print('right')",
        "import os\nos._exit(0)",
        "raise SystemExit",
        "1 / 0",
        "",
        "x" * 60_000,
        "while True: pass",
        "class E(str):\n    def __eq__(self, o): return True\nprint(E())",
        "import sys\nsys.stdout.write('passed')\nsys.exit(0)",
    ],
)
def test_wrong_programs_earn_nothing(program: str) -> None:
    env = program_env(limits=QUICK)
    _, reward, terminated, _, info = env.step(f"<answer>{program}</answer>")
    assert (reward, terminated, info["success"]) == (0.0, True, False)


def test_a_right_program_may_stand_in_a_fence() -> None:
    env = program_env()
    _, reward, *_ = env.step(f"<answer>```python\n{env.question.data['program']}\n```</answer>")
    assert reward == 1.0


def test_partial_credit_is_the_share_of_tests() -> None:
    env = program_env(partial_credit=True)
    known = dict(env.question.data["tests"][:2])
    program = f"import sys\nprint({known!r}.get(sys.stdin.read()))"
    _, reward, _, _, info = env.step(f"<answer>{program}</answer>")
    assert (reward, info["success"]) == (pytest.approx(0.4), False)


def test_tests_have_variables_of_their_own_and_survive_a_crash() -> None:
    sandbox = shared_sandbox()
    program = "print('x' in globals(), __name__)\nx = 1"
    assert passed(sandbox, program, [("", "False __main__")] * 3) == 3
    crashing = "import os\nn = input()\nprint(n, flush=True)\nif n == '2': os._exit(0)"
    assert passed(sandbox, crashing, [(n, n) for n in "123"]) == 2
    assert passed(sandbox, crashing, [(n, n) for n in "123"], stop=True) == 1
    assert passed(sandbox, "import sys\nprint(sys.stdin.read())\nsys.exit()", [("é'\"\\\n", "é'\"\\")]) == 1


# Tasks of one's own


def written(folder: Path, *records: dict[str, Any]) -> str:
    path = folder / "tasks.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return str(path)


def test_own_tasks(tmp_path: Path) -> None:
    source = written(
        tmp_path,
        {"question": "6 * 7?", "answer": 42, "split": "train", "id": "a", "program": "print(6 * 7)"},
        {"problem": "Half?", "answers": ["1/2", "one half"], "split": "train"},
        {"prompt": "Double it.", "tests": [{"input": "2\n", "output": "4"}], "split": "dev"},
        {"question": "How many lines?", "answer": "2", "files": {"f.txt": "a\nb\n"}, "split": "train"},
    )
    env = CodeEnv(tasks=source)
    assert (env.splits, env.num_tasks) == (("train", "test"), 3)
    assert env.reset(options={"task": 0})[1]["task_id"] == "a"
    action = env.expert()
    assert action == "<python>print(6 * 7)</python>"
    env.step(action)
    assert env.expert() == "<answer>42</answer>"
    for answer, reward in (("0.5", 1.0), ("One  half", 1.0), ("2", 0.0)):
        env.reset(options={"task": 1})
        assert env.step(f"<answer>{answer}</answer>")[1] == reward
    assert env.expert() is None
    env.reset(options={"task": 2})
    assert "2" in env.step("<python>len(open('f.txt').readlines())</python>")[0]
    test = CodeEnv(tasks=source, split="test")
    test.reset(seed=0)
    assert test.step("<answer>print(2 * int(input()))</answer>")[1] == 1.0
    with pytest.raises(UsageError, match="task must be a number from 0 to 0, got 1"):
        test.reset(options={"task": 1})
    with pytest.raises(UsageError, match="no task in split 'unseen'; it has train, test"):
        CodeEnv(tasks=source, split="unseen")
    check_contract(CodeEnv, seeds=(0,), tasks=source).raise_on_violation()


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"answer": "1"}, "tasks.jsonl:2 has no 'question'"),
        ({"question": "q"}, "must have either 'answer' .* or 'tests'"),
        ({"question": "q", "answer": "1", "tests": []}, "must have either"),
        ({"question": "q", "tests": []}, "'tests' must be a list"),
        ({"question": "q", "tests": [{"in": 1}]}, "a test is {'input': ..., 'output': ...}"),
        ({"question": "q", "answer": "1", "verify": "maths"}, "unknown verify .*did you mean 'math'"),
        (
            {"question": "q", "answer": "1", "split": "tst"},
            "unknown split of tasks.jsonl:2, 'tst'; did you mean 'test'",
        ),
        ({"question": "q", "answer": "1", "files": ["a"]}, "'files' maps relative paths to texts"),
        ({"question": "first", "answer": "1"}, "its question stands twice"),
        ({"question": "q", "answer": "1", "id": "one"}, "the id 'one' stands twice"),
    ],
)
def test_own_tasks_that_are_none(tmp_path: Path, record: dict[str, Any], said: str) -> None:
    first = {"question": "first", "answer": "1", "id": "one"}
    with pytest.raises(UsageError, match=said):
        CodeEnv(tasks=written(tmp_path, first, record))


def test_own_tasks_without_splits_are_divided(tmp_path: Path) -> None:
    source = written(tmp_path, *({"question": f"{i}?", "answer": "1"} for i in range(200)))
    train, test = (CodeEnv(tasks=source, split=split) for split in ("train", "test"))
    assert train.num_tasks is not None
    assert test.num_tasks is not None
    assert train.num_tasks + test.num_tasks == 200
    assert 20 < test.num_tasks < 60


def test_maths_answers(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    source = written(tmp_path, {"question": "Factor?", "answer": "$(x+1)^2$", "verify": "math", "split": "train"})
    env = CodeEnv(tasks=source)
    for answer, reward in (("x^2+2x+1", 1.0), ("$x^2 + 2x + 1$", 1.0), ("x^2+1", 0.0), ("no idea", 0.0)):
        env.reset(seed=0)
        assert env.step(f"<answer>{answer}</answer>")[1] == reward
    assert same_maths("\\frac{1}{2}", "0.5")
    assert not same_maths("2^{2^{2^{2^{2^{9}}}}}", "4")
    assert same_maths("\\sqrt{4}", "2")


# reasoning-gym


def test_reasoning_gym_tasks() -> None:
    pytest.importorskip("reasoning_gym")
    env = CodeEnv(tasks="reasoning-gym:chain_sum,countdown")
    families = set()
    for seed in range(8):
        _, info = env.reset(seed=seed)
        families.add(info["family"])
        _, reward, _, _, info = env.step(f"<answer>{info['answers'][0]}</answer>")
        assert (reward, info["success"]) == (1.0, True)
        env.reset(seed=seed)
        assert env.step("<answer>-1</answer>")[1] < 0.1
    assert families == {"chain_sum", "countdown"}
    assert env.expert() is None
    other = CodeEnv(tasks="reasoning-gym:chain_sum,countdown", split="test")
    texts = [{one.reset(seed=seed)[0] for seed in range(30)} for one in (env, other)]
    assert not texts[0] & texts[1]
    with pytest.raises(UnknownName, match="unknown split 'unseen'"):
        CodeEnv(tasks="reasoning-gym:chain_sum", split="unseen")
    with pytest.raises(UnknownName, match="did you mean 'chain_sum'"):
        CodeEnv(tasks="reasoning-gym:chainsum")


@pytest.mark.parametrize("name", sorted(reasoning.UNSOUND))
def test_generators_whose_verifiers_accept_almost_anything_are_not_offered(name: str) -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(UsageError, match=f"'{name}' is not offered, as its verifier accepts"):
        CodeEnv(tasks=f"reasoning-gym:chain_sum,{name}")
    right = sum(reasoning.verified("0", name, index) >= reasoning.SUCCESS for index in range(20))
    assert right >= 15  # it still does; one that was mended can be offered again
    with pytest.raises(UsageError) as caught:
        CodeEnv(tasks="reasoning-gym:")
    assert name not in str(caught.value)


def test_verifiers_that_evaluate_are_known() -> None:
    pytest.importorskip("reasoning_gym")
    evaluating = {"countdown", "puzzle24", "n_queens", "spiral_matrix", "string_insertion", "simple_integration"}
    assert all(map(reasoning.evaluates, evaluating))
    assert not any(map(reasoning.evaluates, ("chain_sum", "leg_counting", "basic_arithmetic", "codeio")))


@pytest.mark.parametrize(
    "answer",
    [
        "__import__('os').system('id')",
        "\"__import__('os')\"",
        "['__import__(\"os\")']",
        "().__class__",
        "x.y",
        "lambda: 1",
        "'a' * 10**9",
        "9**9**9",
        "9 ** 99 ** 9",
        "9**(9**9)",
        "9**999",
        "open(x)",
        "[x for x in y]",
    ],
)
def test_hostile_answers_are_not_evaluated(answer: str) -> None:
    assert not reasoning.harmless(answer)


@pytest.mark.parametrize("answer", ["(3 + 4) * 2 - 1/5", "[1, 2, 3]", "['A', 'b']", "X**3/3 + 2*sin(X) + C", "4.5"])
def test_plain_answers_are(answer: str) -> None:
    assert reasoning.harmless(answer)


def test_an_evaluated_answer_cannot_act(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    mark = tmp_path / "here"
    for name in ("n_queens", "countdown", "spiral_matrix", "simple_integration"):
        assert reasoning.score(f"open({str(mark)!r}, 'w')", {"name": name, "index": 0}) == 0.0
    assert not mark.exists()


def test_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingExtra, match=r"pip install 'agentgym-turns\[reasoning\]'"):
        CodeEnv(tasks="reasoning-gym:chain_sum")


def test_seeds_from_numpy_are_fine(tmp_path: Path) -> None:
    source = written(tmp_path, *({"question": f"{i}?", "answer": "1", "split": "train"} for i in range(5)))
    env = CodeEnv(tasks=source)
    assert env.reset(options={"task": np.int64(3)})[0] == "3?"
