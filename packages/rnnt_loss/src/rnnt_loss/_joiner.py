"""From encoder and predictor to the scores of arcs, without all logits at once: a joiner, and the op `joiner_scores`.

joiner_scores(enc (B, T, H), dec (B, S + 1, H), weight (C, H), bias (C,), symbols, boundary, begin, lengths, rows, rows_at_once, *Options) ->
    what joint_scores makes of Linear(tanh(enc + dec)), of which `rows_at_once` rows exist at a time; and, if that is 0, the hidden
    rows and logits of all nodes, which backward else computes again. `lengths` is the boundary where it is on the CPU: its padding
    is then not multiplied.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from . import _ops, reference
from ._arguments import check_count, check_index, check_logits, check_symbols, with_unit_stride
from ._derivatives import one_by_one, register_shapes, with_backward
from ._modes import autocast_enabled, needs_plain_torch, without_autocast
from ._nodes import all_nodes, nodes_of_lengths, nodes_reached
from ._plain import linear_parameters
from ._scores import Options, gradients_of_scores, joint_scores, scores_reference
from ._tensors import state_dtype
from .pruned import do_rnnt_pruning

Joiner = nn.Linear | Callable[[Tensor, Tensor], Tensor]
_ROWS_OF_KEPT = 2048  # in backward: gradients stay in the caches, 0.96 of the time of all at once on an AMD EPYC
_ONEDNN = platform.machine() in ("x86_64", "AMD64") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def joined_scores(
    am: Tensor,
    lm: Tensor,
    joiner: Joiner,
    symbols: Tensor,
    options: Options,
    boundary: Tensor | None,
    begin: Tensor | None,
    lengths: Tensor | None,
    rows: int,
    rows_at_once: int | None,
) -> tuple[Tensor, Tensor]:
    """The scores of labels (B, T, S or rows) and blanks (B, N + D, T, rows) of checked am and lm.

    Args:
        am: (B, T, H).
        lm: (B, S + 1, H).
        joiner: an nn.Linear after tanh(am + lm), or a callable of am and lm.
        symbols: (B, S), to be checked, and the blanks of the options too: it is the joiner that knows the classes.
        options: how scores come from logits.
        boundary, begin: see `_ops`.
        lengths: the boundary as it was given, if that was on the CPU: an nn.Linear then multiplies no padding.
        rows: those of a frame.
        rows_at_once: how many nodes' logits exist at a time; 0: all. Default: `rows_by_default`.
    """
    if rows_at_once is None:
        rows_at_once = rows_by_default(am.device)
    check_count("rows_at_once", rows_at_once, 0)
    if lm.shape[0] != am.shape[0]:  # len() would make a constant of it in a graph
        raise ValueError(f"lm: expected {am.shape[0]} sequences, as am has, got {list(lm.shape)}")
    if lengths is not None and lengths.device.type != "cpu":
        lengths = None
    given = (symbols, options, boundary, begin, rows, rows_at_once)
    if not isinstance(joiner, nn.Linear):
        return _callable_scores(am, lm, joiner, *given)
    linear = linear_parameters(joiner)
    if linear is None:  # hooked, sharded, quantised, ...: it has to be called
        return _callable_scores(am, lm, lambda am, lm: joiner(torch.tanh(am + lm)), *given)
    return _linear_scores(am, lm, linear, lengths, *given)


def rows_by_default(device: torch.device) -> int:
    """How many rows of logits a CPU's caches hold, or a GPU has work with."""
    return 512 if device.type == "cpu" else 1 << 16


def _checked_classes(
    options: Options, symbols: Tensor, boundary: Tensor | None, columns: int, like: Tensor
) -> tuple[Options, Tensor]:
    """Options whose blanks count from the start, and symbols, of a joiner with so many columns."""
    classes = columns - options.durations
    if classes < 1:
        raise ValueError(f"joiner: expected the classes and {options.durations} durations as its output, got {columns}")
    blanks = [check_index("termination_symbol", blank, classes) for blank in options.blanks]
    return options._replace(blanks=blanks), check_symbols(symbols, like.shape[0], symbols.shape[1], classes, boundary, like)


def _linear_scores(
    am: Tensor,
    lm: Tensor,
    linear: tuple[Tensor, Tensor | None],
    lengths: Tensor | None,
    symbols: Tensor,
    options: Options,
    boundary: Tensor | None,
    begin: Tensor | None,
    rows: int,
    rows_at_once: int,
) -> tuple[Tensor, Tensor]:
    weight, bias = linear
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    if autocast_enabled(am.device) and am.dtype != torch.float64:
        am, lm, weight, bias = (t.to(torch.get_autocast_dtype(am.device.type)) for t in (am, lm, weight, bias))
    if am.shape[2] != weight.shape[1] or lm.shape[2] != weight.shape[1]:
        raise ValueError(f"am and lm: expected the joiner's width {weight.shape[1]}, got {am.shape[2]} and {lm.shape[2]}")
    for name, t in (("lm", lm), ("joiner.weight", weight)):
        if t.dtype != am.dtype or t.device != am.device:
            raise TypeError(f"{name}: expected am's {am.dtype} on {am.device}, got {t.dtype} on {t.device}")
    options, symbols = _checked_classes(options, symbols, boundary, weight.shape[0], am)
    given = (am, lm, weight, bias, symbols, boundary, begin)
    if needs_plain_torch():
        return _joiner_reference(*given, rows, options)
    with without_autocast(am.device):
        label, blank, *_ = _ops.CALLS.joiner_scores(*given, lengths, rows, rows_at_once, *options)
    return label, blank


def _callable_scores(
    am: Tensor,
    lm: Tensor,
    joiner: Callable[[Tensor, Tensor], Tensor],
    symbols: Tensor,
    options: Options,
    boundary: Tensor | None,
    begin: Tensor | None,
    rows: int,
    rows_at_once: int,
) -> tuple[Tensor, Tensor]:
    batch, frames, count = am.shape[0], am.shape[1], lm.shape[1] - 1
    bounds = _ops.whole(boundary, batch, count, frames, am)
    k = torch.arange(rows, device=am.device)
    if options.clamp > 0 and needs_plain_torch():
        raise NotImplementedError("clamp: first derivatives only, and none under torch.func")
    limits = torch.zeros(batch, dtype=state_dtype(am), device=am.device) if options.clamp > 0 else None

    def scores(am: Tensor, lm: Tensor, first: int) -> tuple[Tensor, Tensor]:
        part = None if begin is None else begin[:, first : first + am.shape[1]].contiguous()
        ranges = (k if part is None else part[..., None] + k).expand(batch, am.shape[1], rows)
        logits = joiner(*do_rnnt_pruning(am, lm, ranges))
        check_logits("joiner", logits, "B, T, S + 1, C")
        if logits.shape[:3] != (batch, am.shape[1], rows) or logits.device != am.device:
            raise ValueError(
                f"joiner: expected logits of shape {[batch, am.shape[1], rows, 'C']} on {am.device}, got {list(logits.shape)} "
                f"on {logits.device}"
            )
        checked, targets = _checked_classes(options, symbols, bounds, logits.shape[3], am)
        if limits is not None:
            logits = _Clamped.apply(logits, limits, logits.shape[3] - options.durations)  # type: ignore[no-untyped-call]
        s0, t0, s1, t1 = bounds.unbind(1)
        t0, t1 = ((t - first).clamp(0, am.shape[1]) for t in (t0, t1))
        given = (with_unit_stride(logits), targets, checked._replace(clamp=0.0))
        return joint_scores(*given, torch.stack([s0, t0, s1, t1], 1), part)

    if needs_plain_torch():  # which checkpoint is not
        return scores(am, lm, 0)
    parts = [
        checkpoint(scores, am[:, part.first : part.first + part.frames], lm, part.first, use_reentrant=False)
        for part in all_nodes(1, max(frames, 1), batch * rows).parts(rows_at_once)
    ]
    label, blank = torch.cat([part[0] for part in parts], 1), torch.cat([part[1] for part in parts], 2)
    if limits is None:
        return label, blank
    return _Limits.apply(label, blank, limits, bounds, begin, options)  # type: ignore[no-untyped-call]


class _Clamped(torch.autograd.Function):
    """Logits (B, t, rows, C + D), the gradients of whose classes are limited by what `_Limits` will have written."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, limits: Tensor, classes: int) -> Tensor:
        ctx.limits, ctx.classes = limits, classes
        return logits.view_as(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        limits = ctx.limits.to(grad.dtype)[:, None, None, None]
        of_classes, of_durations = grad[..., : ctx.classes], grad[..., ctx.classes :]
        return torch.cat([of_classes.clamp(-limits, limits), of_durations], -1), None, None


class _Limits(torch.autograd.Function):
    """Label and blank scores, whose backward writes clamp * |the gradient of each sequence's score|: all of it leaves the first node."""

    @staticmethod
    def forward(
        ctx: Any, label: Tensor, blank: Tensor, limits: Tensor, bounds: Tensor, begin: Tensor | None, options: Options
    ) -> tuple[Tensor, Tensor]:
        ctx.given = limits, bounds, begin, options
        return label.view_as(label), blank.view_as(blank)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_label: Tensor, grad_blank: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        limits, bounds, begin, options = ctx.given
        rows = grad_blank.shape[3]
        leaving = torch.nn.functional.pad(grad_label, (0, rows - grad_label.shape[2])) / options.label_weight
        leaving = leaving + grad_blank[:, : len(options.blanks)].sum(1)
        if leaving.shape[1] > 0:
            b = torch.arange(len(bounds), device=bounds.device)
            t = bounds[:, 1].clamp(max=leaving.shape[1] - 1)
            k = bounds[:, 0] if begin is None else bounds[:, 0] - begin[b, t]
            first = leaving[b, t, k.clamp(0, rows - 1)]
            limits.copy_(options.clamp * torch.where((k >= 0) & (k < rows), first, 0.0).abs())
        return grad_label, grad_blank, None, None, None, None


def _joiner_reference(
    enc: Tensor,
    dec: Tensor,
    weight: Tensor,
    bias: Tensor,
    symbols: Tensor,
    boundary: Tensor | None,
    begin: Tensor | None,
    rows: int,
    options: Options,
) -> tuple[Tensor, Tensor]:
    bounds = _ops.whole(boundary, enc.shape[0], dec.shape[1] - 1, enc.shape[1], enc)
    enc, dec = reference.without_padding(enc, dec, bounds)
    if begin is None:
        joined = enc[:, :, None] + dec[:, None]
    else:
        s = (begin[:, :, None] + torch.arange(rows, device=begin.device)).clamp(max=dec.shape[1] - 1)
        joined = enc[:, :, None] + dec[torch.arange(dec.shape[0], device=begin.device)[:, None, None], s]
    logits = torch.nn.functional.linear(joined.tanh(), weight, bias)
    return scores_reference(logits, symbols, boundary, begin, None, 0, options, False)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias. Large float32 products on an x86 CPU are made by oneDNN, through the op that torch.compile uses for
    nn.Linear: on an AMD EPYC 180 GFLOP/s, where torch's own, by MKL, are at 105 to 150."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and weight.numel() >= 1 << 16 and x.shape[0] > 0 and _ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return torch.nn.functional.linear(x, weight, bias)


@_ops.registration("joiner_scores")
def _register(namespace: str) -> Callable[..., Any]:
    ops = getattr(torch.ops, namespace)

    def empty_scores(
        enc: Tensor, symbols: Tensor, begin: Tensor | None, rows: int, planes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, frames, dtype = enc.shape[0], enc.shape[1], state_dtype(enc)
        label = enc.new_empty(batch, frames, rows if begin is not None else symbols.shape[1], dtype=dtype)
        return label, label.new_empty(batch, planes, frames, rows), label.new_empty(batch, frames, rows)

    def joiner_scores(
        enc: Tensor,
        dec: Tensor,
        weight: Tensor,
        bias: Tensor,
        symbols: Tensor,
        boundary: Tensor | None,
        begin: Tensor | None,
        lengths: Tensor | None,
        rows: int,
        rows_at_once: int,
        *options: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        batch, frames, width = enc.shape
        nodes = nodes_of_lengths(lengths, boundary, batch, frames, rows, begin is not None)
        label, blank, norm = empty_scores(enc, symbols, begin, rows, Options(*options).planes)
        kept = batch * frames * rows if rows_at_once == 0 else 0
        kept_hidden, kept_logits = enc.new_empty(kept, width), enc.new_empty(kept, weight.shape[0])
        for part in nodes.parts(rows_at_once):
            hidden = kept_hidden[: part.nodes] if kept else enc.new_empty(part.nodes, width)
            at = (boundary, begin, nodes.places, part.first, part.frames, part.row)
            ops.join_(hidden, enc, dec, *at)
            logits = _linear(hidden, weight, bias)
            ops.joint_scores_(logits, symbols, label, blank, norm, *at, *options[:4])
            if kept and part.nodes < kept:
                kept_logits[: part.nodes] = logits
            elif kept:
                kept_logits = logits
        return label, blank, norm, kept_hidden, kept_logits

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
        lengths: Tensor | None,
        rows: int,
        rows_at_once: int,
        *options: Any,
    ) -> list[Tensor]:
        sums = [torch.zeros(t.shape, dtype=state_dtype(t), device=t.device) for t in (enc, dec, weight, bias)]
        grad_enc, grad_dec, grad_weight, grad_bias = sums
        batch, frames, width = enc.shape
        nodes = nodes_of_lengths(lengths, boundary, batch, frames, rows, begin is not None)
        kept_rows, keeps = None, rows_at_once == 0
        clamped = Options(*options).clamp > 0  # small gradients then count for more than their size says
        reached = None if clamped else nodes_reached(grad_label, grad_blank, nodes, nodes.total * weight.numel())
        if reached is not None:
            kept_rows = nodes.rows_of(reached[1]) if keeps else None
            nodes = reached[0]
        # products of other shapes than forward's may round in another way, and their rows then have norms of their own
        anew = reached is not None and not keeps
        if keeps and enc.device.type == "cpu":
            rows_at_once = _ROWS_OF_KEPT
        for part in nodes.parts(rows_at_once):
            here = slice(part.row, part.row + part.nodes)
            at = (nodes.places, part.first, part.frames, part.row)
            if kept_rows is not None:
                hidden, logits = kept_hidden[kept_rows[here]], kept_logits[kept_rows[here]]
            elif keeps:
                hidden, logits = kept_hidden[here], kept_logits[here].clone()
            else:
                hidden = enc.new_empty(part.nodes, width)
                ops.join_(hidden, enc, dec, boundary, begin, *at)
                logits = _linear(hidden, weight, bias)
            given = (grad_label, grad_blank, logits, symbols, norm, boundary, begin, None)
            ops.joint_scores_backward_(*given, *at, *options, anew)
            if logits.dtype == grad_weight.dtype:
                grad_weight.addmm_(logits.T, hidden)
            else:
                grad_weight += logits.T @ hidden
            grad_bias += logits.sum(0, dtype=grad_bias.dtype)
            ops.join_backward_(_linear(logits, weight.T), hidden, boundary, begin, *at, grad_enc, grad_dec)
        return [s.to(t.dtype) for s, t in zip(sums, (enc, dec, weight, bias), strict=True)]

    inputs = "Tensor enc, Tensor dec, Tensor weight, Tensor bias, Tensor symbols"
    rest = (
        "Tensor? boundary, Tensor? begin, Tensor? lengths, SymInt rows, SymInt rows_at_once, SymInt[] blanks, str kind, SymInt durations, "
        "float smoothing, float clamp, float label_weight"
    )
    grads, kept = "Tensor grad_label, Tensor grad_blank", "Tensor norm, Tensor kept_hidden, Tensor kept_logits"
    outputs = "(Tensor, Tensor, Tensor, Tensor, Tensor)"
    _ops.python_op(f"{namespace}::joiner_scores", f"({inputs}, {rest}) -> {outputs}", joiner_scores)
    backward_schema = f"({grads}, {inputs}, {kept}, {rest}) -> Tensor[]"
    _ops.python_op(f"{namespace}::joiner_scores_backward", backward_schema, joiner_scores_backward)

    def shapes_of_scores(enc, dec, weight, bias, symbols, boundary, begin, lengths, rows, rows_at_once, *options):  # type: ignore[no-untyped-def]
        nodes = enc.shape[0] * enc.shape[1] * rows if rows_at_once == 0 else 0
        kept = (enc.new_empty(nodes, width) for width in (enc.shape[2], weight.shape[0]))
        return *empty_scores(enc, symbols, begin, rows, Options(*options).planes), *kept

    def shapes_of_backward(grad_label, grad_blank, enc, dec, weight, bias, *_):  # type: ignore[no-untyped-def]
        return [t.new_empty(t.shape) for t in (enc, dec, weight, bias)]

    register_shapes(f"{namespace}::joiner_scores", shapes_of_scores)
    register_shapes(f"{namespace}::joiner_scores_backward", shapes_of_backward)
    register_shapes(f"{namespace}::join_", lambda *_: None)
    register_shapes(f"{namespace}::join_backward_", lambda *_: None)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.rows, ctx.rows_at_once = inputs[:10]
        ctx.options = Options(*inputs[10:])
        ctx.save_for_backward(*tensors, *output[2:])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[2:])

    def backward(ctx: Any, grad_label: Tensor | None, grad_blank: Tensor | None, *_: None) -> tuple[Any, ...]:
        *inputs, symbols, boundary, begin, lengths, norm, hidden, logits = ctx.saved_tensors
        nothing = [None] * 12
        if torch.is_grad_enabled():
            rest = (symbols, boundary, begin, ctx.rows, ctx.options)
            return *_ops.gradients(_joiner_reference, inputs, [grad_label, grad_blank], rest), *nothing
        with without_autocast(norm.device):
            grads = gradients_of_scores(grad_label, grad_blank, norm, ctx.options.planes, symbols if begin is None else None)
            given = (*grads, *inputs, symbols, norm, hidden, logits, boundary, begin, lengths)
            return *ops.joiner_scores_backward(*given, ctx.rows, ctx.rows_at_once, *ctx.options), *nothing

    one_by_one(f"{namespace}::joiner_scores_backward")
    return with_backward(f"{namespace}::joiner_scores", setup, backward)
