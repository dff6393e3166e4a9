"""Which nodes of a batch a joiner makes, a few at a time: forward, none of the padding; backward, those that paths reach."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference

_CHOICE = os.environ.get("RNNKIT_JOINER_NODES", "auto")  # "all" or "reached": of backward, whatever they cost


class Part(NamedTuple):
    """Neighbouring frames and the rows that their nodes have in tensors (nodes, width).

    Attributes:
        first: frame, counted over the batch.
        frames: how many.
        row: the first.
        nodes: how many rows.
    """

    first: int
    frames: int
    row: int
    nodes: int


class Nodes(NamedTuple):
    """Nodes, each with a row in tensors (nodes, width), in the order of sequences, frames and symbols.

    Attributes:
        total: how many.
        frames: those of all sequences.
        places: (B, T, rows), the row of each node, below 0 for those that are not made; None: all are.
        ends: (B T,) on the CPU, how many nodes there are up to the end of each frame; None: all.
    """

    total: int
    frames: int
    places: Tensor | None = None
    ends: Tensor | None = None

    def parts(self, most: int) -> list[Part]:
        """All frames in order, about `most` nodes at a time, or, if that is 0, all of them."""
        count = 1 if most == 0 else min(-(-self.total // most), self.frames)
        inner = [self.frames * i // count for i in range(1, count)]
        if self.ends is not None and inner:
            wanted = torch.tensor([self.total * i // count for i in range(1, count)])
            inner = torch.searchsorted(self.ends, wanted).tolist()
        cuts = sorted({0, *inner, self.frames})
        rows = [self._row(cut) for cut in cuts]
        return [
            Part(first, last - first, row, end - row)
            for first, last, row, end in zip(cuts, cuts[1:], rows, rows[1:], strict=False)
        ]

    def rows_of(self, some: Tensor) -> Tensor:
        """The rows of those nodes of (B, T, rows) that are True, in order."""
        return some.flatten().nonzero().flatten() if self.places is None else self.places[some]

    def _row(self, frame: int) -> int:
        if self.ends is None:
            return self.total // max(self.frames, 1) * frame
        return int(self.ends[frame - 1]) if frame > 0 else 0


def all_nodes(batch: int, frames: int, rows: int) -> Nodes:
    return Nodes(batch * frames * rows, batch * frames)


def nodes_of_lengths(
    lengths: Tensor | None, boundary: Tensor | None, batch: int, frames: int, rows: int, in_band: bool
) -> Nodes:
    """Those that sequences have.

    Args:
        lengths: the boundary (B, 4) on the CPU, or None: every sequence may have all.
        boundary: the same on the device of the nodes.
        batch, frames, rows: those of the tensors.
        in_band: whether rows are counted from a band's first, so that a sequence needs all of them.
    """
    everything = all_nodes(batch, frames, rows)
    if lengths is None or boundary is None or everything.total == 0:
        return everything
    lengths = lengths.long()
    s0, s1 = lengths[:, 0].clamp(min=0), lengths[:, 2].clamp(max=rows - 1)
    of_frame = torch.full_like(s0, rows) if in_band else (s1 - s0 + 1).clamp(min=0)
    ends = (_frames_of(lengths, frames) * of_frame[:, None]).flatten().cumsum(0)
    total = int(ends[-1])
    if total == everything.total:
        return everything
    if in_band:
        made = _frames_of(boundary, frames)[:, :, None].expand(batch, frames, rows)
    else:
        made = reference.inside(boundary, None, frames, rows)
    return Nodes(total, everything.frames, _places_of(made), ends)


def nodes_reached(grad_label: Tensor, grad_blank: Tensor, made: Nodes, products: int) -> tuple[Nodes, Tensor] | None:
    """Those whose gradients are not lost in the rounding of the others' (compare Wijmans et al., arXiv:2411.09009).

    A node is left out if its gradients are below a share of eps / (T + rows) of those of its frame: the sums that they are part
    of, of a frame's row of the encoder, of a symbol's of the predictor, and of weights, then lack less than the rounding of
    their largest term. Logits themselves have gradients that can be seen, so that this is for a joiner's alone.

    Args:
        grad_label, grad_blank: (B, T, S or rows) and (B, planes, T, rows).
        made: those of forward.
        products: the multiplications of one product of all nodes; with few of them nothing is gained.

    Returns:
        The nodes, and which they are, (B, T, rows); None where it does not pay. On a GPU their number has to be waited for, which
        CUDA graphs cannot: there all are made.
    """
    on_cpu = grad_blank.device.type == "cpu"
    if _CHOICE == "all" or made.total == 0:
        return None
    if _CHOICE != "reached" and products < (1 << 25 if on_cpu else 1 << 33):  # in float32 some 1 ms; reasoned
        return None
    if not on_cpu and torch.cuda.is_current_stream_capturing():
        return None
    size = grad_blank.abs().sum(1)  # [B, T, rows]
    size[..., : grad_label.shape[2]] += grad_label.abs()
    share = torch.finfo(size.dtype).eps / (size.shape[1] + size.shape[2])
    limit = size.sum(2, keepdim=True).mul_(share).nan_to_num_(posinf=0.0)  # a frame with an infinite one keeps all
    reached = ~(size <= limit)
    if made.places is not None:
        reached &= made.places >= 0
    ends = reached.sum(2).flatten().cumsum(0).cpu()
    total = int(ends[-1])
    if total > made.total * 7 // 8:  # reasoned: kept rows are copied
        return None
    return Nodes(total, made.frames, _places_of(reached), ends), reached


def _frames_of(boundary: Tensor, frames: int) -> Tensor:
    t = torch.arange(frames, device=boundary.device)
    return (t >= boundary[:, 1:2]) & (t < boundary[:, 3:4])


def _places_of(made: Tensor) -> Tensor:
    return (made.flatten().cumsum(0).view(made.shape) - 1).masked_fill_(~made, -1)
