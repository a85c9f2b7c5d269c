"""A learner needs episodes and nothing else: those of a file teach the same as those that were just played."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch

from agentgym.errors import UsageError
from agentgym.models.chat_template import ChatTemplate
from agentgym.models.contexts import full_history, window
from agentgym.models.local_policy import ModelPolicy
from agentgym.records import StopReason
from agentgym.store import EpisodeWriter, read_episodes
from agentgym.trainers.parts import get_algorithm
from agentgym.trainers.prefix_tree.tree import TokenTree
from agentgym.trainers.update.answer_probe import AnswerProbes
from agentgym.trainers.update.learner import Learner, OptimizerConfig


def updated(model, tokenizer, algorithm, context, episodes):
    """What an update reports, and the state behind it."""
    probes = AnswerProbes(ChatTemplate(tokenizer), context, algorithm.answer_probe)
    config = OptimizerConfig(lr=1e-2, epochs=2, minibatches=2, max_tokens=200)
    learner = Learner(copy.deepcopy(model), algorithm, config, probes)
    done = learner.update(episodes)
    return done, learner.model.state_dict(), learner.optimizer.state_dict()


@pytest.mark.parametrize("name", ["ppo", "igpo", "gigpo"])
@pytest.mark.parametrize("context", [full_history(repeat_task=True), window(1)], ids=["history", "window"])
def test_episodes_of_a_file_make_the_same_update(small, played, tmp_path, name, context):
    model, tokenizer = small()
    algorithm = get_algorithm(name)()
    policy = ModelPolicy(model, tokenizer, context=context, max_new_tokens=3, max_context=150)
    episodes = [replace(e, answers=("red",)) for e in played(policy)]
    assert {StopReason.TURN_LIMIT, StopReason.CONTEXT_FULL} & {e.stop for e in episodes}
    with EpisodeWriter(tmp_path / "episodes.jsonl.zst") as writer:
        for episode in episodes:
            writer.append(episode)
    stored = list(read_episodes(tmp_path / "episodes.jsonl.zst"))
    assert stored == episodes
    (told, weights, state), (told_2, weights_2, state_2) = (
        updated(model, tokenizer, algorithm, context, found) for found in (episodes, stored)
    )
    assert told == told_2
    assert any(told.advantages.values())
    assert all(torch.equal(value, weights_2[key]) for key, value in weights.items())
    assert repr(state) == repr(state_2)
    assert not all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_an_episode_without_the_context_behind_it_is_refused(small, played):
    model, tokenizer = small()
    policy = ModelPolicy(model, tokenizer, max_new_tokens=3)
    episodes = [replace(e, stop=StopReason.BUDGET, final_context=None) for e in played(policy, groups=1)]
    learner = Learner(model, get_algorithm("ppo")(), OptimizerConfig())
    with pytest.raises(UsageError, match=r"episode 'g0/0' \(budget\) has no final_context; a rollout records it"):
        learner.update(episodes)


def test_the_tree_of_a_minibatch_is_built_once_whatever_the_epochs(small, played, monkeypatch):
    model, tokenizer = small()
    episodes = played(ModelPolicy(model, tokenizer, max_new_tokens=3), groups=3)
    counted = Counter()
    build, batch = TokenTree.__init__, TokenTree._batch

    def built(tree, rows):
        counted["trees"] += 1
        build(tree, rows)

    def cut(tree, rows):
        counted["micro-batches"] += 1
        return batch(tree, rows)

    monkeypatch.setattr(TokenTree, "__init__", built)
    monkeypatch.setattr(TokenTree, "_batch", cut)
    seen = []
    for epochs in (1, 3):
        config = OptimizerConfig(lr=1e-3, epochs=epochs, minibatches=3, max_tokens=40)
        learner = Learner(copy.deepcopy(model), get_algorithm("grpo")(), config)
        counted.clear()
        learner.update(episodes)
        seen.append(dict(counted))
    assert seen[0] == seen[1]
    assert seen[0]["trees"] == 3
    assert seen[0]["micro-batches"] > 3
