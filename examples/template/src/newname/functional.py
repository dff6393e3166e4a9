"""Newname as a function of its planes."""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from . import _ops, reference
from ._checks import check_lengths, check_planes, check_reset, check_state
from ._modes import needs_plain_torch, wants_gradients
from ._tensors import run_reference

__all__ = ["scan"]


def scan(
    inputs: List[Tensor],
    h0: Optional[Tensor] = None,
    lengths: Optional[Tensor] = None,
    reset: Optional[Tensor] = None,
    reverse: bool = False,
) -> Tuple[Tensor, Tensor]:
    """The recurrence over a batch of sequences.

    Args:
        inputs: the planes, side by side in one tensor or each in its own, (B, T, k * D); then the parameters, (D,) each, if there
            are any: in the order of `reference.scan`. float64, float32, float16 or bfloat16; parameters in the dtype of states.
        h0: h before the first step, anything that expands to (B, D). Default: 0.
        lengths: (B,) integers within 0..T. Steps from lengths[b] on are padding: never read, output 0, gradient 0.
        reset: (B, T) bool. Where True, a sequence begins, from 0: no state passes into that step from the one before, nor, if
            `reverse`, out of it.
        reverse: runs each sequence from its last valid step to its first; the output stays aligned with the input.

    Returns:
        out (B, T, D) in the planes' dtype; and h_last (B, D), in float32 (float64 for float64 planes).

    Raises:
        ValueError: a shape, device or length that does not fit; the message names it.
        TypeError: a dtype that does not.
        RuntimeError: parameters that do not fit the planes.
    """
    channels = check_planes(inputs, reference.PLANES)
    x = inputs[0]
    batch, steps = x.shape[0], x.shape[1]
    if h0 is not None:
        h0 = check_state(h0, x, [batch, channels], "h0").contiguous()
    if lengths is not None:
        lengths = check_lengths(lengths, x, batch, steps)
    if reset is not None:
        reset = check_reset(reset, x)
    direction = "backward" if reverse else "forward"
    save = wants_gradients(inputs, h0)
    if torch.jit.is_scripting():
        out, h_last, _ = torch.ops.rnnkit_newname.scan(inputs, h0, lengths, reset, direction, save)
    elif needs_plain_torch():
        out, h_last = _composite(inputs, channels, h0, lengths, reset, direction)
    else:
        out, h_last, _ = _ops.CALLS.scan(inputs, h0, lengths, reset, direction, save)
    return out, h_last


@torch.jit.unused
def _composite(
    inputs: List[Tensor],
    channels: int,
    h0: Optional[Tensor],
    lengths: Optional[Tensor],
    reset: Optional[Tensor],
    direction: str,
) -> Tuple[Tensor, Tensor]:
    return run_reference(_ops.composite, channels, 0.0, inputs, h0, lengths, reset, direction)
