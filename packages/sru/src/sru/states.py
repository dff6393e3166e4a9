"""The states of a stack of layers, as one tensor and as one for each layer."""

import torch
from torch import Tensor

from ._checks import check_state, check_tensor


def split_states(
    c0: Tensor | None, x: Tensor, layers: int, width: int, directions: int, batch_first: bool
) -> list[Tensor | None]:
    """The initial state of each layer, (B, width), from (layers, B, width) or (layers * directions, B, width / directions)."""
    states: list[Tensor | None] = []
    if c0 is not None:
        check_tensor("c0", c0)
        batch = x.shape[0 if batch_first else 1]
        if directions == 2 and list(c0.shape) == [2 * layers, batch, width // 2]:
            c0 = c0.unflatten(0, [layers, 2]).transpose(1, 2).flatten(2)
        if list(c0.shape) != [layers, batch, width]:
            raise ValueError(f"c0: expected shape {[layers, batch, width]}, got {list(c0.shape)}")
        c0 = check_state(c0, x, [layers, batch, width], "c0")
    for i in range(layers):
        states.append(None if c0 is None else c0[i])
    return states


def join_states(last: list[Tensor], directions: int) -> Tensor:
    """(layers * directions, B, width / directions) from the layers' states (B, width), with the directions side by side."""
    if directions == 1:
        return torch.stack(last)
    by_direction: list[Tensor] = []
    for c in last:
        by_direction.append(c.unflatten(1, [directions, c.shape[1] // directions]).transpose(0, 1))
    return torch.cat(by_direction)
