"""Run a prefix tree through a Hugging Face causal language model: log-probability, entropy and value per scored token.

The model computes one flat sequence of nodes, with :mod:`agentgym.models.attention` in place of its own attention.
Logits exist only at nodes that predict something, and only a chunk of them at a time where the vocabulary is large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from agentgym.errors import MissingExtra, UsageError
from agentgym.models.admission import admit
from agentgym.models.attention import evaluating, install, unwrapped
from agentgym.trainers.prefix_tree.attention import TreePlan
from agentgym.trainers.prefix_tree.blocks import MicroBatch
from agentgym.trainers.prefix_tree.tree import Row, TokenTree

try:
    import torch
    from torch import Tensor
    from torch.utils.checkpoint import checkpoint
except ImportError as error:
    raise MissingExtra("torch", "train") from error


class Scores(NamedTuple):
    """What a model says about the scored tokens of a micro-batch, each [S] in the order of ``MicroBatch.scored``.

    Attributes:
        logprob: natural log of the token's probability given everything before it.
        entropy: entropy in nats of the distribution it was drawn from; None unless asked for.
            A token with choices was drawn among these only: both are those of the model's distribution over them.
        value: what ``values`` made of the hidden state that predicts it; None unless asked for.
    """

    logprob: Tensor
    entropy: Tensor | None
    value: Tensor | None


class Scorer:
    """A causal language model that scores micro-batches of a prefix tree.

    On construction the model's attention is set to the tree's (ordinary calls and ``generate`` go on to SDPA as before)
    and the model is probed: one whose logits are not its head applied to the decoder's output (soft-capped, scaled) is
    run through its own ``forward``; one that is not scored, or not sampled, as it computes is refused.

    Args:
        model: a Transformers causal language model, or a PEFT model around one, with ``attn_implementation="sdpa"``.
        chunk_logits: more logits than this in a micro-batch are computed in chunks, and again in backward.
        probe: compare it with sampling and ordinary forward passes; False for a copy of a model that was.

    Raises:
        UsageError: the model cannot be scored as a tree; the message says why.
    """

    def __init__(self, model: Any, *, chunk_logits: int = 1 << 26, probe: bool = True) -> None:
        self.model = unwrapped(model)
        self.chunk_logits = chunk_logits
        self._head = self.model.get_output_embeddings()
        self._decoder = self.model.get_decoder()
        if self._head is None or self._decoder is self.model:
            raise UsageError(f"{type(self.model).__name__} has no decoder and head apart; give a causal language model")
        install(self.model)
        self._direct = _logits_are_head_output(self.model, self._decoder, self._head)
        if probe:
            admit(model, self._score_texts)

    def score(
        self,
        batch: MicroBatch,
        *,
        entropy: bool = False,
        values: Callable[[Tensor], Tensor] | None = None,
        temperature: float = 1.0,
    ) -> Scores:
        """Log-probabilities of a micro-batch's scored tokens, with gradient unless under ``torch.no_grad()``.

        Args:
            batch: from :meth:`TokenTree.batches`.
            entropy: also the entropy of the full distribution (with gradient).
            values: a value head: hidden states [P, H] -> [P] or [P, 1], read where the token is predicted.
            temperature: logits are divided by it; > 0.

        Returns:
            One entry per scored token; equal tokens after equal prefixes share value and graph.

        Raises:
            UsageError: ``temperature`` <= 0.
        """
        if not temperature > 0:
            raise UsageError(f"temperature={temperature} must be > 0; 1.0 scores the model's own distribution")
        device = self._head.weight.device
        parents, pair_parent, pair_token, pairs = (
            torch.from_numpy(x).to(device) for x in (batch.parents, batch.pair_parent, batch.pair_token, batch.pairs)
        )
        choices = None if batch.pair_choices is None else torch.from_numpy(batch.pair_choices).to(device)
        hidden, logits = self._forward(batch, parents)
        if logits is None:
            logprob, entropies = self._in_chunks(hidden, pair_parent, pair_token, choices, entropy, temperature)
        else:
            logprob, entropies = _token_logprobs(logits, pair_parent, pair_token, choices, entropy, temperature)
        return Scores(
            logprob=logprob[pairs],
            entropy=entropies[pairs] if entropy else None,
            value=None if values is None else values(hidden).reshape(len(parents))[pair_parent[pairs]],
        )

    def _score_texts(self, texts: Sequence[tuple[list[int], range]]) -> Tensor:
        """Log-probabilities for :func:`~agentgym.models.admission.admit`, all texts in one tree."""
        rows = [Row(np.array(tokens), np.array(scored)) for tokens, scored in texts]
        (batch,) = TokenTree.build(rows).batches()
        return self.score(batch).logprob

    def _forward(self, batch: MicroBatch, parents: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states that the head reads [P, H], and logits [P, V] where the model has to make them itself."""
        device = self._decoder.get_input_embeddings().weight.device
        inputs = {
            "input_ids": torch.from_numpy(batch.tokens)[None].to(device),
            "position_ids": torch.from_numpy(batch.positions)[None].to(device),
            # a mask of four dimensions is handed on as it is, so that none is built; the attention below ignores it
            "attention_mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device),
            "use_cache": False,
            "plan": TreePlan(batch, device),
        }
        if self._direct:
            return self._decoder(**inputs).last_hidden_state.squeeze(0).index_select(0, parents), None
        with _Inputs(self._head) as seen:
            logits = self.model(**inputs, logits_to_keep=parents).logits[0]
        return seen.last[0], logits

    def _in_chunks(
        self,
        hidden: Tensor,
        pair_parent: Tensor,
        pair_token: Tensor,
        pair_choices: Tensor | None,
        entropy: bool,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        def run(hidden: Tensor, parent: Tensor, token: Tensor, choices: Tensor | None) -> tuple[Tensor, Tensor]:
            return _token_logprobs(self._head(hidden), parent, token, choices, entropy, temperature)

        step = max(1, self.chunk_logits // self._head.weight.shape[0])
        if len(hidden) <= step:
            return run(hidden, pair_parent, pair_token, pair_choices)
        logprobs, entropies = [], []
        for start in range(0, len(hidden), step):
            stop = min(start + step, len(hidden))
            low, high = torch.searchsorted(pair_parent, torch.tensor([start, stop], device=pair_parent.device)).tolist()
            choices = None if pair_choices is None else pair_choices[low:high]
            piece = (hidden[start:stop], pair_parent[low:high] - start, pair_token[low:high], choices)
            again = torch.is_grad_enabled() and hidden.requires_grad
            logprob, ent = checkpoint(run, *piece, use_reentrant=False) if again else run(*piece)
            logprobs.append(logprob)
            entropies.append(ent)
        return torch.cat(logprobs), torch.cat(entropies)


def without_dropout(model: Any) -> None:
    """Set the mode of every update and scoring pass: as in generation, nothing is dropped out.

    Log-probabilities are compared with those of sampling; dropout, in the model or in its adapters, would make every
    ratio noise. Layers under gradient checkpointing stay in training mode, which turns it on, unless they themselves
    drop something out.
    """
    model.eval()
    for module in model.modules():
        own = (value for name, value in vars(module).items() if "drop" in name and isinstance(value, float))
        module.training = bool(getattr(module, "gradient_checkpointing", False)) and not any(own)


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(logits)[parent, token] and the entropy of each row, keeping nothing of size P x V but the logits.

    With p = softmax(z): d log p_t / dz_j = [j = t] - p_j and dH / dz_j = -p_j (log p_j + H).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, parent: Tensor, token: Tensor, entropy: bool) -> tuple[Tensor, Tensor]:
        total = torch.logsumexp(logits, -1)
        logprob = logits[parent, token] - total[parent]
        entropies = torch.special.entr((logits - total[:, None]).exp_()).sum(-1) if entropy else total.new_empty(0)
        ctx.save_for_backward(logits, total, parent, token, entropies)
        ctx.entropy = entropy
        return logprob, entropies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        by_logprob, by_entropy = grads
        logits, total, parent, token, entropies = ctx.saved_tensors
        p = (logits - total[:, None]).exp_()
        weight = torch.zeros_like(total).index_add_(0, parent, by_logprob)
        if ctx.entropy:
            grad = torch.special.entr(p).mul_(by_entropy[:, None])
            grad.addcmul_(p, (weight + by_entropy * entropies)[:, None], value=-1.0)
        else:
            grad = p.mul_(-weight[:, None])
        grad.index_put_((parent, token), by_logprob, accumulate=True)
        return grad, None, None, None


def _token_logprobs(
    logits: Tensor, parent: Tensor, token: Tensor, choices: Tensor | None, entropy: bool, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability and (if asked for) entropy of each prediction, [U]."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    if choices is None:
        return _free(logits, parent, token, entropy)
    free, drawn = (choices[:, 0] < 0).nonzero()[:, 0], (choices[:, 0] >= 0).nonzero()[:, 0]
    of_free = _free(logits, parent[free], token[free], entropy)
    of_drawn = _among(logits, parent[drawn], token[drawn], choices[drawn])
    order = torch.cat([free, drawn]).argsort()
    logprob = torch.cat([of_free[0], of_drawn[0]])[order]
    return logprob, torch.cat([of_free[1], of_drawn[1]])[order] if entropy else of_free[1]


def _free(logits: Tensor, parent: Tensor, token: Tensor, entropy: bool) -> tuple[Tensor, Tensor]:
    logprob, entropies = _TokenLogprobs.apply(logits, parent, token, entropy)  # type: ignore[no-untyped-call]
    return logprob, entropies[parent] if entropy else entropies


def _among(logits: Tensor, parent: Tensor, token: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of tokens that were drawn among ``choices`` [D, C] (padded with -1) only, [D]."""
    padding = choices < 0
    chosen = logits[parent[:, None], choices.clamp(min=0)].masked_fill(padding, -torch.inf).log_softmax(-1)
    of_token = chosen[torch.arange(len(token), device=token.device), (choices == token[:, None]).int().argmax(-1)]
    # a token that is not among them was never drawn
    of_token = of_token.masked_fill((choices != token[:, None]).all(-1), -torch.inf)
    # where the probability is 0 so is what it adds; its logarithm must not reach the gradient
    finite = chosen.masked_fill(padding, 0.0)
    return of_token, -(finite.exp() * finite).masked_fill(padding, 0.0).sum(-1)


class _Inputs:
    """Remembers what a module was given last, and what it gave back."""

    def __init__(self, module: torch.nn.Module, scale: float = 1.0) -> None:
        self._module, self._scale = module, scale

    def __enter__(self) -> _Inputs:
        self._hooks = [
            self._module.register_forward_pre_hook(lambda _, args: self._given(args[0])),
            self._module.register_forward_hook(lambda _, __, output: self._made(output)),
        ]
        return self

    def _given(self, hidden: Tensor) -> tuple[Tensor]:
        self.last = hidden
        return (hidden * self._scale,) if self._scale != 1.0 else (hidden,)

    def _made(self, output: Tensor) -> None:
        self.output = output

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def _logits_are_head_output(model: Any, decoder: Any, head: Any) -> bool:
    """Whether ``model(...).logits`` is ``head(decoder(...))`` and nothing more, at logits of any size.

    The head's input is enlarged until logits are near 100, where soft-capping shows even in an untrained model.
    """
    device = decoder.get_input_embeddings().weight.device
    ids = (torch.arange(1, 13, device=device) * 7919 % model.config.get_text_config().vocab_size)[None]
    with torch.no_grad(), evaluating(model):
        with _Inputs(head) as plain:
            model(input_ids=ids, use_cache=False)
        expected = decoder(input_ids=ids, use_cache=False).last_hidden_state
        largest = float(plain.output.abs().max())
        with _Inputs(head, 100.0 / largest if largest else 1.0) as large:
            logits = model(input_ids=ids, use_cache=False).logits
    return torch.equal(plain.last, expected) and torch.equal(large.output.to(logits.dtype), logits)
