"""The ops of `torch.ops.rnnkit_rnnt_loss`, as torch sees them: shapes and derivatives.

Importing this module loads the compiled library. Nodes are laid out as in `reference`: (B, T, rows). What all have:

    symbols    (B, S) int64
    boundary   (B, 4) int64, or None: every sequence has S symbols and T frames
    begin      (B, T) int64, the first row of a band, with a boundary; or None: rows are 0..S

lattice(label (B, NL, T or T + 1, S or rows), blank (B, NB, T, rows), ...) -> score (B,), and the occupancies of label and blank
    in their shapes, or (0,) unless `occupancies`. One plane may come without its dimension. `label_weight` multiplies the labels' gradients alone (FastEmit).
joint_scores(logits, symbols, boundary, begin, offsets, frames, blanks, kind, clamp, label_weight, reuse) -> label (B, T, S or rows),
    blank (B, len(blanks), T, rows), norm (B, T, rows). Logits are (B, T, rows, C), or packed (nodes, C) with `offsets` (B,).
    `kind` is one of reference.MODES.
    `clamp` limits each logit's gradient, of a sequence's score, once the lattice has multiplied those of labels by
    `label_weight`; `reuse` writes gradients over the logits.
simple_scores(lm (B, S + 1, C), am (B, T, C), symbols, boundary, blank) -> label (B, T, S), blank (B, T, S + 1), and what
    backward needs
joiner_scores(enc (B, T, H), dec (B, S + 1, H), weight (C, H), bias (C), ...) -> joint_scores of Linear(tanh(enc + dec)), of
    which `rows_at_once` rows exist at a time; if 0, all, and hidden and logits are kept, which backward else computes again
prune_ranges(label_occupancy, blank_occupancy, boundary, s_range, max_step) -> begin

Second derivatives are those of `reference`: exact, but computed node by node.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from . import _C as _C  # type: ignore[attr-defined]  # the compiled library: loading it defines the ops
from . import reference
from ._derivatives import one_by_one, register_shapes, with_backward
from ._modes import needs_plain_torch, without_autocast
from ._names import refuse_namesake
from ._tensors import state_dtype

NAMESPACE = "rnnkit_rnnt_loss"
WITH_CUDA = bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::lattice", "CUDA"))
_ONEDNN = platform.machine() in ("x86_64", "AMD64") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def whole(boundary: Tensor | None, batch: int, symbols: int, frames: int, like: Tensor) -> Tensor:
    """The boundary, or that of sequences without padding."""
    if boundary is not None:
        return boundary
    made = torch.zeros(batch, 4, dtype=torch.int64, device=like.device)  # on the device: a copy from the host would wait
    made[:, 2].fill_(symbols)
    made[:, 3].fill_(frames)
    return made


def lattice(label: Tensor, blank: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The op; under torch.func, whose transforms cannot see into it, the reference, with occupancies as its derivatives."""
    if needs_plain_torch():
        score = _lattice_reference(label, blank, *options)
        planes = (label.detach(), blank.detach())
        occupancies_at = torch.func.vjp(lambda *planes: _lattice_reference(*planes, *options), *planes)[1]
        of_label, of_blank = occupancies_at(torch.ones_like(score))
        return score, of_label, of_blank
    return CALLS.lattice(label, blank, *options)


def joint_scores(logits: Tensor, symbols: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """Labels and blanks, of the op or of the reference."""
    if needs_plain_torch():
        return _joint_reference(logits, symbols, *options)
    return CALLS.joint_scores(logits, symbols, *options)[:2]


def simple_scores(lm: Tensor, am: Tensor, symbols: Tensor, boundary: Tensor | None, blank: int) -> tuple[Tensor, Tensor]:
    """Labels and blanks, of the op or of the reference."""
    if needs_plain_torch():
        return _simple_reference(lm, am, symbols, boundary, blank)
    with without_autocast(am.device):  # its product needs the precision of its inputs
        return CALLS.simple_scores(lm, am, symbols, boundary, blank)[:2]


def joiner_scores(*given: Any) -> tuple[Tensor, Tensor]:
    """Labels and blanks of the fused joiner, of the op or of the reference."""
    if needs_plain_torch():
        return _joiner_reference(*given)
    with without_autocast(given[0].device):
        return CALLS.joiner_scores(*given)[:2]


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
    boundary = whole(boundary, blank.shape[0], label.shape[3], blank.shape[2], blank)
    return reference.lattice(label, blank, label_durations, blank_durations, boundary, begin, label_end)


def _joint_reference(
    logits: Tensor,
    symbols: Tensor,
    boundary: Tensor | None,
    begin: Tensor | None,
    offsets: Tensor | None,
    frames: int,
    blanks: list[int],
    mode: str,
    clamp: float,
    label_weight: float,
    reuse: bool,
) -> tuple[Tensor, Tensor]:
    if clamp > 0 or reuse:
        raise NotImplementedError("clamp and reuse_logits: first derivatives only, and none under torch.func")
    boundary = whole(boundary, symbols.shape[0], symbols.shape[1], frames, logits)
    if offsets is not None:
        logits = reference.unpacked(logits, boundary, frames, symbols.shape[1])
    label, blank = reference.joint_scores(logits, symbols, boundary, begin, blanks, mode)
    return label.to(state_dtype(logits)), blank.to(state_dtype(logits))


def _simple_reference(lm: Tensor, am: Tensor, symbols: Tensor, boundary: Tensor | None, blank: int) -> tuple[Tensor, Tensor]:
    boundary = whole(boundary, am.shape[0], symbols.shape[1], am.shape[1], am)
    label, blanks = reference.simple_scores(lm, am, symbols, boundary, blank)
    return label.to(state_dtype(am)), blanks.to(state_dtype(am))


def _joiner_reference(
    enc: Tensor,
    dec: Tensor,
    weight: Tensor,
    bias: Tensor,
    symbols: Tensor,
    boundary: Tensor | None,
    begin: Tensor | None,
    rows: int,
    blank: int,
    mode: str,
    rows_at_once: int,
) -> tuple[Tensor, Tensor]:
    frames = enc.shape[1]
    if begin is None:
        joined = enc[:, :, None] + dec[:, None]
    else:
        s = (begin[:, :, None] + torch.arange(rows, device=begin.device)).clamp(max=dec.shape[1] - 1)
        joined = enc[:, :, None] + dec[torch.arange(len(dec), device=begin.device)[:, None, None], s]
    logits = torch.nn.functional.linear(joined.tanh(), weight, bias)
    return _joint_reference(logits, symbols, boundary, begin, None, frames, [blank], mode, 0.0, 1.0, False)


def _gradients(
    function: Callable[..., Any], inputs: list[Tensor], grads: list[Tensor | None], rest: tuple[Any, ...]
) -> list[Tensor | None]:
    """Gradients of the reference that can be differentiated again."""
    with torch.enable_grad():
        # views, so that each is an input of its own
        views = [t.view_as(t) for t in inputs]
        outputs = function(*views, *rest)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o.requires_grad]
        wanted = [v for v in views if v.requires_grad]
        of_wanted = iter(
            torch.autograd.grad(
                [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, materialize_grads=True
            )
        )
        return [next(of_wanted) if v.requires_grad else None for v in views]


def _both(
    label: Tensor | None, blank: Tensor | None, norm: Tensor, blanks: int, symbols: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of label and blank scores, zeros where nothing came of one; with `symbols`, there is no band."""
    batch, frames, rows = norm.shape
    if label is None:
        label = norm.new_zeros(batch, frames, rows if symbols is None else symbols.shape[1])
    if blank is None:
        blank = norm.new_zeros(batch, blanks, frames, rows)
    return label, blank


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias. Large float32 products on an x86 CPU are made by oneDNN, through the op that torch.compile uses for
    nn.Linear: on an AMD EPYC 180 GFLOP/s, where torch's own, by MKL, are at 105 to 150."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and weight.numel() >= 1 << 16 and x.shape[0] > 0 and _ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return torch.nn.functional.linear(x, weight, bias)


def chunks(frames: int, rows: int, rows_at_once: int) -> Iterator[tuple[int, int]]:
    """(first, count) of groups of frames that have about so many rows; 0: all in one."""
    step = max(1, rows_at_once // max(rows, 1)) if rows_at_once > 0 else max(1, frames)
    for first in range(0, frames, step):
        yield first, min(step, frames - first)


def register(namespace: str) -> SimpleNamespace:
    """Teaches torch the ops of a library that was compiled under `namespace`; returns the shortest ways to call them."""
    ops = getattr(torch.ops, namespace)
    calls = SimpleNamespace()

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
            return *_gradients(_lattice_reference, [label, blank], [grad], rest), *nothing
        of_label = grad if ctx.options[-1] == 1 else ctx.options[-1] * grad
        pairs = ((of_label, label_occupancy), (grad, blank_occupancy))
        return *(t * scale.view(-1, *[1] * (t.dim() - 1)) for scale, t in pairs), *nothing

    calls.lattice = with_backward(f"{namespace}::lattice", setup_lattice, lattice_backward)

    def shapes_of_joint_scores(logits, symbols, boundary, begin, offsets, frames, blanks, kind, clamp, label_weight, reuse):  # type: ignore[no-untyped-def]
        batch, dtype = symbols.shape[0], state_dtype(logits)
        rows = symbols.shape[1] + 1 if offsets is not None else logits.shape[-2]
        label = logits.new_empty(batch, frames, rows if begin is not None else symbols.shape[1], dtype=dtype)
        return label, label.new_empty(batch, len(blanks), frames, rows), label.new_empty(batch, frames, rows)

    register_shapes(f"{namespace}::joint_scores", shapes_of_joint_scores)

    @torch.library.register_fake(f"{namespace}::joint_scores_")
    def _(*_):  # type: ignore[no-untyped-def]
        return None

    @torch.library.register_fake(f"{namespace}::joint_scores_backward")
    def _(grad_label, grad_blank, logits, *_):  # type: ignore[no-untyped-def]
        return torch.empty_like(logits, memory_format=torch.contiguous_format)

    @torch.library.register_fake(f"{namespace}::joint_scores_backward_")
    def _(*_):  # type: ignore[no-untyped-def]
        return None

    def setup_joint(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, symbols, boundary, begin, offsets, *ctx.options = inputs
        ctx.save_for_backward(logits, symbols, boundary, begin, offsets, output[2])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[2])

    def joint_backward(ctx: Any, grad_label: Tensor | None, grad_blank: Tensor | None, *_: None) -> tuple[Any, ...]:
        logits, symbols, boundary, begin, offsets, norm = ctx.saved_tensors
        _, blanks, mode, clamp, label_weight, reuse = ctx.options
        nothing = [None] * 10
        if torch.is_grad_enabled():
            rest = (symbols, boundary, begin, offsets, *ctx.options)
            return *_gradients(_joint_reference, [logits], [grad_label, grad_blank], rest), *nothing
        logits = logits.detach()
        grads = _both(grad_label, grad_blank, norm, len(blanks), symbols if begin is None else None)
        given = (*grads, logits, symbols, norm, boundary, begin, offsets)
        if reuse:
            ops.joint_scores_backward_(*given, 0, blanks, mode, clamp, label_weight)
            torch.autograd.graph.increment_version(logits)  # so that torch notices whoever else needed them
            return logits, *nothing
        return ops.joint_scores_backward(*given, blanks, mode, clamp, label_weight), *nothing

    calls.joint_scores = with_backward(f"{namespace}::joint_scores", setup_joint, joint_backward)

    def shapes_of_simple_scores(lm, am, symbols, boundary, blank):  # type: ignore[no-untyped-def]
        (batch, frames, classes), rows, dtype = am.shape, lm.shape[1], state_dtype(am)
        shapes = [(frames, rows - 1), (frames, rows), (frames, rows), (rows, classes), (frames, classes), (rows,), (frames,)]
        return tuple(am.new_empty(batch, *shape, dtype=dtype) for shape in shapes)

    register_shapes(f"{namespace}::simple_scores", shapes_of_simple_scores)

    @torch.library.register_fake(f"{namespace}::simple_scores_backward")
    def _(grad_label, grad_blank, lm, am, *_):  # type: ignore[no-untyped-def]
        return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (lm, am)]

    def setup_simple(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        lm, am, symbols, boundary, ctx.blank = inputs
        ctx.save_for_backward(lm, am, symbols, boundary, *output[2:])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[2:])

    def simple_backward(ctx: Any, grad_label: Tensor | None, grad_blank: Tensor | None, *_: None) -> tuple[Any, ...]:
        lm, am, symbols, boundary, *kept = ctx.saved_tensors
        nothing = [None] * 3
        if torch.is_grad_enabled():
            rest = (symbols, boundary, ctx.blank)
            return *_gradients(_simple_reference, [lm, am], [grad_label, grad_blank], rest), *nothing
        with without_autocast(am.device):
            label, blanks = _both(grad_label, grad_blank if grad_blank is None else grad_blank[:, None], kept[0], 1, symbols)
            grads = ops.simple_scores_backward(label, blanks[:, 0], lm, am, symbols, *kept, boundary, ctx.blank)
        return *grads, *nothing

    one_by_one(f"{namespace}::simple_scores_backward")
    calls.simple_scores = with_backward(f"{namespace}::simple_scores", setup_simple, simple_backward)

    def shapes_of_join(enc, dec, boundary, begin, rows, first, count):  # type: ignore[no-untyped-def]
        return enc.new_empty(count, rows, enc.shape[2])

    register_shapes(f"{namespace}::join", shapes_of_join)

    @torch.library.register_fake(f"{namespace}::join_backward_")
    def _(*_):  # type: ignore[no-untyped-def]
        return None

    def shapes_of_prune_ranges(label, blank, boundary, s_range, max_step):  # type: ignore[no-untyped-def]
        return boundary.new_empty(blank.shape[:2])

    register_shapes(f"{namespace}::prune_ranges", shapes_of_prune_ranges)

    def python_op(function: Callable[..., Any]) -> None:  # torch.library.custom_op's first call imports all of torch.compile
        name = f"{namespace}::{function.__name__}"
        torch.library.define(name, torch.library.infer_schema(function, mutates_args=()))
        torch.library.impl(name, "default", function)

    @python_op
    def joiner_scores(
        enc: Tensor,
        dec: Tensor,
        weight: Tensor,
        bias: Tensor,
        symbols: Tensor,
        boundary: Tensor | None,
        begin: Tensor | None,
        rows: int,
        blank: int,
        kind: str,
        rows_at_once: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        scores = _empty_scores(enc, symbols, begin, rows)
        for first, count in chunks(enc.shape[0] * enc.shape[1], rows, rows_at_once):
            hidden = ops.join(enc, dec, boundary, begin, rows, first, count)
            logits = _linear(hidden.flatten(0, 1), weight, bias).view(count, rows, -1)
            ops.joint_scores_(logits, symbols, boundary, begin, first, [blank], kind, *scores)
        if rows_at_once == 0 and scores[2].numel() > 0:
            return *scores, hidden, logits
        return *scores, enc.new_empty(0), enc.new_empty(0)

    def _empty_scores(enc: Tensor, symbols: Tensor, begin: Tensor | None, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        batch, frames, dtype = enc.shape[0], enc.shape[1], state_dtype(enc)
        label = enc.new_empty(batch, frames, rows if begin is not None else symbols.shape[1], dtype=dtype)
        return label, label.new_empty(batch, 1, frames, rows), label.new_empty(batch, frames, rows)

    @torch.library.register_fake(f"{namespace}::joiner_scores")
    def _(enc, dec, weight, bias, symbols, boundary, begin, rows, blank, mode, rows_at_once):  # type: ignore[no-untyped-def]
        kept = [enc.new_empty(0), enc.new_empty(0)]
        if rows_at_once == 0 and enc.shape[0] * enc.shape[1] * rows > 0:
            kept = [enc.new_empty(enc.shape[0] * enc.shape[1], rows, width) for width in (enc.shape[2], weight.shape[0])]
        return *_empty_scores(enc, symbols, begin, rows), *kept

    @python_op
    def joiner_scores_backward(
        grad_label: Tensor,
        grad_blank: Tensor,
        enc: Tensor,
        dec: Tensor,
        weight: Tensor,
        bias: Tensor,
        symbols: Tensor,
        norm: Tensor,
        kept_hidden: Tensor,
        kept_logits: Tensor,
        boundary: Tensor | None,
        begin: Tensor | None,
        rows: int,
        blank: int,
        kind: str,
        rows_at_once: int,
    ) -> list[Tensor]:
        sums = [torch.zeros(t.shape, dtype=state_dtype(t), device=t.device) for t in (enc, dec, weight, bias)]
        grad_enc, grad_dec, grad_weight, grad_bias = sums
        for first, count in chunks(enc.shape[0] * enc.shape[1], rows, rows_at_once):
            if rows_at_once == 0:
                hidden, logits = kept_hidden, kept_logits.clone()
            else:
                hidden = ops.join(enc, dec, boundary, begin, rows, first, count)
                logits = _linear(hidden.flatten(0, 1), weight, bias).view(count, rows, -1)
            given = (grad_label, grad_blank, logits, symbols, norm, boundary, begin, None)
            ops.joint_scores_backward_(*given, first, [blank], kind, 0.0, 1.0)
            grads = logits.flatten(0, 1)
            if grads.dtype == grad_weight.dtype:
                grad_weight.addmm_(grads.T, hidden.flatten(0, 1))
            else:
                grad_weight += grads.T @ hidden.flatten(0, 1)
            grad_bias += grads.sum(0, dtype=grad_bias.dtype)
            ops.join_backward_(_linear(grads, weight.T).view_as(hidden), hidden, boundary, begin, first, grad_enc, grad_dec)
        return [s.to(t.dtype) for s, t in zip(sums, (enc, dec, weight, bias), strict=True)]

    @torch.library.register_fake(f"{namespace}::joiner_scores_backward")
    def _(grad_label, grad_blank, enc, dec, weight, bias, *_):  # type: ignore[no-untyped-def]
        return [t.new_empty(t.shape) for t in (enc, dec, weight, bias)]

    def setup_joiner(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, rows, blank, mode, rows_at_once = inputs
        ctx.options = rows, blank, mode, rows_at_once
        ctx.save_for_backward(*tensors, *output[2:])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[2:])

    def joiner_backward(ctx: Any, grad_label: Tensor | None, grad_blank: Tensor | None, *_: None) -> tuple[Any, ...]:
        *inputs, symbols, boundary, begin, norm, hidden, logits = ctx.saved_tensors
        nothing = [None] * 7
        if torch.is_grad_enabled():
            rest = (symbols, boundary, begin, *ctx.options)
            return *_gradients(_joiner_reference, inputs, [grad_label, grad_blank], rest), *nothing
        with without_autocast(norm.device):
            grads = _both(grad_label, grad_blank, norm, 1, symbols if begin is None else None)
            given = (*grads, *inputs, symbols, norm, hidden, logits, boundary, begin)
            return *ops.joiner_scores_backward(*given, *ctx.options), *nothing

    one_by_one(f"{namespace}::joiner_scores_backward")
    calls.joiner_scores = with_backward(f"{namespace}::joiner_scores", setup_joiner, joiner_backward)
    return calls


refuse_namesake("rnnt_loss")
CALLS = register(NAMESPACE)
