"""Sums over all paths of a lattice of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _ops, reference
from ._arguments import check_boundary, check_logits
from ._derivatives import register_shapes, with_backward
from ._modes import needs_plain_torch, wants_gradients


def lattice(
    label: Tensor,
    blank: Tensor,
    label_durations: Sequence[int] = (0,),
    blank_durations: Sequence[int] = (1,),
    boundary: Tensor | None = None,
    begin: Tensor | None = None,
    *,
    label_end: bool = False,
    viterbi: bool = False,
    occupancies: bool = False,
    label_weight: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum over all paths, or the best of them, and which arcs they take.

    Args:
        label: scores (B, NL, T or T + 1, S or rows); one plane may come without its dimension.
        blank: scores (B, NB, T, rows); likewise.
        label_durations, blank_durations: NL and NB numbers of frames.
        boundary, begin: see `_ops`.
        label_end: whether a label may lead to the end frame.
        viterbi: whether to look for the best path.
        occupancies: whether they are wanted. Where gradients are, too, they have to be.
        label_weight: multiplies the labels' gradients alone (FastEmit).

    Returns:
        The score (B,), and the occupancies of label and blank in their shapes, or (0,).
    """
    options: tuple[Any, ...] = (list(label_durations), list(blank_durations), boundary, begin)
    options += (label_end, viterbi, occupancies, label_weight)
    if not needs_plain_torch():
        return _ops.CALLS.lattice(label, blank, *options)
    score = _lattice_reference(label, blank, *options)  # which transforms of torch.func can see into
    planes = (label.detach(), blank.detach())
    occupancies_at = torch.func.vjp(lambda *planes: _lattice_reference(*planes, *options), *planes)[1]
    of_label, of_blank = occupancies_at(torch.ones_like(score))
    return score, of_label, of_blank


def _lattice_reference(
    label: Tensor,
    blank: Tensor,
    label_durations: list[int],
    blank_durations: list[int],
    boundary: Tensor | None,
    begin: Tensor | None,
    label_end: bool,
    viterbi: bool,
    occupancies: bool,
    label_weight: float,
) -> Tensor:
    if viterbi or label_weight != 1:
        raise NotImplementedError("FastEmit and Viterbi paths have first derivatives only, and none under torch.func")
    label, blank = (t.unsqueeze(1) if t.dim() == 3 else t for t in (label, blank))
    boundary = _ops.whole(boundary, blank.shape[0], label.shape[3], blank.shape[2], blank)
    return reference.lattice(label, blank, label_durations, blank_durations, boundary, begin, label_end)


@_ops.registration("lattice")
def _register_lattice(namespace: str) -> Callable[..., Any]:
    def shapes_of_lattice(label, blank, *rest):  # type: ignore[no-untyped-def]
        *_, occupancies, _ = rest
        of_arcs = [t.new_empty(t.shape if occupancies else (0,)) for t in (label, blank)]
        return blank.new_empty(blank.shape[0]), *of_arcs

    register_shapes(f"{namespace}::lattice", shapes_of_lattice)

    def setup_lattice(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        label, blank, *options = inputs
        ctx.options = [*options[:2], *options[4:]]
        ctx.save_for_backward(label, blank, *options[2:4], *output[1:])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])

    def lattice_backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
        label, blank, boundary, begin, label_occupancy, blank_occupancy = ctx.saved_tensors
        nothing = [None] * 8
        if grad is None:
            return None, None, *nothing
        if torch.is_grad_enabled():
            rest = (*ctx.options[:2], boundary, begin, *ctx.options[2:])
            return *_ops.gradients(_lattice_reference, [label, blank], [grad], rest), *nothing
        of_label = grad if ctx.options[-1] == 1 else ctx.options[-1] * grad
        pairs = ((of_label, label_occupancy), (grad, blank_occupancy))
        return *(t * scale.view(-1, *[1] * (t.dim() - 1)) for scale, t in pairs), *nothing

    return with_backward(f"{namespace}::lattice", setup_lattice, lattice_backward)


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
    planes = (px.transpose(1, 2), py.transpose(1, 2))
    durations = ([0 if columns > frames else 1], [1])
    score, *occupancies = lattice(*planes, *durations, boundary, label_end=True, occupancies=wanted)
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
