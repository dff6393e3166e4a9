"""The losses as modules."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from . import _ops
from ._arguments import check_logits, check_rows
from ._joiner import joined_scores
from ._modes import without_autocast
from ._plain import is_plain
from ._scores import options_of
from ._solving import reduce, solve
from .pruned import band_of
from .simple import checked_simple, smoothed_scores


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

    A simple loss finds the band (Kuang et al., arXiv:2206.13236), and only its logits are ever computed. The
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
        rows_at_once: how many nodes' logits exist at a time, and are computed again in backward; 0: all of the band's are kept,
            which is faster; None: 512 on a CPU, 65536 on a GPU.

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
        rows_at_once: int | None = 0,
    ) -> None:
        super().__init__()
        self.simple_am_proj = nn.Linear(encoder_dim, vocab_size)
        self.simple_lm_proj = nn.Linear(decoder_dim, vocab_size)
        self.joiner = Joiner(encoder_dim, decoder_dim, joiner_dim, vocab_size)
        self.s_range, self.blank = s_range, blank
        self.lm_only_scale, self.am_only_scale = lm_only_scale, am_only_scale
        self.rnnt_type, self.delay_penalty, self.reduction = rnnt_type, delay_penalty, reduction
        self.rows_at_once = rows_at_once

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
            boundary: (B, 4) integers, rows [0, 0, symbols of the sequence, its frames]; default: no padding. Where it lies
                on the CPU, the joiner multiplies no padding, on a GPU too.

        Returns:
            (simple loss, pruned loss), reduced.

        Raises:
            TypeError, ValueError: of dtypes, shapes or values, with the argument's name.
        """
        check_logits("encoder_out", encoder_out, "B, T, encoder_dim")
        check_logits("decoder_out", decoder_out, "B, S + 1, decoder_dim")
        check_rows("decoder_out", decoder_out, symbols)
        loss = {"rnnt_type": self.rnnt_type, "delay_penalty": self.delay_penalty}
        with without_autocast(encoder_out.device):  # 16 bits do not do for it: icefall issue 283
            weights = next((p.dtype for p in self.simple_lm_proj.parameters()), encoder_out.dtype)
            lm, am = self.simple_lm_proj(decoder_out.to(weights)), self.simple_am_proj(encoder_out.to(weights))
            lm, am, symbols, bounds, blank = checked_simple(
                lm, am, symbols, self.blank, boundary, self.rnnt_type, self.reduction
            )
            bounds = _ops.whole(bounds, am.shape[0], symbols.shape[1], am.shape[1], am)
            scores = smoothed_scores(lm, am, symbols, blank, self.lm_only_scale, self.am_only_scale, bounds)
            score, of_labels, of_blanks = solve(*scores, boundary=bounds, occupancies=True, **loss)  # type: ignore[arg-type]
        begin, rows = band_of(of_labels, of_blanks, bounds, self.s_range, self.rnnt_type == "regular")
        am, lm, joiner = encoder_out, decoder_out, self.joiner
        output: Any = joiner  # as a whole, where it is hooked, wrapped, sharded, ...
        if is_plain(joiner, Joiner):
            am, lm = joiner.encoder_proj(am), joiner.decoder_proj(lm)
            output = joiner.output_linear
            if not isinstance(output, nn.Linear):
                output = functools.partial(_joined, output)
        scores = joined_scores(am, lm, output, symbols, options_of(blank), bounds, begin, boundary, rows, self.rows_at_once)
        of_band, *_ = solve(*scores, boundary=bounds, begin=begin, **loss)  # type: ignore[arg-type]
        return reduce(score, self.reduction), reduce(of_band, self.reduction)
