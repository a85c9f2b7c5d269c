"""The context behind an episode: asked for where something could follow, before the policy lets go."""

from __future__ import annotations

import pytest

from agentgym.env import TextEnv
from agentgym.policy import Reply, Request, SyncPolicy
from agentgym.records import Episode, Sample, StopReason, Task
from agentgym.rollout import Group, Rollout
from agentgym.store import decode, encode


class Count(TextEnv):
    """Says how many turns there were; ``end`` terminates it, ``break`` breaks it."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn = 0
        return "turn 0", {}

    def step(self, action):
        self.turn += 1
        assert action != "break"
        return f"turn {self.turn}", 0.0, action == "end", False, {}


class Showing(SyncPolicy):
    """Its contexts are the turns' numbers."""

    def __init__(self, action: str, behind: object = None) -> None:
        self.action, self.behind, self.done = action, behind, []

    def submit(self, request: Request) -> Reply:
        stop = {"leave": StopReason.POLICY_STOPPED, "full": StopReason.CONTEXT_FULL}.get(self.action)
        if request.turns and stop is not None:
            return Reply("", stop=stop)
        t = len(request.turns)
        context = range(2 * t)
        sample = Sample.behind(range(max(0, 2 * t - 1)), context, [2 * t])
        return Reply(self.action, sample)

    def context_behind(self, request: Request) -> Sample:
        assert request.episode not in self.done
        if isinstance(self.behind, Exception):
            raise self.behind
        if self.behind is not None:
            return self.behind
        last = 2 * len(request.turns)
        return Sample.behind(range(last - 1), [*range(last), *map(ord, request.observation)], ())

    def release(self, episode: str) -> None:
        self.done.append(episode)


def played(policy: SyncPolicy) -> Episode:
    with Rollout(Count, policy, max_turns=3) as rollout:
        (episode,) = rollout.play([Group("g", Task(0))])
    assert policy.done == ["g/0"]
    return episode


@pytest.mark.parametrize(
    ("action", "stop", "turns"),
    [("on", "turn_limit", 3), ("leave", "policy_stopped", 1), ("full", "context_full", 1)],
)
def test_where_something_could_follow_the_context_is_recorded(action: str, stop: str, turns: int) -> None:
    episode = played(Showing(action))
    assert (str(episode.stop), len(episode.turns)) == (stop, turns)
    assert episode.context_behind() == (*range(2 * turns), *map(ord, f"turn {turns}"))
    assert episode.final_context is not None
    assert episode.final_context.keep == 2 * turns - 1  # all that was stored before
    assert decode(encode(episode)) == episode


@pytest.mark.parametrize(("action", "stop"), [("end", "terminated"), ("break", "action_error")])
def test_behind_an_end_there_is_none(action: str, stop: str) -> None:
    episode = played(Showing(action, AssertionError("nobody asks")))
    assert (str(episode.stop), episode.final_context, episode.context_behind()) == (stop, None, None)


@pytest.mark.parametrize(
    ("behind", "said"),
    [(OSError("gone"), "release: OSError: gone"), ("text", "release: the sample of the reply must be a Sample")],
)
def test_a_policy_that_cannot_say_it_fails_one_episode_and_lets_go(behind: object, said: str) -> None:
    episode = played(Showing("on", behind))
    assert episode.stop is StopReason.POLICY_ERROR
    assert str(episode.failure).startswith(said)


def test_a_policy_without_contexts_records_none() -> None:
    class Plain(Showing):
        context_behind = None  # type: ignore[assignment]

    assert played(Plain("on")).final_context is None
