"""Dtypes, layouts and planes of a scan's tensors.

`_tensors.py` in a family is a link to this file, and a copy of it in its wheel. TorchScript reads it, hence its plain style.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence


def state_dtype(x: Tensor) -> torch.dtype:
    """The dtype of states for inputs like x: float32, or float64 where x is."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def dropout_mask(like: Tensor, p: float, shape: list[int]) -> Tensor:
    """A mask that is 0 with probability p and else 1 / (1 - p), in the dtype of states."""
    keep = torch.full(shape, 1.0 - p, dtype=state_dtype(like), device=like.device)
    return torch.bernoulli(keep) / (1.0 - p)


def pack_like(like: PackedSequence, out: Tensor, lengths: Tensor, batch_first: bool) -> PackedSequence:
    """out packed as `like` is, whose lengths these are: in the same order, also where lengths are equal."""
    if like.sorted_indices is None:
        return pack_padded_sequence(out, lengths, batch_first)
    ordered = out.index_select(0 if batch_first else 1, like.sorted_indices)
    packed = pack_padded_sequence(ordered, lengths.sort(descending=True)[0], batch_first)
    return PackedSequence(packed.data, packed.batch_sizes, like.sorted_indices, like.unsorted_indices)


def run_reference(
    reference: Callable[..., tuple[Tensor, Tensor]],
    channels: int,
    initial: float,
    inputs: list[Tensor],
    h0: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    """What the op `scan` would return (see `register_scan`), by the reference."""
    x = inputs[0]
    if h0 is None:
        h0 = x.new_full((x.shape[0], channels), initial, dtype=state_dtype(x))
    out, h_last = reference(inputs, h0, *rest)
    return out.to(x.dtype), h_last


def channels_of(planes: list[Tensor], count: int) -> int:
    """D of `count` planes, whether they come packed in one tensor (B, T, count * D) or not."""
    return planes[0].shape[2] // count if len(planes) == 1 else planes[0].shape[2]


def empty_rows(like: Tensor, width: int) -> Tensor:
    """Uninitialised (B, T, width), laid out in memory like `like` (B, T, ...)."""
    batch, steps = like.shape[:2]
    if like.stride(0) >= like.stride(1):
        return like.new_empty(batch, steps, width)
    return like.new_empty(steps, batch, width).transpose(0, 1)
