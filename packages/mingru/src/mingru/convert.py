"""State dicts of other packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .modules import MinGRU


def convert_state_dict(model: MinGRU, state_dict: dict[str, Any], prefix: str) -> None:
    """Rewrites, in place, a state dict of upstream mingru 1.3.0 or 1.4.x, or of minGRU-pytorch, to this layout."""
    own = model.state_dict()

    def rename(old: str, new: str, permutation: tuple[int, ...] | None = None) -> None:
        for kind in ("weight", "bias"):
            value = state_dict.pop(f"{prefix}{old}.{kind}", None)
            if value is not None and permutation is not None:
                blocks = value.chunk(len(permutation))
                value = torch.cat([blocks[i] for i in permutation])
            if value is not None:
                state_dict[f"{prefix}{new}.{kind}"] = value

    def fill(key: str, make: Callable[..., Tensor], *size: int) -> None:
        """With what it stands for if it is not there, as the other weights are."""
        like = state_dict[f"{prefix}layers.0.gate_hidden.weight"]
        if key in own:
            state_dict.setdefault(prefix + key, make(*size, dtype=like.dtype, device=like.device))

    if f"{prefix}linear_gate_hidden.0.weight" in state_dict:  # mingru 1.3.0
        for i in range(model.num_layers):
            rename(f"linear_gate_hidden.{i}", f"layers.{i}.gate_hidden")
        rename("input_residual_align", "layers.0.res_align")
    elif f"{prefix}to_hidden_and_gate.weight" in state_dict:  # minGRU-pytorch: [hidden, gate], never a bias
        rename("to_hidden_and_gate", "layers.0.gate_hidden", (1, 0))
        fill("layers.0.gate_hidden.bias", torch.zeros, 2 * model.state_size)
    elif f"{prefix}to_hidden_and_f_i_gate.weight" in state_dict:  # its minLSTM: [hidden, f, i]
        rename("to_hidden_and_f_i_gate", "layers.0.gate_hidden", (1, 2, 0))
        fill("layers.0.gate_hidden.bias", torch.zeros, 3 * model.state_size)
    elif all(prefix + key in state_dict for key in own if not key.startswith("layers.0.res_align.")):
        # mingru 1.4.x aligns the first layer without a bias, and only where sizes differ; a part of a dict is not its
        weight = own.get("layers.0.res_align.weight")
        if weight is not None and (weight.shape[0] == weight.shape[1] or prefix + "layers.0.res_align.weight" in state_dict):
            fill("layers.0.res_align.weight", torch.eye, weight.shape[0])
            fill("layers.0.res_align.bias", torch.zeros, weight.shape[0])
