"""The loop over time that the references of all scans share, in operations that torch can differentiate any number of times.

`_recurrence.py` in a family is a link to this file, and a copy of it in its wheel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

DIRECTIONS = ("forward", "backward", "both")

_AS_ONE_OP: ContextVar[bool] = ContextVar("as_one_op", default=False)


@contextmanager
def loops_as_one_op() -> Iterator[None]:
    """Here `run_steps` is torch's op `scan`, of any number of steps, where a graph is made: ONNX has it, too. It is not differentiated."""
    token = _AS_ONE_OP.set(True)
    try:
        yield
    finally:
        _AS_ONE_OP.reset(token)


def split_planes(inputs: list[Tensor], count: int) -> list[Tensor]:
    """`count` planes (B, T, D) from tensors (B, T, k * D) that hold some of them each, side by side."""
    width = sum(t.shape[2] for t in inputs) // count
    if width == 0:
        return [inputs[0]] * count
    if len(inputs) == 1:  # slices, where a graph may not know the width
        return [inputs[0][..., i * width : (i + 1) * width] for i in range(count)]
    return [plane for t in inputs for plane in t.split(width, dim=-1)]


def absent_steps(like: Tensor, lengths: Tensor | None, pad: Tensor | None = None) -> Tensor | None:
    """(B, T) bool, of sequences (B, T, ...): what lies behind `lengths` (B,), or is marked by `pad` (B, T); None: nothing."""
    if lengths is None:
        return pad
    behind = torch.arange(like.shape[1], device=like.device) >= lengths[:, None]
    return behind if pad is None else pad | behind


def present(sequences: list[Tensor], absent: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
    """The sequences in `dtype`, and 0 where they are absent, whatever stands there."""
    if absent is None:
        return [t.to(dtype) for t in sequences]
    return [t.masked_fill(absent[..., None], 0.0).to(dtype) for t in sequences]


def first_backward(channels: int, direction: str) -> int:
    """The channels from this on are walked from the last step to the first."""
    return {"forward": channels, "backward": 0, "both": channels // 2}[direction]


def starts(reset: Tensor, absent: Tensor | None, channels: int, direction: str) -> Tensor:
    """(B, T, D) bool: the steps into which no state passes, where `reset` (B, T) marks those at which a sequence begins."""
    if direction == "forward":
        return reset[..., None].expand(-1, -1, channels)
    there = torch.ones_like(reset) if absent is None else ~absent
    rank = there.cumsum(1)  # from 1; of a step that is absent, that of the last one that is there
    at_rank = rank.new_zeros(reset.shape[0], reset.shape[1] + 2).scatter(1, rank * there, (reset & there).to(rank.dtype))
    following = at_rank.gather(1, rank + 1) > 0
    first = first_backward(channels, direction)
    return torch.cat([reset[..., None].expand(-1, -1, first), following[..., None].expand(-1, -1, channels - first)], -1)


def run_steps(
    step: Callable[..., tuple[Tensor, Tensor]],
    sequences: Sequence[Tensor],
    h0: Tensor,
    absent: Tensor | None,
    *,
    constants: Sequence[Tensor] = (),
    reset: Tensor | None = None,
    initial: float = 0.0,
    direction: str = "forward",
) -> tuple[Tensor, Tensor]:
    """out (B, T, D) and the last state (B, D).

    Args:
        step: (one value (B, D) of each sequence, h_prev, *constants) -> (h, out); it takes no other tensor.
        sequences: (B, T, D) each, 0 in absent steps.
        h0: (B, D), in the dtype of all that is computed.
        absent: (B, T) bool, or None; such a step leaves the state as it is, and its out is 0.
        constants: tensors that are the same at each step.
        reset: (B, T) bool; at such a step a sequence begins, from `initial`: no state passes into it, or, backward, out of it.
        direction: of DIRECTIONS: "forward"; "backward", from the last step to the first; or "both": the second half of the channels backward.
    """
    channels = h0.shape[1]
    marks = [] if absent is None else [absent[..., None].expand(-1, -1, channels)]
    if reset is not None:
        marks.append(starts(reset, absent, channels, direction))

    def in_order(t: Tensor) -> Tensor:
        """(B, T, D), from the order of the steps to that of processing, or from this to that."""
        first = first_backward(channels, direction)
        if direction == "both":
            return torch.cat([t[..., :first], t[..., first:].flip(1)], -1)
        return t if direction == "forward" else t.flip(1)

    ordered = [in_order(t) for t in (*sequences, *marks)]

    def advance(h: Tensor, *values: Tensor) -> list[Tensor]:
        """The next state and out, from the values of a step, its marks, and the constants."""
        of_step, marked, given = values[: len(sequences)], values[len(sequences) : len(ordered)], values[len(ordered) :]
        before = h if reset is None else h.masked_fill(marked[-1], initial)
        after, out = step(of_step, before, *given)
        if absent is not None:
            after, out = torch.where(marked[0], h, after), out.masked_fill(marked[0], 0.0)
        return [after, out]

    steps = sequences[0].shape[1]
    as_one_op = not torch.compiler.is_dynamo_compiling() and _AS_ONE_OP.get()  # Dynamo does not know such variables
    if as_one_op and not (type(steps) is int and steps <= 1):  # a step of a stream needs no loop
        from torch._higher_order_ops.scan import scan_op  # few need it, and it takes a second to import

        def advance_apart(h: Tensor, *values: Tensor) -> list[Tensor]:
            after, out = advance(h, *values)
            return [after, out.clone()]  # a graph's outputs are no aliases, nor are its inputs

        apart = [t.clone() for t in constants]
        h_last, forward = scan_op(advance_apart, [h0], [t.transpose(0, 1) for t in ordered], apart)
        return in_order(forward.transpose(0, 1)), h_last
    h, rows = h0, []
    for values in zip(*(t.unbind(1) for t in ordered), strict=True):
        h, out = advance(h, *values, *constants)
        rows.append(out)
    if not rows:
        return sequences[0], h
    return in_order(torch.stack(rows, dim=1)), h
