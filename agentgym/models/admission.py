"""Does a model sample, and score, as it computes? Asked before anything is played, at the model's own likely tokens.

Three ways must give the same log-probabilities: the engine with its kept keys and values, the prefix tree, and the
model's ordinary forward pass. How near depends on the numbers that the model computes in; at unlikely tokens rounding
weighs more than it ever does in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from agentgym import keyed_random
from agentgym.errors import UsageError
from agentgym.models.attention import evaluating, longest_context, unwrapped
from agentgym.models.engines.local import Engine, Generation, TokenSampling

#: Largest mean difference in nats a token. In bfloat16 a 135M chat model differs from itself by 0.02 to 0.06, because
#: kernels for one row and for many round otherwise; attention that is wrong by 5 % makes it 0.16 (docs/results.md).
LIMITS = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.1}

_LIKELY = TokenSampling(temperature=1.0, top_p=0.7)


#: Token sequences, each with the positions whose log-probability is wanted -> log-probabilities, in that order.
ScoreTexts: TypeAlias = Callable[[Sequence[tuple[list[int], range]]], Tensor]


class Differences(NamedTuple):
    """Absolute differences of log-probabilities from those of ordinary forward passes, in nats, [tokens].

    Attributes:
        engine: of what was sampled.
        tree: of the prefix tree; None where it was not asked.
        logprob: of the forward passes themselves.
    """

    engine: Tensor
    tree: Tensor | None
    logprob: Tensor


def compare(model: Any, score: ScoreTexts | None = None, tokens: int = 12) -> Differences:
    """Let a model write something, and look at it in every way that it will be looked at.

    It writes from a single token on; a second episode branches off in the middle, and the first one goes on after a few
    tokens that it did not write, on kept keys and values.

    Args:
        score: scores them as training does.
        tokens: to write in the first turn.
    """
    written = _written(model, tokens)
    texts = [([*g.context, *g.action], range(len(g.context), len(g.context) + len(g.action))) for g in written]
    with torch.no_grad(), evaluating(model):
        plain = torch.cat([_plain(model, *text) for text in texts])
        tree = None if score is None else (score(texts).double().cpu() - plain).abs()
    sampled = torch.tensor([logprob for g in written for logprob in g.logprobs], dtype=torch.float64)
    return Differences((sampled - plain).abs(), tree, plain)


def admit(model: Any, score: ScoreTexts | None = None) -> None:
    """Refuse a model that is not sampled, or not scored, as it computes.

    Raises:
        UsageError: it differs, or cannot be computed so at all.
    """
    name = type(unwrapped(model)).__name__
    try:
        found = compare(model, score)
    except UsageError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise UsageError(f"{name} cannot be computed here: {type(error).__name__}: {first}") from error
    limit = LIMITS[unwrapped(model).dtype]
    for what, differences in (("sampling", found.engine), ("the prefix tree", found.tree)):
        if differences is not None and not float(differences.mean()) <= limit:
            raise UsageError(
                f"{name}: log-probabilities of {what} and of ordinary forward passes differ by "
                f"{float(differences.mean()):.3g} nats a token (at most {limit:g} in {unwrapped(model).dtype}); "
                "it computes something that is not known here, so it cannot be used"
            )


def _written(model: Any, tokens: int) -> list[Generation]:
    config = unwrapped(model).config.get_text_config()
    first = max(1, min(tokens, (longest_context(unwrapped(model)) - 1) // 3))
    half = first // 2
    start = next(
        i for i in (config.bos_token_id, config.eos_token_id, 0) if isinstance(i, int) and i < config.vocab_size
    )
    engine = Engine(model, ())
    with evaluating(model):
        kv_slot, branch = engine.open(), engine.open()
        whole = _generated(engine, kv_slot, [start], first)
        engine.copy(kv_slot, branch, half)
        other = _generated(engine, branch, [start, *whole.action[:half]], first - half)
        later = _generated(engine, kv_slot, [start, *whole.action, *other.action[:2]], half + 1)
    return [whole, other, later]


def _generated(engine: Engine, kv_slot: int, context: list[int], tokens: int) -> Generation:
    done = engine.submit(kv_slot, context, keyed_random.key("admission", len(context), kv_slot), tokens, _LIKELY)
    while engine.busy:
        engine.step()
    return done


def _plain(model: Any, tokens: list[int], scored: range) -> Tensor:
    ids = torch.tensor(tokens, device=model.device)
    logits = model(input_ids=ids[None], use_cache=False).logits[0]
    exact = torch.log_softmax(logits.double(), -1).cpu()
    at = torch.tensor(scored)
    return exact[at - 1, ids.cpu()[at]]
