"""Which nodes of a batch a joiner makes at a time: none of the padding, where lengths are known on the host."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Stretch(NamedTuple):
    """Neighbouring frames, of each of which as many rows are made.

    Attributes:
        first: frame, counted over the batch.
        frames: how many.
        rows: of a frame, from the first on.
    """

    first: int
    frames: int
    rows: int

    @property
    def nodes(self) -> int:
        return self.frames * self.rows

    @property
    def end(self) -> int:
        return self.first + self.frames

    def by_frame(self, x: Tensor) -> Tensor:
        """What its nodes have, (nodes, width), as (frames, rows, width)."""
        return x.view(self.frames, self.rows, x.shape[1])


def stretches(lengths: Tensor | None, batch: int, frames: int, rows: int, in_band: bool, price: int) -> list[Stretch]:
    """All nodes that sequences have, in order, in as few stretches as it pays to have.

    Args:
        lengths: a boundary (B, 4) on the CPU, or None: every sequence may have all frames and rows.
        batch, frames, rows: those of the tensors.
        in_band: whether rows are counted from a band's first, so that a sequence needs all of them.
        price: of a stretch, in nodes: as much padding is made rather than one stretch more.
    """
    if lengths is None:
        everything = Stretch(0, batch * frames, rows)
        return [everything] if everything.nodes > 0 else []
    found: list[Stretch] = []
    for b, (_, t0, s1, t1) in enumerate(lengths.tolist()):
        first, last = max(t0, 0), min(t1, frames)
        own = Stretch(b * frames + first, max(last - first, 0), rows if in_band else max(min(s1 + 1, rows), 0))
        if own.nodes == 0:
            continue
        if found:
            before = found[-1]
            both = Stretch(before.first, own.end - before.first, max(before.rows, own.rows))
            if both.nodes <= before.nodes + own.nodes + price:
                found[-1] = both
                continue
        found.append(own)
    return found


def pieces(whole: list[Stretch], most: int) -> list[Stretch]:
    """The same nodes in the same order, about `most` of them at a time, or, if that is 0, as they are."""
    if most == 0:
        return whole
    made = []
    for stretch in whole:
        parts = -(-stretch.frames // max(1, most // max(stretch.rows, 1)))
        for i in range(parts):
            first, end = stretch.frames * i // parts, stretch.frames * (i + 1) // parts
            made.append(Stretch(stretch.first + first, end - first, stretch.rows))
    return made
