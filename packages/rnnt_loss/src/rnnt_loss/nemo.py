"""NVIDIA NeMo's transducer losses, by their names, arguments and results.

Put `RNNTLoss` in the place of nemo.collections.asr.losses.rnnt.RNNTLoss, and it chooses among the others by their names in NeMo's
configurations; or use those directly. FlashRNNTLoss takes NeMo's joint network itself, and never has all logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from . import functional
from ._arguments import check_count, check_logits, check_rows
from ._checks import check_choice, check_tensor
from ._forms import boundary_of, boundary_within, named, reduced
from ._joiner import Joiner, joined_scores, rows_by_default
from ._plain import is_plain
from ._scores import options_of_durations
from ._solving import solve
from .durations import check_durations, tdt_loss_of
from .torchaudio import rnnt_loss

__all__ = [
    "FlashRNNTLoss",
    "MultiblankRNNTLoss",
    "MultiblankRNNTLossNumba",
    "RNNTLoss",
    "RNNTLossNumba",
    "TDTLoss",
    "TDTLossNumba",
]

REDUCTIONS = ("none", "mean", "mean_batch", "sum", "mean_volume")


class RNNTLossNumba(nn.Module):
    """The RNN-T loss (Graves, arXiv:1211.3711), called as NeMo's RNNTLossNumba.

    Args:
        blank: its class, also counted from the end.
        reduction: "none", "mean" or "mean_batch" (over the batch), "sum", or "mean_volume" (the sum over the number of symbols).
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148).
        clamp: if > 0, the gradient of each logit, of a sequence's loss, is limited to -clamp..clamp, after FastEmit.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", fastemit_lambda: float = 0.0, clamp: float = -1.0) -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        self.blank = blank
        self.reduction = reduction
        self.fastemit_lambda = fastemit_lambda
        self.clamp = clamp

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """The loss of logits (B, T, S + 1, C), labels (B, S) and lengths (B,).

        Raises:
            TypeError: of logits that are not floating, labels or lengths that are not integers.
            ValueError: of shapes, classes or lengths that do not fit.
        """
        with named(logits="acts", targets="labels", logit_lengths="act_lens", target_lengths="label_lens"):
            loss = rnnt_loss(
                acts,
                labels,
                act_lens,
                label_lens,
                self.blank,
                self.clamp,
                "none",
                fastemit_lambda=self.fastemit_lambda,
            )
        return reduced(loss, self.reduction, label_lens)


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
        check_choice("reduction", reduction, REDUCTIONS)
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
        check_choice("reduction", reduction, REDUCTIONS)
        self.blanks = [blank - i for i in range(len(big_blank_durations) + 1)]
        if self.blanks[-1] < 0 <= blank:
            raise ValueError(
                f"big_blank_durations: expected at most {blank}, the classes below the blank, got {big_blank_durations}"
            )
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


TDTLossNumba, MultiblankRNNTLossNumba = TDTLoss, MultiblankRNNTLoss
LOSSES = {
    "default": RNNTLossNumba,
    "warprnnt_numba": RNNTLossNumba,
    "warprnnt": RNNTLossNumba,
    "pytorch": RNNTLossNumba,
    "multiblank_rnnt": MultiblankRNNTLoss,
    "multiblank_rnnt_pytorch": MultiblankRNNTLoss,
    "tdt": TDTLoss,
    "tdt_pytorch": TDTLoss,
}


class RNNTLoss(nn.Module):
    """One of the losses above, by NeMo's name for it: nemo.collections.asr.losses.rnnt.RNNTLoss.

    Args:
        num_classes: the blank's class, which is the last of them; a TDT's durations are not among them.
        reduction: "mean_batch" (over the batch), "mean" (each loss is first divided by its symbols), "sum", "mean_volume" (the sum
            over the number of symbols), or None.
        loss_name: "default", "warprnnt_numba", "warprnnt", "pytorch" (all of them the plain loss), "multiblank_rnnt",
            "multiblank_rnnt_pytorch", "tdt" or "tdt_pytorch".
        loss_kwargs: what that loss takes beside the blank and the reduction, by its names.

    Example:
        >>> loss = RNNTLoss(num_classes=29, loss_name="tdt", loss_kwargs={"durations": [0, 1, 2, 3, 4], "sigma": 0.02})
        >>> lengths = {"input_lengths": torch.tensor([20, 12]), "target_lengths": torch.tensor([5, 3])}
        >>> value = loss(log_probs=torch.randn(2, 20, 6, 35), targets=torch.randint(0, 29, (2, 5)), **lengths)
    """

    def __init__(
        self,
        num_classes: int,
        reduction: str | None = "mean_batch",
        loss_name: str = "default",
        loss_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_choice("reduction", "none" if reduction is None else reduction, REDUCTIONS)
        check_choice("loss_name", loss_name, tuple(LOSSES))
        self.reduction = reduction
        self.loss = LOSSES[loss_name](num_classes, reduction="none", **(loss_kwargs or {}))

    def forward(self, log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        """The loss of logits (B, T, S + 1, C), targets (B, S or more) and lengths (B,).

        Raises:
            TypeError: of logits that are not floating, targets or lengths that are not integers.
            ValueError: of shapes, classes or lengths that do not fit.
        """
        check_logits("log_probs", log_probs, "B, T, S + 1, C")
        check_tensor("targets", targets)
        if targets.dim() != 2 or len(targets) != len(log_probs) or targets.shape[1] < log_probs.shape[2] - 1:
            raise ValueError(
                f"targets: expected shape (B, S) or wider, of log_probs (B, T, S + 1, C) = {list(log_probs.shape)}, got "
                f"{list(targets.shape)}"
            )
        with named(acts="log_probs", labels="targets", act_lens="input_lengths", label_lens="target_lengths"):
            loss: Tensor = self.loss(log_probs, targets[:, : log_probs.shape[2] - 1], input_lengths, target_lengths)
        return reduced(loss, self.reduction or "none", target_lengths, by_symbols=True)


class FlashRNNTLoss(nn.Module):
    """The loss and NeMo's joint network in one, without all logits: NeMo's FlashRNNTLoss, on a CPU too, and for TDT.

    An activation, dropout and a Linear make the logits; where those are tanh, none and a plain nn.Linear, one op does it all.

    Args:
        blank: its class, the last.
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148).
        clamp: if > 0, the gradient of each class's logit, of a sequence's loss, is limited to -clamp..clamp, after FastEmit.
        max_joint_rows: how many nodes' logits may exist at a time; fewer do on a CPU, whose caches they then fit.
        durations: of a TDT model, whose last outputs are of these; not one of NeMo's. None: RNN-T.
        sigma: TDT's, subtracted from the log-probabilities of classes.
    """

    def __init__(
        self,
        blank: int,
        fastemit_lambda: float = 0.0,
        clamp: float = -1.0,
        max_joint_rows: int = 200_000,
        durations: Sequence[int] | None = None,
        sigma: float = 0.0,
    ) -> None:
        super().__init__()
        check_count("max_joint_rows", max_joint_rows, 1)
        self.max_joint_rows = max_joint_rows
        self.durations = [] if durations is None else check_durations(durations)
        self.options = options_of_durations([blank], len(self.durations), clamp, fastemit_lambda)
        self.fastemit_lambda = fastemit_lambda
        self.sigma = sigma

    def forward(
        self,
        joint: nn.Module,
        encoder: Tensor,
        predictor: Tensor,
        targets: Tensor,
        source_lengths: Tensor,
        target_lengths: Tensor,
    ) -> Tensor:
        """The losses (B,).

        Args:
            joint: has project_encoder, project_prednet and joint_net, as NeMo's RNNTJoint; a temperature divides its logits.
            encoder: (B, T, D).
            predictor: (B, S + 1, P).
            targets: (B, S) integers.
            source_lengths, target_lengths: (B,) integers.

        Raises:
            TypeError: of inputs that are not floating, targets or lengths that are not integers.
            ValueError: of shapes, classes or lengths that do not fit, and of a joint with adapters or masking, which this is not.
        """
        given: Any = joint
        if getattr(given, "masking_prob", 0) > 0 and given.training:
            raise ValueError("joint: expected one that masks no predictor, but masking_prob is above 0")
        if hasattr(given, "is_adapter_available") and given.is_adapter_available():
            raise ValueError("joint: expected one without adapters, whose outputs this would leave out")
        am, lm = given.project_encoder(encoder), given.project_prednet(predictor)
        check_logits("encoder", am, "B, T, D")
        check_logits("predictor", lm, "B, S + 1, P")
        lengths = {"target_lengths": target_lengths, "source_lengths": source_lengths}
        boundary = boundary_within(lm.shape[1] - 1, am.shape[1], am, **lengths)
        rows = min(self.max_joint_rows, rows_by_default(am.device))
        with named(am="encoder", lm="predictor", symbols="targets", termination_symbol="blank"):
            check_rows("predictor", lm, targets)
            label, blank = joined_scores(
                am, lm, _joiner(given), targets, self.options, boundary, None, boundary, lm.shape[1], rows
            )
        if self.durations:
            return tdt_loss_of(label, blank, self.durations, boundary, self.sigma, 0.0, "none", self.fastemit_lambda, False)
        return -solve(label, blank, "regular", boundary, fastemit_lambda=self.fastemit_lambda)[0]


def _joiner(joint: Any) -> Joiner:
    """What makes logits of the sum of the projections: the Linear, if but a tanh stands before it, or all layers as they are."""
    layers, temperature = list(joint.joint_net), getattr(joint, "temperature", 1.0)
    plain = is_plain(joint.joint_net, nn.Sequential) and is_plain(layers[0], nn.Tanh) and isinstance(layers[-1], nn.Linear)
    idle = all(isinstance(layer, nn.Dropout) and (layer.p == 0 or not layer.training) for layer in layers[1:-1])
    if plain and idle and temperature == 1:
        output: nn.Linear = layers[-1]
        return output
    return lambda am, lm: joint.joint_net(am + lm) / temperature
