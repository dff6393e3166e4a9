"""The losses of Hugging Face Transformers, by what they say in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rnnkit_common.testing import assert_no_worse
from rnnt_loss import reference, transformers
from torch import Tensor

B, T, S, C = 3, 9, 4, 6
DURATIONS = [0, 1, 2, 4]
LOGIT_LENGTHS, TARGET_LENGTHS = torch.tensor([9, 5, 7]), torch.tensor([4, 2, 1])


def targets() -> Tensor:
    """With -100 in the padding, which is not looked at."""
    symbols = torch.randint(0, C - 1, (B, S))
    return torch.where(torch.arange(S) < TARGET_LENGTHS[:, None], symbols, -100)


def by_equations(losses: Tensor, reduction: str) -> Tensor:
    return {
        "mean_volume": losses.sum() / TARGET_LENGTHS.sum(),
        "mean_batch": losses.mean(),
        "mean": (losses / TARGET_LENGTHS).mean(),
        "sum": losses.sum(),
        "none": losses,
    }[reduction]


def boundary() -> Tensor:
    return torch.stack([torch.zeros(B).long(), torch.zeros(B).long(), TARGET_LENGTHS, LOGIT_LENGTHS], 1)


def scores(tokens: Tensor, symbols: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and blanks; the padding is not looked at."""
    inside = reference.inside(boundary(), None, T, S + 1)[..., None]
    return reference.joint_scores(torch.where(inside, tokens, 0.0), symbols.clamp(min=0), boundary(), None, [C - 1])


def rnnt_by_equations(logits: Tensor, symbols: Tensor, reduction: str) -> Tensor:
    label, blank = scores(logits, symbols)
    return by_equations(-reference.lattice(label[:, None], blank, [0], [1], boundary()), reduction)


def tdt_by_equations(logits: Tensor, symbols: Tensor, reduction: str) -> Tensor:
    label, blank = scores(logits[..., :C], symbols)
    inside = reference.inside(boundary(), None, T, S + 1)[..., None]
    lasts = torch.where(inside, logits[..., C:], 0.0).log_softmax(-1).permute(0, 3, 1, 2)
    arcs = (label[:, None] + lasts[:, :, :, :-1] - 0.05, blank + lasts[:, 1:] - 0.05)
    return by_equations(-reference.lattice(*arcs, DURATIONS, DURATIONS[1:], boundary()), reduction)


def rnnt(logits: Tensor, symbols: Tensor, reduction: str) -> Tensor:
    lengths = {"logit_lengths": LOGIT_LENGTHS, "label_lengths": TARGET_LENGTHS}
    return transformers.ParakeetForRNNTLoss(logits, symbols, **lengths, blank_token_id=C - 1, reduction=reduction, other=1)


def tdt(logits: Tensor, symbols: Tensor, reduction: str) -> Tensor:
    options: dict[str, Any] = {"blank_token_id": C - 1, "durations": DURATIONS, "sigma": 0.05, "reduction": reduction}
    lengths = {"logit_lengths": LOGIT_LENGTHS, "label_lengths": TARGET_LENGTHS}
    return transformers.ParakeetForTDTLoss(logits[..., :C], logits[..., C:], symbols, **lengths, **options, other=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", transformers.REDUCTIONS)
@pytest.mark.parametrize(
    ("ours", "expected", "classes"),
    [(rnnt, rnnt_by_equations, C), (tdt, tdt_by_equations, C + len(DURATIONS))],
    ids=["rnnt", "tdt"],
)
def test_values_and_gradients(ours: Any, expected: Any, classes: int, reduction: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits, symbols = torch.randn(B, T, S + 1, classes).to(dtype), targets()

    def both(loss: Any, x: Tensor) -> list[Tensor]:
        x = x.requires_grad_()
        value = loss(x, symbols, reduction)
        return [value.detach(), *torch.autograd.grad(value.sum(), x)]

    exact = both(expected, logits.double())
    plain = both(expected, logits.detach().clone())
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 4e-3}[dtype]
    for name, actual, oracle, baseline in zip(
        ("loss", "gradient"), both(ours, logits.detach().clone()), exact, plain, strict=True
    ):
        assert_no_worse(name, actual, oracle, baseline, tolerance)


def test_compiled_with_any_length() -> None:
    compiled = torch.compile(transformers.tdt_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for steps, durations in ((T, DURATIONS), (2 * T, DURATIONS), (T, [1, 0, 3, 2])):
        tokens, lasting = torch.randn(B, steps, S + 1, C), torch.randn(B, steps, S + 1, len(durations))
        arguments = (tokens, lasting, targets().clamp(min=0), LOGIT_LENGTHS, TARGET_LENGTHS, C - 1, durations)
        torch.testing.assert_close(compiled(*arguments), transformers.tdt_loss(*arguments))


@pytest.mark.parametrize(
    ("error", "words", "changes"),
    [
        (ValueError, r"reduction: expected one of 'mean_volume', .*, got 'x'", {"reduction": "x"}),
        (
            ValueError,
            r"duration_logits: expected shape \[3, 9, 5, 4\], got \[3, 9, 5, 3\]",
            {"duration_logits": torch.randn(B, T, 5, 3)},
        ),
        (
            TypeError,
            "duration_logits: expected token_logits' torch.float32",
            {"duration_logits": torch.randn(B, T, 5, 4).double()},
        ),
        (ValueError, r"target_lengths: expected values within 0..4, got 5..5", {"target_lengths": torch.full((B,), 5)}),
        (ValueError, r"targets: expected values within 0..5, got 9", {"targets": torch.full((B, S), 9)}),
        (ValueError, r"durations: expected different numbers", {"durations": [0, 0, 1, 2]}),
        (ValueError, r"blank_token_id: .* got 6", {"blank_token_id": 6}),
        (TypeError, r"durations: expected integers, got \[0.5, 1, 2, 3\]", {"durations": [0.5, 1, 2, 3]}),
        (
            ValueError,
            r"duration_logits: expected token_logits' device",
            {"duration_logits": torch.randn(B, T, 5, 4, device="meta")},
        ),
    ],
)
def test_bad_input_is_named(error: type[Exception], words: str, changes: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "token_logits": torch.randn(B, T, S + 1, C),
        "duration_logits": torch.randn(B, T, S + 1, len(DURATIONS)),
        "targets": targets(),
        "logit_lengths": LOGIT_LENGTHS,
        "target_lengths": TARGET_LENGTHS,
        "blank_token_id": C - 1,
        "durations": DURATIONS,
    }
    with pytest.raises(error, match=words):
        transformers.tdt_loss(**{**arguments, **changes})
