"""No answer makes a scorer raise: an error would take the episode out of the statistics or end the run."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgym import make, registry
from agentgym.envs.code import own
from agentgym.envs.code.judge import same_output
from agentgym.envs.code.scoring import equal, number
from agentgym.envs.search.scoring import exact_match, f1, tokens
from agentgym.envs.tool_env import ToolEnv
from agentgym.errors import MissingExtra
from agentgym.tools.python.tool import unfenced

PIECES = [
    *"0123456789/-+.,%$()[]{}<>eE^_|\\ \t\n\x00×½²①٣−⁄€:'`*\"",
    *("\\frac", "\\dfrac{", "{1}", "\\boxed{", "\\(", "\\]", "**", "```", "1_000", "1,234", "e999", "e-999", "nan"),
    *("\ud800", "\udfff", "\u200b", "\u2028", "\u202e", "\U000e0041", "㊿", "𝟘", "Ⅷ", "⑴", "﷽", "１", "۱", "٬", "the"),
    *("9" * 60, "9" * 101, "9" * 1001, "[" * 2000, " " * 300),
]
hostile = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=9).map("".join))
ACCEPTED = ("5", "1/2", "-3.5 men", "[1, 3.50]", "red", "3.14", "1,234", "½", "")


@given(hostile)
def test_functions_that_compare_an_answer(answer: str) -> None:
    tokens(answer), number(answer), unfenced(answer)
    assert 0.0 <= exact_match(answer, ACCEPTED) <= f1(answer, ACCEPTED) <= 1.0
    for accepted in ACCEPTED:
        assert equal(answer, accepted) in (True, False)
        assert equal(accepted, answer) in (True, False)
        assert same_output(answer, accepted) in (True, False)


def _scoring(env_id: str) -> ToolEnv | None:
    """The environment, if it scores answers."""
    try:
        env = make(env_id).unwrapped
    except MissingExtra as error:
        pytest.skip(str(error))
    return env if isinstance(env, ToolEnv) else None


@pytest.mark.parametrize("env_id", registry.env_ids())
def test_every_environment_scores_every_answer(env_id: str) -> None:
    env = _scoring(env_id)
    if env is None:
        pytest.skip("it scores what was done and no answer")
    try:
        seen = set[str]()
        for seed in range(200):
            env.reset(seed=seed)
            if (kind := str(env.question.data.get("family"))) not in seen and len(seen) < 24:
                seen.add(kind)
                _score_many(env)
    finally:
        env.close()


def _score_many(env: ToolEnv) -> None:
    runs_it = "tests" in env.question.data  # the answer is a program; every one starts an interpreter

    @settings(max_examples=5 if runs_it else 60, suppress_health_check=list(HealthCheck), deadline=None)
    @given(hostile)
    def scored(answer: str) -> None:
        score = env.score(answer)
        assert math.isfinite(score.reward)
        assert score.success in (True, False)

    scored()
    assert math.isfinite(env.score(None).reward)


@pytest.mark.parametrize("env_id", registry.env_ids())
@pytest.mark.parametrize("answer", ["/5", "-/5", "5/0", "\ud800/5", "9" * 5000, "1e999", "\x00", "[" * 20_000])
def test_an_odd_answer_ends_the_episode_as_a_failure(env_id: str, answer: str) -> None:
    env = _scoring(env_id)
    if env is None:
        pytest.skip("it scores what was done and no answer")
    try:
        env.reset(seed=0)
        _, reward, terminated, _, info = env.step(env.syntax.render(answer=answer))
    finally:
        env.close()
    assert (reward, terminated, info["success"]) == (0.0, True, False)


def test_a_users_own_task_scores_every_answer(tmp_path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"question": "What is 1/2 + 1/3?", "answers": ["5/6", "10/12, or so", "/", "-/5", "%"]}\n')
    (question,) = [q for questions in own.read_tasks(str(file)).values() for q in questions]

    @given(hostile)
    def scored(answer: str) -> None:
        assert all(equal(answer, accepted) in (True, False) for accepted in question.answers)

    scored()
