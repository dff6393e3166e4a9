"""Transducers whose arcs last: TDT (arXiv:2304.06795) and multi-blank (arXiv:2211.03541)."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from ._arguments import check_index, check_logits, checked_joint, with_unit_stride
from ._forms import named
from ._modes import wants_gradients
from ._scores import Options, joint_scores, options_of_durations
from ._solving import frames_of, reduce, solve
from .recursion import lattice


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
    given = _checked(logits, symbols, len(durations), termination_symbol, boundary, reduction)
    logits, symbols, boundary, blank = given
    options = options_of_durations([blank], len(durations), clamp, fastemit_lambda)
    scores = joint_scores(logits, symbols, options, boundary)
    return tdt_loss_of(*scores, durations, boundary, sigma, omega, reduction, fastemit_lambda, zero_infinity)


def tdt_loss_of(
    label: Tensor,
    blank: Tensor,
    durations: Sequence[int],
    boundary: Tensor | None,
    sigma: float,
    omega: float,
    reduction: str,
    fastemit_lambda: float,
    zero_infinity: bool,
) -> Tensor:
    """`tdt_loss` of scores: labels' (B, T, S), and those of the blank and the durations (B, 1 + D, T, S + 1)."""
    if not 0 <= omega <= 1:
        raise ValueError(f"omega: expected a probability, got {omega}")
    if omega > 0 and float(torch.rand(())) < omega:
        score = solve(label, blank[:, :1], "regular", boundary, fastemit_lambda=fastemit_lambda)[0]
        return reduce(score, reduction, zero_infinity)
    of_labels = of_blanks = blank[:, 1:]
    if fastemit_lambda != 0:  # the lattice will multiply the gradients of labels', which those of durations are part of
        weight = 1 + fastemit_lambda
        of_labels = of_labels / weight + (1 - 1 / weight) * of_labels.detach()
    arcs = _arcs(label - sigma, blank[:, :1] - sigma, of_labels, of_blanks, durations)
    return _duration_loss(*arcs, boundary, reduction, fastemit_lambda, zero_infinity)


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
    with torch.no_grad():
        logits, symbols, boundary, blank = _checked(logits, symbols, len(durations), termination_symbol, boundary, "none")
        label, blanks = joint_scores(logits, symbols, Options([blank], durations=len(durations)), boundary)
        arcs = _arcs(label, blanks[:, :1], blanks[:, 1:], blanks[:, 1:], durations)
        score, taken, _ = lattice(*arcs, boundary, viterbi=True, occupancies=True)
        frame = frames_of(taken.sum(1))
        lasted = torch.tensor(arcs[2], device=frame.device)[taken.sum(2).argmax(1)]
        return score, frame, torch.where(frame < 0, -1, lasted)


def _checked(
    logits: Tensor,
    symbols: Tensor,
    durations: int,
    termination_symbol: int,
    boundary: Tensor | None,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Logits (B, T, S + 1, C + D), symbols, boundary and blank as the ops take them."""
    check_logits("logits", logits, "B, T, S + 1, C + D")
    classes = logits.shape[3] - durations
    if not -classes <= termination_symbol < classes:
        raise ValueError(
            f"logits: expected the C classes, with termination_symbol={termination_symbol} among them, and {durations} "
            f"durations in the last dimension, got {list(logits.shape)}"
        )
    tokens = logits[..., :classes]
    _, symbols, boundary, blank = checked_joint(tokens, symbols, termination_symbol, boundary, "regular", reduction)
    return with_unit_stride(logits), symbols, boundary, blank


def _arcs(
    label: Tensor, blank: Tensor, of_labels: Tensor, of_blanks: Tensor, durations: Sequence[int]
) -> tuple[Tensor, Tensor, list[int], list[int]]:
    """Scores of arcs, and how long they last: labels (B, NL, T, S), blanks (B, NB, T, S + 1).

    Of labels (B, T, S), blanks (B, 1, T, S + 1), and durations after labels and after blanks (B, D, T, S + 1).
    """
    frames = label.shape[1]
    chosen, label_durations = _possible(durations, frames, 0)
    chosen_of_blanks, blank_durations = _possible(durations, frames, 1)
    labels = label[:, None] + of_labels[:, chosen, :, :-1]
    return labels, blank + of_blanks[:, chosen_of_blanks], label_durations, blank_durations


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
    blanks, blank_durations = check_blanks(blanks, blank_durations)
    with named(termination_symbol="blanks"):
        logits, symbols, boundary, _ = checked_joint(logits, symbols, blanks[0], boundary, "regular", reduction)
    classes = [check_index("blanks", blank, logits.shape[3]) for blank in blanks]
    options = options_of_durations(classes, 0, clamp, fastemit_lambda)
    scores = joint_scores(logits, symbols, options, boundary)
    return multiblank_loss_of(*scores, blank_durations, boundary, sigma, reduction, fastemit_lambda, zero_infinity)


def check_blanks(blanks: Sequence[int], blank_durations: Sequence[int]) -> tuple[list[int], list[int]]:
    """As numbers; raises unless they are what a multi-blank model may have."""
    durations = check_numbers("blank_durations", blank_durations)
    if len(blanks) != len(durations) or 1 not in durations or min(durations) < 1 or len(blanks) > 8:
        raise ValueError(
            f"blank_durations: expected one for each of at most 8 blanks, at least 1, and 1 among them, got "
            f"{durations} for blanks {list(blanks)}"
        )
    return list(blanks), durations


def multiblank_loss_of(
    label: Tensor,
    blank: Tensor,
    durations: Sequence[int],
    boundary: Tensor | None,
    sigma: float,
    reduction: str,
    fastemit_lambda: float,
    zero_infinity: bool,
) -> Tensor:
    """`multiblank_rnnt_loss` of scores: labels' (B, T, S), and those of the blanks (B, N, T, S + 1)."""
    of_blanks, durations = _possible(durations, label.shape[1], 1)
    arcs = (label[:, None] - sigma, blank[:, of_blanks] - sigma, [0], durations)
    return _duration_loss(*arcs, boundary, reduction, fastemit_lambda, zero_infinity)


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
    durations = (label_durations, blank_durations)
    wanted = wants_gradients([label], None)
    score, _, _ = lattice(label, blank, *durations, boundary, occupancies=wanted, label_weight=1 + fastemit_lambda)
    return reduce(score, reduction, zero_infinity)
