"""The losses as modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import _ops, functional


def _boundary(symbol_lengths: Tensor, frame_lengths: Tensor) -> Tensor:
    start = torch.zeros_like(symbol_lengths)
    return torch.stack([start, start, symbol_lengths, frame_lengths.to(start.device)], 1)


def _check_reduction(reduction: str) -> str:
    if reduction not in ("none", "mean", "sum", "mean_volume"):
        raise ValueError(f"reduction: expected one of 'none', 'mean', 'sum', 'mean_volume', got {reduction!r}")
    return reduction


def _reduced(loss: Tensor, reduction: str, symbol_lengths: Tensor) -> Tensor:
    if reduction == "mean_volume":  # NeMo's: by symbols
        return loss.sum() / symbol_lengths.sum().to(loss.device)
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


class TDTLoss(nn.Module):
    """The token-and-duration transducer's loss, called as NeMo's TDTLossNumba: see `functional.tdt_loss`.

    Args:
        blank: the last of the classes.
        durations, fastemit_lambda, sigma, omega: see there.
        reduction: "none", "mean" (over the batch), "sum", or "mean_volume" (the sum over the number of symbols).
    """

    def __init__(
        self,
        blank: int,
        durations: Sequence[int] = (0, 1, 2, 3, 4),
        reduction: str = "mean",
        fastemit_lambda: float = 0.0,
        sigma: float = 0.0,
        omega: float = 0.0,
    ) -> None:
        super().__init__()
        self.blank, self.durations, self.reduction = blank, list(durations), _check_reduction(reduction)
        self.fastemit_lambda, self.sigma, self.omega = fastemit_lambda, sigma, omega

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """The loss of logits (B, T, S + 1, C + durations), labels (B, S) and lengths (B,)."""
        loss = functional.tdt_loss(
            acts,
            labels,
            self.durations,
            self.blank,
            _boundary(label_lens, act_lens),
            self.sigma,
            self.omega,
            "none",
            fastemit_lambda=self.fastemit_lambda,
        )
        return _reduced(loss, self.reduction, label_lens)


class MultiblankRNNTLoss(nn.Module):
    """The multi-blank loss, called as NeMo's MultiblankRNNTLossNumba: see `functional.multiblank_rnnt_loss`.

    Args:
        blank: the plain blank's class; that of the i-th big blank is blank - 1 - i.
        big_blank_durations: how many frames each big blank consumes.
        reduction: see `TDTLoss`.
        fastemit_lambda, sigma: see there.
    """

    def __init__(
        self,
        blank: int,
        big_blank_durations: Sequence[int],
        reduction: str = "mean",
        fastemit_lambda: float = 0.0,
        sigma: float = 0.0,
    ) -> None:
        super().__init__()
        self.blanks = [blank - i for i in range(len(big_blank_durations) + 1)]
        self.durations = [1, *big_blank_durations]
        self.reduction, self.fastemit_lambda, self.sigma = _check_reduction(reduction), fastemit_lambda, sigma

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """The loss of logits (B, T, S + 1, C), labels (B, S) and lengths (B,)."""
        loss = functional.multiblank_rnnt_loss(
            acts,
            labels,
            self.blanks,
            self.durations,
            _boundary(label_lens, act_lens),
            self.sigma,
            "none",
            fastemit_lambda=self.fastemit_lambda,
        )
        return _reduced(loss, self.reduction, label_lens)


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


class PrunedRNNTLoss(nn.Module):
    """The pruned loss with all it needs: the two projections of the simple joiner, and the joiner itself.

    A simple loss finds the band (Kuang et al., arXiv:2206.13236), and the fused loss within it never has all logits. Its
    parameters are named as those of icefall's pruned_transducer_stateless recipes. Train with

        simple, pruned = loss(encoder_out, decoder_out, symbols, boundary)
        (simple_scale * simple + pruned_scale * pruned).backward()

    where icefall lets simple_scale fall from 1 to 0.5 and pruned_scale rise from 0.1 to 1 over the first 2000 steps (`scales`).

    Args:
        encoder_dim, decoder_dim: of the encoder's and the predictor's outputs.
        joiner_dim: of the joiner.
        vocab_size: classes, blank included.
        s_range: rows a frame that are kept.
        blank: its class.
        lm_only_scale, am_only_scale, rnnt_type, delay_penalty, reduction: see `rnnt_loss.functional`.
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
        """(simple loss, pruned loss) of (B, T, encoder_dim), (B, S + 1, decoder_dim) and symbols (B, S)."""
        boundary = _ops.whole(boundary, len(symbols), symbols.shape[1], encoder_out.shape[1], symbols)
        options = {"rnnt_type": self.rnnt_type, "delay_penalty": self.delay_penalty, "reduction": self.reduction}
        with torch.autocast(encoder_out.device.type, enabled=False):  # 16 bits do not do for it: icefall issue 283
            weights = self.simple_lm_proj.weight.dtype
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
        am, lm = self.joiner.encoder_proj(encoder_out), self.joiner.decoder_proj(decoder_out)
        pruned = functional.rnnt_loss_pruned_fused(
            am,
            lm,
            self.joiner.output_linear,
            symbols,
            ranges,
            self.blank,
            boundary,
            **options,  # type: ignore[arg-type]
        )
        assert isinstance(pruned, Tensor)
        return simple, pruned
