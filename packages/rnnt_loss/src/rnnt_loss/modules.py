"""The losses as modules."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import _ops, functional
from ._arguments import check_choice, check_logits, check_rows
from ._forms import boundary_of, named, reduced
from ._modes import without_autocast
from ._plain import is_plain

NEMO_REDUCTIONS = ("none", "mean", "mean_batch", "sum", "mean_volume")


class TDTLoss(nn.Module):
    """The token-and-duration transducer's loss (Xu et al., arXiv:2304.06795), called as NeMo's TDTLossNumba.

    Args:
        blank: the last of the classes.
        durations: numbers of frames that a label or blank may last; blanks do not last 0, so one is above 0.
        reduction: "none", "mean" or "mean_batch" (over the batch), "sum", or "mean_volume" (the sum over the number of symbols).
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148).
        clamp: if > 0, the gradient of each class's logit, of a sequence's loss, is limited to -clamp..clamp, after FastEmit.
        sigma: subtracted from the log-probabilities of classes (logit under-normalisation).
        omega: the probability that a call computes the plain RNN-T loss of the classes instead.

    Example:
        >>> loss = TDTLoss(blank=29, durations=[0, 1, 2, 3, 4], sigma=0.05)
        >>> value = loss(torch.randn(2, 20, 6, 35), torch.randint(0, 29, (2, 5)), torch.tensor([20, 12]), torch.tensor([5, 3]))
    """

    def __init__(
        self,
        blank: int,
        durations: Sequence[int] = (0, 1, 2, 3, 4),
        reduction: str = "mean",
        fastemit_lambda: float = 0.0,
        clamp: float = -1.0,
        sigma: float = 0.0,
        omega: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, NEMO_REDUCTIONS)
        self.blank = blank
        self.durations = list(durations)
        self.reduction = reduction
        self.fastemit_lambda = fastemit_lambda
        self.clamp = clamp
        self.sigma = sigma
        self.omega = omega

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """The loss of logits (B, T, S + 1, C + durations), labels (B, S) and lengths (B,).

        Raises:
            TypeError: of logits that are not floating, labels or lengths that are not integers.
            ValueError: of shapes, classes, durations or lengths that do not fit.
        """
        check_logits("acts", acts, "B, T, S + 1, C")
        boundary = boundary_of(acts, label_lens=label_lens, act_lens=act_lens)
        with named(logits="acts", symbols="labels", termination_symbol="blank"):
            loss = functional.tdt_loss(
                acts,
                labels,
                self.durations,
                self.blank,
                boundary,
                self.sigma,
                self.omega,
                "none",
                clamp=self.clamp,
                fastemit_lambda=self.fastemit_lambda,
            )
        return reduced(loss, self.reduction, label_lens)


class MultiblankRNNTLoss(nn.Module):
    """The multi-blank transducer's loss (Xu et al., arXiv:2211.03541), called as NeMo's MultiblankRNNTLossNumba.

    Args:
        blank: the plain blank's class; that of the i-th big blank is blank - 1 - i.
        big_blank_durations: how many frames each big blank consumes.
        reduction: "none", "mean" or "mean_batch" (over the batch), "sum", or "mean_volume" (the sum over the number of symbols).
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148).
        clamp: if > 0, the gradient of each logit, of a sequence's loss, is limited to -clamp..clamp, after FastEmit.
        sigma: subtracted from all log-probabilities (logit under-normalisation).
    """

    def __init__(
        self,
        blank: int,
        big_blank_durations: Sequence[int],
        reduction: str = "mean",
        fastemit_lambda: float = 0.0,
        clamp: float = -1.0,
        sigma: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, NEMO_REDUCTIONS)
        self.blanks = [blank - i for i in range(len(big_blank_durations) + 1)]
        self.durations = [1, *big_blank_durations]
        self.reduction = reduction
        self.fastemit_lambda = fastemit_lambda
        self.clamp = clamp
        self.sigma = sigma

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """The loss of logits (B, T, S + 1, C), labels (B, S) and lengths (B,).

        Raises:
            TypeError: of logits that are not floating, labels or lengths that are not integers.
            ValueError: of shapes, classes, durations or lengths that do not fit.
        """
        check_logits("acts", acts, "B, T, S + 1, C")
        boundary = boundary_of(acts, label_lens=label_lens, act_lens=act_lens)
        with named(logits="acts", symbols="labels", blank_durations="big_blank_durations", termination_symbol="blank"):
            loss = functional.multiblank_rnnt_loss(
                acts,
                labels,
                self.blanks,
                self.durations,
                boundary,
                self.sigma,
                "none",
                clamp=self.clamp,
                fastemit_lambda=self.fastemit_lambda,
            )
        return reduced(loss, self.reduction, label_lens)


class Joiner(nn.Module):
    """tanh of the sum of two projections, then a Linear: icefall's, whose parameters have the same names.

    Args:
        encoder_dim, decoder_dim: of what is joined.
        joiner_dim: of the sum.
        vocab_size: classes, blank included.
    """

    def __init__(self, encoder_dim: int, decoder_dim: int, joiner_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.encoder_proj = nn.Linear(encoder_dim, joiner_dim)
        self.decoder_proj = nn.Linear(decoder_dim, joiner_dim)
        self.output_linear = nn.Linear(joiner_dim, vocab_size)

    def forward(self, encoder_out: Tensor, decoder_out: Tensor, project_input: bool = True) -> Tensor:
        """Logits (..., vocab_size) of what broadcasts: (..., encoder_dim) and (..., decoder_dim), or, if not projected, joiner_dim."""
        if project_input:
            encoder_out, decoder_out = self.encoder_proj(encoder_out), self.decoder_proj(decoder_out)
        logits: Tensor = self.output_linear(torch.tanh(encoder_out + decoder_out))
        return logits


def _joined(output: nn.Module, am: Tensor, lm: Tensor) -> Tensor:
    logits: Tensor = output(torch.tanh(am + lm))
    return logits


class PrunedRNNTLoss(nn.Module):
    """The pruned loss with all it needs: the two projections of the simple joiner, and the joiner itself.

    A simple loss finds the band (Kuang et al., arXiv:2206.13236), and the fused loss within it never has all logits. Its
    parameters are named as those of icefall's pruned_transducer_stateless recipes. Train with::

        simple, pruned = loss(encoder_out, decoder_out, symbols, boundary)
        (simple_scale * simple + pruned_scale * pruned).backward()

    where icefall lets simple_scale fall from 1 to 0.5 and pruned_scale rise from 0.1 to 1 over the first 2000 steps (`scales`).

    Args:
        encoder_dim, decoder_dim: of the encoder's and the predictor's outputs.
        joiner_dim: of the joiner.
        vocab_size: classes, blank included.
        s_range: rows a frame that are kept.
        blank: its class.
        lm_only_scale, am_only_scale: how much of lm and of am alone is mixed into the simple loss.
        rnnt_type: "regular": any number of symbols a frame; "modified": a symbol consumes a frame; "constrained": the same,
            and the blank of the next context is taken with it.
        delay_penalty: if > 0, added to the label's score at frame t: delay_penalty * ((end_frame - 1) / 2 - t) (Kang et al.,
            arXiv:2211.00490).
        reduction: "none": (B,), "mean" over the batch, or "sum".

    Example:
        >>> criterion = PrunedRNNTLoss(encoder_dim=384, decoder_dim=256, joiner_dim=512, vocab_size=500)
        >>> encoder_out, decoder_out = torch.randn(2, 20, 384), torch.randn(2, 6, 256)
        >>> simple, pruned = criterion(encoder_out, decoder_out, torch.randint(1, 500, (2, 5)))
        >>> (0.5 * simple + pruned).backward()
    """

    def __init__(
        self,
        encoder_dim: int,
        decoder_dim: int,
        joiner_dim: int,
        vocab_size: int,
        s_range: int = 5,
        blank: int = 0,
        lm_only_scale: float = 0.25,
        am_only_scale: float = 0.0,
        rnnt_type: str = "regular",
        delay_penalty: float = 0.0,
        reduction: str = "sum",
    ) -> None:
        super().__init__()
        self.simple_am_proj = nn.Linear(encoder_dim, vocab_size)
        self.simple_lm_proj = nn.Linear(decoder_dim, vocab_size)
        self.joiner = Joiner(encoder_dim, decoder_dim, joiner_dim, vocab_size)
        self.s_range, self.blank = s_range, blank
        self.lm_only_scale, self.am_only_scale = lm_only_scale, am_only_scale
        self.rnnt_type, self.delay_penalty, self.reduction = rnnt_type, delay_penalty, reduction

    @staticmethod
    def scales(step: int, warm_step: int = 2000) -> tuple[float, float]:
        """(simple_scale, pruned_scale) at a training step, counted from 0."""
        done = min(step / warm_step, 1.0)
        return 1.0 - 0.5 * done, 0.1 + 0.9 * done

    def forward(
        self, encoder_out: Tensor, decoder_out: Tensor, symbols: Tensor, boundary: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both losses. The predictor has seen a blank, then the symbols: `torch.nn.functional.pad(symbols, (1, 0), value=blank)`.

        Args:
            encoder_out: (B, T, encoder_dim).
            decoder_out: (B, S + 1, decoder_dim), the predictor's outputs.
            symbols: (B, S) integers.
            boundary: (B, 4) integers, rows [0, 0, symbols of the sequence, its frames]; default: no padding.

        Returns:
            (simple loss, pruned loss), reduced.

        Raises:
            TypeError, ValueError: of dtypes, shapes or values, with the argument's name.
        """
        check_logits("encoder_out", encoder_out, "B, T, encoder_dim")
        check_logits("decoder_out", decoder_out, "B, S + 1, decoder_dim")
        check_rows("decoder_out", decoder_out, symbols)
        boundary = _ops.whole(boundary, len(symbols), symbols.shape[1], encoder_out.shape[1], symbols)
        options = {"rnnt_type": self.rnnt_type, "delay_penalty": self.delay_penalty, "reduction": self.reduction}
        with without_autocast(encoder_out.device):  # 16 bits do not do for it: icefall issue 283
            weights = next((p.dtype for p in self.simple_lm_proj.parameters()), encoder_out.dtype)
            simple, (px_grad, py_grad) = functional.rnnt_loss_smoothed(
                self.simple_lm_proj(decoder_out.to(weights)),
                self.simple_am_proj(encoder_out.to(weights)),
                symbols,
                self.blank,
                self.lm_only_scale,
                self.am_only_scale,
                boundary,
                return_grad=True,
                **options,  # type: ignore[arg-type]
            )
        ranges = functional.get_rnnt_prune_ranges(px_grad, py_grad, boundary, self.s_range)
        am, lm, joiner = encoder_out, decoder_out, self.joiner
        output: Any = joiner  # as a whole, where it is hooked, wrapped, sharded, ...
        if is_plain(joiner, Joiner):
            am, lm = joiner.encoder_proj(am), joiner.decoder_proj(lm)
            output = joiner.output_linear
            if not isinstance(output, nn.Linear):
                output = functools.partial(_joined, output)
        pruned = functional.rnnt_loss_pruned_fused(
            am,
            lm,
            output,
            symbols,
            ranges,
            self.blank,
            boundary,
            **options,  # type: ignore[arg-type]
        )
        assert isinstance(pruned, Tensor)
        return simple, pruned
