"""bfloat16 for what is computed, float32 for what is learned.

An update of a pre-trained model moves most weights by less than bfloat16 can tell apart. So every weight that is
trained and computes in less than float32 has a *master* in float32, which gathers its gradients, which the optimiser
moves, and which a checkpoint keeps; after each step the weight is the master, rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from agentgym.models.kinds import Precision

#: Attribute of a weight that has one.
_MASTER = "agentgym_master"


def chosen(precision: Precision, device: str) -> Literal["bfloat16", "float32"]:
    """What ``auto`` is on a device: bfloat16 where it computes that natively, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if _native(torch.device(device)) else "float32"


def compute_in(model: Any, precision: Literal["bfloat16", "float32"]) -> None:
    """Let a float32 model compute in a precision, as one that was loaded in it does.

    Only weights are rounded, never buffers such as the frequencies of rotary positions. Adapters, and what the model
    itself says must stay float32, stay so.
    """
    if precision == "float32":
        return
    adapted = hasattr(model, "peft_config")
    kept = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    for name, weight in model.named_parameters():
        if weight.dtype != torch.float32 or any(part in name for part in kept):
            continue
        if weight.requires_grad and adapted:
            continue
        if weight.requires_grad:
            _give_master(weight)
        weight.data = weight.data.to(torch.bfloat16)


def master(weight: nn.Parameter) -> nn.Parameter:
    """What is learned in a weight's place: the weight itself, unless it computes in less than float32."""
    if weight.dtype not in (torch.bfloat16, torch.float16):
        return weight
    learned: nn.Parameter | None = getattr(weight, _MASTER, None)
    return _give_master(weight) if learned is None else learned


def publish(weights: Iterable[nn.Parameter]) -> None:
    """Round the masters into the weights that compute."""
    with torch.no_grad():
        for weight in weights:
            if (learned := master(weight)) is not weight:
                weight.copy_(learned)


def learned_state(model: Any) -> dict[str, Tensor] | None:
    """The model's state with masters in place of what they are rounded to; None where there are none."""
    masters = {
        name: getattr(weight, _MASTER).detach()
        for name, weight in model.named_parameters(remove_duplicate=False)
        if hasattr(weight, _MASTER)
    }
    return model.state_dict() | masters if masters else None


def _give_master(weight: nn.Parameter) -> nn.Parameter:
    learned = nn.Parameter(weight.data.float())
    setattr(weight, _MASTER, learned)

    def gather(weight: Tensor) -> None:
        """Add a micro-batch's gradient where adding loses nothing."""
        assert weight.grad is not None
        if learned.grad is None:
            learned.grad = weight.grad.float()
        else:
            learned.grad.add_(weight.grad)
        weight.grad = None

    weight.register_post_accumulate_grad_hook(gather)  # type: ignore[no-untyped-call]
    return learned


def _native(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not tell
        return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return False
