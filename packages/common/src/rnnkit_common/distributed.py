"""A sequence that is cut along time over several processes.

`_distributed.py` in a family is a link to this file, and a copy of it in its wheel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _AllGather(torch.autograd.Function):
    """x of each rank, stacked; its gradient is the sum of what all ranks did with it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        pieces = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size(group))]
        torch.distributed.all_gather(pieces, x.contiguous(), group)
        return torch.stack(pieces)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grad = grad.contiguous()
        torch.distributed.all_reduce(grad, group=ctx.group)
        return grad[torch.distributed.get_rank(ctx.group)], None


def split_scan(scan: Callable[[Tensor], tuple[Tensor, Tensor]], h0: Tensor, group: Any = None) -> tuple[Tensor, Tensor]:
    """A scan whose sequence is cut along time, with one piece on each rank of a process group, in the order of ranks.

    h_last = a h0 + b for each piece and channel: all ranks learn a and b of all pieces, and each then runs its own piece from the state
    that the pieces before it lead to. Every rank must call this, and go backward through it; gradients reach all pieces.

    Args:
        scan: runs this rank's piece from an initial state (B, D) and returns (out, h_last), such as
            `lambda h: mingru_scan(gate, hidden, h)`. It has to be linear in that state, and is called three times.
        h0: the state before the whole sequence, (B, D), the same on all ranks.
        group: of torch.distributed; default: all ranks.

    Returns:
        out of this rank's piece, and the state after the whole sequence (B, D), on all ranks.
    """
    b = scan(torch.zeros_like(h0))[1]
    a = scan(torch.ones_like(h0))[1] - b
    state, mine = h0, h0
    pieces = _AllGather.apply(torch.stack([a, b]), group)  # type: ignore[no-untyped-call]
    for r, (decay, added) in enumerate(pieces):
        if r == torch.distributed.get_rank(group):
            mine = state
        state = decay * state + added
    return scan(mine)[0], state
