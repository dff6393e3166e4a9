"""Transducers whose arcs last: TDT (arXiv:2304.06795) and multi-blank (arXiv:2211.03541)."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _ops, reference
from ._arguments import check_index, check_logits, checked_joint
from ._modes import wants_gradients
from ._solving import frames_of, reduce, solve


def tdt_loss(
    logits: Tensor,
    symbols: Tensor,
    durations: Sequence[int],
    termination_symbol: int,
    boundary: Tensor | None = None,
    sigma: float = 0.0,
    omega: float = 0.0,
    reduction: str = "mean",
    *,
    clamp: float = 0.0,
    fastemit_lambda: float = 0.0,
    zero_infinity: bool = False,
) -> Tensor:
    """The token-and-duration transducer's loss (Xu et al., arXiv:2304.06795).

    Args:
        logits: (B, T, S + 1, C + D): of the C classes, blank among them, and of the D durations, each with its softmax. float64,
            float32, float16 or bfloat16.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        durations: D numbers of frames that a label or blank may last; blanks do not last 0, so one is above 0. Those beyond T
            cost nothing.
        termination_symbol: the blank's class.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What lies outside
            is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU.
        sigma: subtracted from the log-probabilities of classes (logit under-normalisation).
        omega: the probability that a call computes the plain RNN-T loss of the classes instead; drawn on the CPU.
        clamp: if > 0, the gradient of each of the C classes' logits, of a sequence's loss, is limited to -clamp..clamp, after
            FastEmit (NeMo's; it leaves those of durations alone).
        fastemit_lambda: the gradients of labels' classes, as NeMo's not those of durations, are multiplied by 1 + fastemit_lambda
            (Yu et al., arXiv:2010.11148); the loss is not.
        reduction: "none": (B,), "mean" over the batch, or "sum".
        zero_infinity: the loss of a sequence that has no path is 0 instead of infinite; its gradients are 0 either way.

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced.

    Raises:
        TypeError: of logits that are not floating, or other tensors and durations that are not of integers.
        ValueError: of shapes, devices, durations, classes or a reduction other than the above.

    Example:
        >>> logits = torch.randn(2, 20, 6, 30 + 5)  # 30 classes, the blank being the last, and 5 durations
        >>> loss = tdt_loss(logits, torch.randint(0, 29, (2, 5)), [0, 1, 2, 3, 4], termination_symbol=29)
    """
    durations = check_durations(durations)
    return tdt_loss_of_parts(
        *_parts(logits, len(durations), termination_symbol),
        symbols,
        durations,
        termination_symbol,
        boundary,
        sigma,
        omega,
        reduction,
        clamp,
        fastemit_lambda,
        zero_infinity,
    )


def tdt_loss_of_parts(
    tokens: Tensor,
    lasts: Tensor,
    symbols: Tensor,
    durations: Sequence[int],
    termination_symbol: int,
    boundary: Tensor | None,
    sigma: float,
    omega: float,
    reduction: str,
    clamp: float,
    fastemit_lambda: float,
    zero_infinity: bool,
) -> Tensor:
    """`tdt_loss` of logits of the classes (B, T, S + 1, C) and of checked durations (B, T, S + 1, D), which are read where they lie."""
    tokens, symbols, boundary, blank = checked_joint(tokens, symbols, termination_symbol, boundary, "regular", reduction)
    label_weight = 1 + fastemit_lambda
    options = (tokens.shape[1], [blank], "softmax", max(clamp, 0.0), label_weight, False)
    label, blanks = _ops.joint_scores(tokens, symbols, boundary, None, None, *options)
    if omega > 0 and float(torch.rand(())) < omega:
        score = solve(label, blanks, "regular", boundary, fastemit_lambda=fastemit_lambda)[0]
        return reduce(score, reduction, zero_infinity)
    lasting, of_blanks, label_durations, blank_durations = _lasting(lasts, durations, boundary, label.dtype)
    if fastemit_lambda != 0:  # the lattice will multiply this gradient, too
        lasting = lasting / label_weight + (lasting - lasting / label_weight).detach()
    arcs = (label[:, None] + lasting - sigma, blanks + of_blanks - sigma)
    return _duration_loss(*arcs, label_durations, blank_durations, boundary, reduction, fastemit_lambda, zero_infinity)


def tdt_align(
    logits: Tensor,
    symbols: Tensor,
    durations: Sequence[int],
    termination_symbol: int,
    boundary: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best path (Viterbi) of a token-and-duration transducer (Xu et al., arXiv:2304.06795).

    Args:
        logits: (B, T, S + 1, C + D): of the C classes, blank among them, and of the D durations, each with its softmax. float64,
            float32, float16 or bfloat16.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        durations: D numbers of frames that a label or blank may last; blanks do not last 0, so one is above 0.
        termination_symbol: the blank's class.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T].

    Returns:
        Its log-probability (B,); the frame at which it emits each symbol, and how many frames that lasts, (B, S) int64; -1 in
        the padding, and where there is no path.

    Raises:
        TypeError: of logits that are not floating, or other tensors and durations that are not of integers.
        ValueError: of shapes, devices, durations or classes other than the above.
    """
    durations = check_durations(durations)
    tokens, lasts = _parts(logits, len(durations), termination_symbol)
    with torch.no_grad():
        tokens, symbols, boundary, blank = checked_joint(tokens, symbols, termination_symbol, boundary, "regular", "none")
        options = (logits.shape[1], [blank], "softmax", 0.0, 1.0, False)
        label, blanks = _ops.joint_scores(tokens, symbols, boundary, None, None, *options)
        lasting, of_blanks, label_durations, blank_durations = _lasting(lasts, durations, boundary, label.dtype)
        arcs = (label[:, None] + lasting, blanks + of_blanks, label_durations, blank_durations)
        score, taken, _ = _ops.lattice(*arcs, boundary, None, False, True, True, 1.0)
        frame = frames_of(taken.sum(1))
        lasted = torch.tensor(label_durations, device=frame.device)[taken.sum(2).argmax(1)]
        return score, frame, torch.where(frame < 0, -1, lasted)


def _parts(logits: Tensor, durations: int, termination_symbol: int) -> tuple[Tensor, Tensor]:
    """Logits (B, T, S + 1, C) of the classes, and (B, T, S + 1, D) of the durations."""
    check_logits("logits", logits, "B, T, S + 1, C + D")
    classes = logits.shape[3] - durations
    if not -classes <= termination_symbol < classes:
        raise ValueError(
            f"logits: expected the C classes, with termination_symbol={termination_symbol} among them, and {durations} "
            f"durations in the last dimension, got {list(logits.shape)}"
        )
    return logits[..., :classes], logits[..., classes:]


def _lasting(
    lasts: Tensor, durations: Sequence[int], boundary: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, list[int], list[int]]:
    """Log-probabilities of durations, of labels (B, NL, T, S) and of blanks (B, NB, T, S + 1), and the durations themselves."""
    batch, frames, rows = lasts.shape[:3]
    valid = reference.inside(_ops.whole(boundary, batch, rows - 1, frames, lasts), None, frames, rows)
    lasts = torch.where(valid[..., None], lasts, 0.0).to(dtype).log_softmax(-1).permute(0, 3, 1, 2)
    of_labels, label_durations = _possible(durations, frames, 0)
    of_blanks, blank_durations = _possible(durations, frames, 1)
    return lasts[:, of_labels, :, :-1], lasts[:, of_blanks], label_durations, blank_durations


def check_durations(durations: Sequence[int], name: str = "durations") -> list[int]:
    """As numbers; raises unless they are what a TDT model may have."""
    found = check_numbers(name, durations)
    if len(set(found)) != len(found) or min(found, default=0) < 0 or max(found, default=0) < 1:
        raise ValueError(f"{name}: expected different numbers >= 0, one of them > 0, got {found}")
    return found


def check_numbers(name: str, values: Sequence[int]) -> list[int]:
    """Integers as such, whatever they are made of: torch.compile would let them vary, and the kinds of arcs with them."""
    if any(isinstance(value, bool) for value in values):
        raise TypeError(f"{name}: expected integers, got {list(values)}")
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise TypeError(f"{name}: expected integers, got {list(values)}") from None


def _possible(durations: Sequence[int], frames: int, least: int) -> tuple[list[int], list[int]]:
    """The indices of durations, not below `least`, that fit into so many frames, and they; at least one, which may just not fit."""
    known = sorted((d, i) for i, d in enumerate(durations) if d >= least)
    fitting = [(d, i) for d, i in known if d <= frames] or [(min(known[0][0], frames + 1), known[0][1])]
    return [i for _, i in fitting], [d for d, _ in fitting]


def multiblank_rnnt_loss(
    logits: Tensor,
    symbols: Tensor,
    blanks: Sequence[int],
    blank_durations: Sequence[int],
    boundary: Tensor | None = None,
    sigma: float = 0.0,
    reduction: str = "mean",
    *,
    clamp: float = 0.0,
    fastemit_lambda: float = 0.0,
    zero_infinity: bool = False,
) -> Tensor:
    """The multi-blank transducer's loss: blanks that consume several frames (Xu et al., arXiv:2211.03541).

    Args:
        logits: (B, T, S + 1, C), float64, float32, float16 or bfloat16.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        blanks: the classes of the blanks, the plain one among them.
        blank_durations: how many frames each consumes; one of them 1.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What lies outside
            is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU.
        sigma: subtracted from all log-probabilities (logit under-normalisation).
        clamp: if > 0, the gradient of each logit, of a sequence's loss, is limited to -clamp..clamp, after FastEmit.
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148); the loss is not.
        reduction: "none": (B,), "mean" over the batch, or "sum".
        zero_infinity: the loss of a sequence that has no path is 0 instead of infinite; its gradients are 0 either way.

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced.

    Raises:
        TypeError: of logits that are not floating, or other tensors and durations that are not of integers.
        ValueError: of shapes, devices, durations, classes or a reduction other than the above.
    """
    blank_durations = check_numbers("blank_durations", blank_durations)
    if len(blanks) != len(blank_durations) or 1 not in blank_durations or min(blank_durations) < 1 or len(blanks) > 8:
        raise ValueError(
            f"blank_durations: expected one for each of at most 8 blanks, at least 1, and 1 among them, got "
            f"{list(blank_durations)} for blanks {list(blanks)}"
        )
    logits, symbols, boundary, _ = checked_joint(logits, symbols, blanks[0], boundary, "regular", reduction)
    classes = [check_index("blanks", blank, logits.shape[3]) for blank in blanks]
    options = (logits.shape[1], classes, "softmax", max(clamp, 0.0), 1 + fastemit_lambda, False)
    label, blank_scores = _ops.joint_scores(logits, symbols, boundary, None, None, *options)
    of_blanks, durations = _possible(blank_durations, logits.shape[1], 1)
    arcs = (label[:, None] - sigma, blank_scores[:, of_blanks] - sigma)
    return _duration_loss(*arcs, [0], durations, boundary, reduction, fastemit_lambda, zero_infinity)


def _duration_loss(
    label: Tensor,
    blank: Tensor,
    label_durations: list[int],
    blank_durations: list[int],
    boundary: Tensor | None,
    reduction: str,
    fastemit_lambda: float,
    zero_infinity: bool,
) -> Tensor:
    wanted = wants_gradients([label], None)
    options = (boundary, None, False, False, wanted, 1 + fastemit_lambda)
    score, _, _ = _ops.lattice(label, blank, label_durations, blank_durations, *options)
    return reduce(score, reduction, zero_infinity)
