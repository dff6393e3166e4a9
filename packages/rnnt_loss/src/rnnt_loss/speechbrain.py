"""SpeechBrain's transducer loss, by its name and arguments; since 1.1 theirs needs numba and a GPU.

In hparams, one name changes::

    transducer_cost: !name:rnnt_loss.speechbrain.transducer_loss
        blank_index: !ref <blank_index>
"""

from __future__ import annotations

from torch import Tensor

from ._arguments import check_logits, may_read
from ._checks import check_tensor
from ._forms import named
from .torchaudio import rnnt_loss

__all__ = ["transducer_loss"]


def transducer_loss(
    logits: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int,
    reduction: str = "mean",
    use_torchaudio: bool = True,
) -> Tensor:
    """The RNN-T loss (Graves, arXiv:1211.3711), as `speechbrain.nnet.losses.transducer_loss`.

    Args:
        logits: (B, T, S + 1, C), float64, float32, float16 or bfloat16.
        targets: (B, S) integers, within 0..C - 1 but for padding.
        input_lens: (B,) shares of T, in 0..1, as SpeechBrain has all lengths.
        target_lens: (B,) shares of S.
        blank_index: the blank's class.
        reduction: "mean" over the batch, "sum" or "none".
        use_torchaudio: means nothing; for hparams of SpeechBrain before 1.1.

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced.

    Raises:
        TypeError: of logits that are not floating, or targets that are not of integers.
        ValueError: of shapes, devices, lengths, targets, blank or reduction other than the above.

    Example:
        >>> shares = torch.tensor([1.0, 0.6])
        >>> loss = transducer_loss(torch.randn(2, 20, 6, 30), torch.randint(1, 30, (2, 5)), shares, shares, blank_index=0)
    """
    check_logits("logits", logits, "B, T, S + 1, C")
    check_tensor("targets", targets)
    if targets.dim() != 2:
        raise ValueError(f"targets: expected shape (B, S), got {list(targets.shape)}")
    lengths = _lengths("input_lens", input_lens, logits.shape[1])
    target_lengths = _lengths("target_lens", target_lens, targets.shape[1])
    with named(logit_lengths="input_lens", target_lengths="target_lens", blank="blank_index"):
        return rnnt_loss(logits, targets, lengths, target_lengths, blank_index, reduction=reduction)


def _lengths(name: str, shares: Tensor, whole: int) -> Tensor:
    check_tensor(name, shares)
    if not shares.is_floating_point():
        raise TypeError(f"{name}: expected shares, floating, got {shares.dtype}")
    if may_read(shares) and not bool(((shares >= 0) & (shares <= 1)).all()):
        raise ValueError(f"{name}: expected shares within 0..1, got {shares.tolist()}")
    return (shares * whole).round().long()
