"""From logits to the scores of a lattice's arcs: the op `joint_scores`.

joint_scores(logits, symbols, boundary, begin, offsets, packed_frames, *Options, reuse) -> label (B, T, S or rows), blank (B, N + D, T, rows),
    of the N blanks and of the D durations, and norm (B, T, rows)

Logits are (B, T, rows, C + D), or packed (nodes, C) with `offsets` (B,), the first node of each sequence, and
`packed_frames`, which is T. With `reuse`, backward writes gradients over the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _ops, reference
from ._derivatives import register_shapes, with_backward
from ._modes import needs_plain_torch
from ._tensors import state_dtype


class Options(NamedTuple):
    """How scores come from logits, in the order of the ops' arguments.

    Attributes:
        blanks: their classes.
        kind: one of reference.MODES.
        durations: how many of the last columns are durations, with a log-softmax of their own.
        smoothing: the share of the mean of all classes' scores in that of each arc; "softmax" only.
        clamp: if > 0, limits each class's gradient, of a sequence's score, once the lattice has multiplied those of labels.
        label_weight: by which it has.
    """

    blanks: list[int]
    kind: str = "softmax"
    durations: int = 0
    smoothing: float = 0.0
    clamp: float = 0.0
    label_weight: float = 1.0

    @property
    def planes(self) -> int:
        """Those of the blanks and of the durations."""
        return len(self.blanks) + self.durations


def options_of_durations(blanks: list[int], durations: int, clamp: float, fastemit_lambda: float) -> Options:
    """Those of a transducer whose arcs may last, the plain one among them; clamp and fastemit_lambda are NeMo's.

    Raises ValueError unless FastEmit's weight, which the clamp divides by, is above 0, and for a clamp that is no number.
    """
    if not fastemit_lambda > -1:
        raise ValueError(f"fastemit_lambda: expected a number above -1, got {fastemit_lambda}")
    return Options(blanks, durations=durations, clamp=limit_of(clamp), label_weight=1 + fastemit_lambda)


def limit_of(clamp: float) -> float:
    """Of gradients; 0, none, where a clamp is not positive. Raises ValueError for NaN, which limits nothing in silence."""
    if not (clamp > 0 or clamp <= 0):  # math.isnan is not for torch.compile, nor clamp != clamp for TorchScript
        raise ValueError(f"clamp: expected a number, got {clamp}")
    return max(clamp, 0.0)


def options_of(blank: int, use_hat_loss: bool = False, label_smoothing: float = 0.0) -> Options:
    """Those of one blank, a class that was checked; raises ValueError unless the others fit together."""
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: expected a number within 0..1, got {label_smoothing}")
    if use_hat_loss and label_smoothing > 0:
        raise ValueError("label_smoothing: expected 0 with use_hat_loss, whose blank has a distribution of its own")
    return Options([blank], "hat" if use_hat_loss else "softmax", smoothing=label_smoothing)


def joint_scores(
    logits: Tensor,
    symbols: Tensor,
    options: Options,
    boundary: Tensor | None = None,
    begin: Tensor | None = None,
    offsets: Tensor | None = None,
    *,
    packed_frames: int = 0,
    reuse: bool = False,
) -> tuple[Tensor, Tensor]:
    """The scores of labels and blanks, by the op or, under torch.func, by the reference."""
    given = (logits, symbols, boundary, begin, offsets, packed_frames)
    if needs_plain_torch():
        return scores_reference(*given, options, reuse)
    label, blank, _ = _ops.CALLS.joint_scores(*given, *options, reuse)
    return label, blank


def scores_reference(
    logits: Tensor,
    symbols: Tensor,
    boundary: Tensor | None,
    begin: Tensor | None,
    offsets: Tensor | None,
    packed_frames: int,
    options: Options,
    reuse: bool,
) -> tuple[Tensor, Tensor]:
    """What the op returns first, in operations that can be differentiated in any way."""
    if options.clamp > 0 or reuse:
        raise NotImplementedError("clamp and reuse_logits: first derivatives only, and none under torch.func")
    frames = logits.shape[1] if offsets is None else packed_frames
    boundary = _ops.whole(boundary, symbols.shape[0], symbols.shape[1], frames, logits)
    if offsets is not None:
        logits = reference.unpacked(logits, boundary, frames, symbols.shape[1])
    label, blank = reference.joint_scores(logits, symbols, boundary, begin, *options[:4])
    return label.to(state_dtype(logits)), blank.to(state_dtype(logits))


def gradients_of_scores(
    label: Tensor | None, blank: Tensor | None, norm: Tensor, planes: int, symbols: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of label and blank scores, zeros where nothing came of one; with `symbols`, there is no band."""
    batch, frames, rows = norm.shape
    if label is None:
        label = norm.new_zeros(batch, frames, rows if symbols is None else symbols.shape[1])
    if blank is None:
        blank = norm.new_zeros(batch, planes, frames, rows)
    return label, blank


@_ops.registration("joint_scores")
def _register(namespace: str) -> Callable[..., Any]:
    ops = getattr(torch.ops, namespace)

    def shapes_of_scores(logits, symbols, boundary, begin, offsets, packed_frames, blanks, kind, durations, *_):  # type: ignore[no-untyped-def]
        batch, dtype = symbols.shape[0], state_dtype(logits)
        frames, rows = (packed_frames, symbols.shape[1] + 1) if offsets is not None else logits.shape[1:3]
        label = logits.new_empty(batch, frames, rows if begin is not None else symbols.shape[1], dtype=dtype)
        return label, label.new_empty(batch, len(blanks) + durations, frames, rows), label.new_empty(batch, frames, rows)

    register_shapes(f"{namespace}::joint_scores", shapes_of_scores)
    register_shapes(
        f"{namespace}::joint_scores_backward", lambda grad_label, grad_blank, logits, *_: logits.new_empty(logits.shape)
    )
    register_shapes(f"{namespace}::joint_scores_", lambda *_: None)
    register_shapes(f"{namespace}::joint_scores_backward_", lambda *_: None)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, symbols, boundary, begin, offsets, ctx.packed_frames, *options, ctx.reuse = inputs
        ctx.options = Options(*options)
        ctx.save_for_backward(logits, symbols, boundary, begin, offsets, output[2])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[2])

    def backward(ctx: Any, grad_label: Tensor | None, grad_blank: Tensor | None, *_: None) -> tuple[Any, ...]:
        logits, symbols, boundary, begin, offsets, norm = ctx.saved_tensors
        options = ctx.options
        nothing = [None] * 12
        if torch.is_grad_enabled():
            rest = (symbols, boundary, begin, offsets, ctx.packed_frames, options, ctx.reuse)
            return *_ops.gradients(scores_reference, [logits], [grad_label, grad_blank], rest), *nothing
        logits = logits.detach()
        grads = gradients_of_scores(grad_label, grad_blank, norm, options.planes, symbols if begin is None else None)
        if ctx.reuse:
            ops.joint_scores_backward_(*grads, logits, symbols, norm, boundary, begin, offsets, None, 0, 0, 0, *options)
            torch.autograd.graph.increment_version(logits)  # so that torch notices whoever else needed them
            return logits, *nothing
        return ops.joint_scores_backward(*grads, logits, symbols, norm, boundary, begin, offsets, *options), *nothing

    return with_backward(f"{namespace}::joint_scores", setup, backward)
