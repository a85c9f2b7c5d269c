"""Attention by a plan, in Transformers' attention interface; here the plan of rows on kept keys and values.

A plan, handed through the model as an option of its call, says what each query sees; every layer adds its own sliding
window. Calls without a plan go on to Transformers' SDPA function unchanged, so a model set to this attention generates
as before; gradient checkpointing, which calls it again in backward, finds the same plan.
"""

from __future__ import annotations

from typing import Any, Protocol

from agentgym.errors import MissingExtra, UsageError

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise MissingExtra("torch", "train") from error


#: Names of the attention functions in Transformers' registry: ours, and the one that :func:`_survey` uses for a moment.
ATTENTION, _SURVEY = "agentgym", "agentgym_survey"


class Plan(Protocol):
    """What each query sees."""

    def attend(
        self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, window: int | None, options: Any
    ) -> Tensor:
        """One layer's attention: query [B, H, N, D], key and value [B, G, K, D] -> [B, N, H, D].

        Args:
            window: a query sees so many last keys, its own among them; None: all.
            options: ``scaling``, and whatever else Transformers hands to an attention function.
        """


class CachePlan:
    """Rows on kept keys and values: a query sees the keys up to its own position.

    Args:
        positions: of each query, [B, N].
        read: how many keys there are, from position 0 on.
    """

    def __init__(self, positions: Tensor, read: int) -> None:
        self._behind = positions[:, :, None] - torch.arange(read, device=positions.device)  # keys to go back
        self._masks: dict[int | None, Tensor] = {}

    def mask(self, window: int | None) -> Tensor:
        """What is seen, [B, 1, N, K]."""
        if window not in self._masks:
            seen = self._behind >= 0
            if window is not None:
                seen &= self._behind < window
            self._masks[window] = seen[:, None]
        return self._masks[window]

    def attend(
        self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, window: int | None, options: Any
    ) -> Tensor:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output: Tensor = sdpa_attention_forward(module, query, key, value, self.mask(window), **options)[0]
        return output


def planned_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Transformers' attention interface: query [B, H, N, D], key and value [B, G, K, D] -> [B, N, H, D]."""
    plan: Plan | None = options.pop("plan", None)
    if plan is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        ordinary: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return ordinary
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise UsageError(f"{type(module).__name__} uses {name} in its attention, which cannot be computed here")
    window = options.pop("sliding_window", None) or None
    return plan.attend(module, query, key, value, window, options), None


def install(model: Any) -> None:
    """Set the model's attention to :func:`planned_attention`, after a look at what its layers see.

    Raises:
        UsageError: a model whose layers cannot be computed so.
    """
    try:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    except ImportError as error:
        raise MissingExtra("transformers", "train") from error
    model = unwrapped(model)
    if model.config._attn_implementation == ATTENTION:
        return
    if model.config._attn_implementation != "sdpa":
        raise UsageError(
            f"{type(model).__name__} has attn_implementation={model.config._attn_implementation!r}; generation and the "
            'prefix tree compute attention by SDPA: load the model with attn_implementation="sdpa", if it has that'
        )
    AttentionInterface.register(ATTENTION, planned_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    AttentionInterface.register(_SURVEY, _surveyed)
    AttentionMaskInterface.register(_SURVEY, _told_width)
    model.set_attn_implementation(_SURVEY)
    try:
        _survey(model)
    finally:
        model.set_attn_implementation("sdpa")
    model.set_attn_implementation(ATTENTION)


def unwrapped(model: Any) -> Any:
    """The Transformers model inside a PEFT model, adapters included.

    Raises:
        UsageError: adapters that put tokens of their own before every row.
    """
    configs = getattr(model, "peft_config", None)
    if configs is None or not hasattr(model, "get_base_model"):
        return model
    for config in configs.values():
        if config.is_prompt_learning:
            raise UsageError(
                f"{type(config).__name__} puts virtual tokens before every row; use LoRA or another adapter"
            )
    return model.get_base_model()


def longest_context(model: Any) -> int:
    """How many tokens a model can see, as far as it computes a context in the same way whatever its length.

    LongRoPE turns all positions by other angles as soon as one context in the batch is longer than those of the first
    training; then kept keys, and rows of a tree, would fit no forward pass of their own.
    """
    config = model.config.get_text_config()
    limits = [int(getattr(config, "max_position_embeddings", None) or 1 << 20)]
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *ropes.values()):
        if isinstance(rope, dict) and rope.get("rope_type") == "longrope":
            limits.append(int(rope.get("original_max_position_embeddings") or limits[0]))
    return min(limits)


def _survey(model: Any) -> None:
    """Refuse a model that masks a layer in a way which that layer's attention is not told.

    A plan knows of a layer what the attention function is given, its ``sliding_window``. In a forward pass of one token
    the masks that Transformers makes are numbers instead, the width of what is seen, and both are compared.
    """
    seen: list[tuple[str, int, int]] = []
    device = model.get_input_embeddings().weight.device
    ids = torch.zeros(1, 1, dtype=torch.long, device=device)
    with torch.no_grad(), evaluating(model):
        model(input_ids=ids, use_cache=False, survey=seen)
    layers = model.config.get_text_config().num_hidden_layers
    if len(seen) < layers:
        raise UsageError(
            f"{type(model).__name__}: {len(seen)} of {layers} layers compute attention through Transformers' attention "
            "interface; with other layers (recurrent, linear, their own attention) it cannot be used here"
        )
    for layer, told, masked in seen:
        if told != masked:
            width = f"a window of {masked} tokens" if masked else "everything"
            raise UsageError(
                f"{type(model).__name__}: {layer} sees {width} by its mask, but its attention is told "
                f"{told or 'no window'}; it would be sampled and trained without its window, so it cannot be used here"
            )


def _surveyed(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    masked = 0
    if attention_mask is not None and attention_mask.dtype == torch.int64:  # else the model made it by itself
        masked = int(attention_mask.flatten()[0])
    seen: list[tuple[str, int, int]] = options.get("survey", [])  # a model may keep its options to itself
    layer = f"layer {getattr(module, 'layer_idx', len(seen))}"
    seen.append((layer, int(options.get("sliding_window") or 0), masked))
    rows, heads, tokens, _ = query.shape
    return value.new_zeros(rows, tokens, heads, value.shape[3]), None


def _told_width(
    batch_size: int, q_length: int, kv_length: int, *_: Any, local_size: int | None = None, **options: Any
) -> Tensor:
    shape = (batch_size, 1, q_length, kv_length)
    return torch.full(shape, local_size or 0, dtype=torch.int64, device=options.get("device"))


class evaluating:  # noqa: N801
    """A model in evaluation mode for a while."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._training = [m for m in self._model.modules() if m.training]
        self._model.eval()

    def __exit__(self, *_: object) -> None:
        for module in self._training:
            module.training = True
