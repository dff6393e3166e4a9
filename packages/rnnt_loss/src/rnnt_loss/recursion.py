"""Sums over all paths of a lattice of scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _ops
from ._arguments import (
    check_boundary,
    check_logits,
)
from ._modes import wants_gradients


def mutual_information_recursion(
    px: Tensor, py: Tensor, boundary: Tensor | None = None, return_grad: bool = False
) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
    """log of the sum over all paths of e^(the scores along the path)::

        p[s, t] = log_add(p[s - 1, t'] + px[s - 1, t'], p[s, t - 1] + py[s, t - 1]),    p[begin] = 0, result p[end]

    with t' = t where px is (B, S, T + 1), and t - 1 where it is (B, S, T).

    Args:
        px: (B, S, T + 1) or (B, S, T), float32 or float64.
        py: (B, S + 1, T), the same dtype.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What
            lies outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU.
        return_grad: also returns (px_grad, py_grad), the occupancies: the probability that a path takes the arc, given
            the sequence. (B, S, T + 1) if regular, else (B, S, T); and (B, S + 1, T). Detached.

    Returns:
        (B,); with return_grad, (scores, (px_grad, py_grad)).

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    for name, t in (("px", px), ("py", py)):
        check_logits(name, t, "B, S, T")
        if t.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name}: expected float32 or float64, got {t.dtype}")
    (batch, symbols, columns), frames = px.shape, py.shape[2]
    if columns not in (frames, frames + 1) or py.shape[:2] != (batch, symbols + 1):
        raise ValueError(
            f"py: expected shape (B, S + 1, T) for px (B, S, T + 1) or (B, S, T), got {list(py.shape)} for {list(px.shape)}"
        )
    if px.dtype != py.dtype or px.device != py.device:
        raise TypeError(f"py: expected {px.dtype} on {px.device}, got {py.dtype} on {py.device}")
    boundary = check_boundary(boundary, batch, symbols, frames, px)
    wanted = return_grad or wants_gradients([px, py], None)
    arcs = ([0 if columns > frames else 1], [1], boundary, None, True, False, wanted, 1.0)
    score, *occupancies = _ops.lattice(px.transpose(1, 2), py.transpose(1, 2), *arcs)
    if not return_grad:
        return score
    px_grad, py_grad = (t.transpose(1, 2) for t in occupancies)
    return score, (px_grad, py_grad)


def joint_mutual_information_recursion(px: Sequence[Tensor], py: Sequence[Tensor], boundary: Tensor | None = None) -> Tensor:
    """`mutual_information_recursion` of sum(px), sum(py), told apart by term.

    Args:
        px: as many as py of (B, S, T + 1) or (B, S, T), float32 or float64.
        py: (B, S + 1, T) each, the same dtype.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What
            lies outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU.

    Returns:
        (len(px), B), whose sum over the terms is the score: of each term its mean along the paths, and in the first
        also the difference between the log of a sum and the sum of logs.

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    if len(px) != len(py) or len(px) == 0:
        raise ValueError(f"px and py: expected as many of each, and at least one, got {len(px)} and {len(py)}")
    px_all, py_all = torch.stack(list(px)), torch.stack(list(py))
    with torch.no_grad():
        result = mutual_information_recursion(px_all.sum(0), py_all.sum(0), boundary, return_grad=True)
    score, (px_grad, py_grad) = result
    finite = [torch.where(grad == 0, 0.0, t) for t, grad in ((px_all, px_grad), (py_all, py_grad))]
    terms = (finite[0] * px_grad).sum((2, 3)) + (finite[1] * py_grad).sum((2, 3))
    offset = score - terms.detach().sum(0)
    return torch.cat([terms[:1] + offset, terms[1:]])
