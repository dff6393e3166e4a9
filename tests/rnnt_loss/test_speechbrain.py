"""SpeechBrain's form of the loss is torchaudio's, with lengths as shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rnnt_loss import speechbrain, torchaudio

LOGITS, TARGETS = torch.randn(3, 7, 5, 6), torch.randint(1, 6, (3, 4))
INPUT_LENS, TARGET_LENS = torch.tensor([1.0, 2 / 3, 0.5]), torch.tensor([1.0, 0.4, 0.74])
LENGTHS = torch.tensor([7, 5, 4]), torch.tensor([4, 2, 3])  # 4.67 is 5, 3.5 is 4; 1.6 is 2, 2.96 is 3


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_shares_are_rounded(reduction: str) -> None:
    actual, expected = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    loss = speechbrain.transducer_loss(actual, TARGETS, INPUT_LENS, TARGET_LENS, 0, reduction, use_torchaudio=False)
    wanted = torchaudio.rnnt_loss(expected, TARGETS, *LENGTHS, blank=0, reduction=reduction)
    torch.testing.assert_close(loss, wanted)
    loss.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(actual.grad, expected.grad)


@pytest.mark.parametrize(
    ("error", "words", "changes"),
    [
        (
            ValueError,
            r"input_lens: expected shares within 0..1, got \[7.0, 5.0, 3.0\]",
            {"input_lens": torch.tensor([7.0, 5.0, 3.0])},
        ),
        (TypeError, "target_lens: expected shares, floating, got torch.int64", {"target_lens": LENGTHS[1]}),
        (TypeError, "input_lens: expected a tensor, got list", {"input_lens": [1.0, 1.0, 1.0]}),
        (ValueError, "input_lens: expected shares within 0..1, got .*nan", {"input_lens": torch.full((3,), torch.nan)}),
        (ValueError, r"target_lens: expected shape \[3\], got \[2\]", {"target_lens": TARGET_LENS[:2]}),
        (ValueError, r"targets: expected shape \(B, S\), got \[3\]", {"targets": TARGETS[:, 0]}),
        (ValueError, r"logits: expected shape \(B, T, S \+ 1, C\)", {"logits": LOGITS[0]}),
        (ValueError, "blank_index: expected a class within 0..5, got 6", {"blank_index": 6}),
        (TypeError, "blank_index: expected a class, an int, got None", {"blank_index": None}),
    ],
)
def test_bad_input_is_named(error: type[Exception], words: str, changes: dict[str, Any]) -> None:
    arguments = {
        "logits": LOGITS,
        "targets": TARGETS,
        "input_lens": INPUT_LENS,
        "target_lens": TARGET_LENS,
        "blank_index": 0,
    }
    with pytest.raises(error, match=words):
        speechbrain.transducer_loss(**{**arguments, **changes})
