"""Random problems with poisoned padding, and what the reference makes of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import torch
from rnnkit_common.testing import assert_no_worse
from rnnt_loss import reference
from torch import Tensor

TYPES = ("regular", "modified", "constrained")
# Beyond the error of plain PyTorch, of a value of 1: half a unit in the last place, which a result is rounded to once, and what
# another order of sums makes.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}


@dataclasses.dataclass
class Problem:
    """Tensors of a transducer: logits (B, T, S + 1, C), lm (B, S + 1, C), am (B, T, C), NaN outside of the boundary."""

    logits: Tensor
    lm: Tensor
    am: Tensor
    symbols: Tensor
    boundary: Tensor
    weights: Tensor  # (B,), of the losses

    @staticmethod
    def of(
        frames: int = 7,
        symbols: int = 4,
        classes: int = 6,
        *,
        batch: int = 3,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        boundary: Sequence[Sequence[int]] | None = None,
        scale: float = 1.0,
    ) -> Problem:
        """Draws one, always the same. Without a boundary, sequences end at different times."""
        torch.manual_seed(0)
        if boundary is None:
            ends = [(max(symbols - b, 0), max(frames - 2 * b, 1) if frames else 0) for b in range(batch)]
            boundary = [[0, 0, s, t] for s, t in ends]
        bounds = torch.tensor(boundary, device=device).view(batch, 4)
        logits = scale * torch.randn(batch, frames, symbols + 1, classes, dtype=torch.float64)
        lm = scale * torch.randn(batch, symbols + 1, classes, dtype=torch.float64)
        am = scale * torch.randn(batch, frames, classes, dtype=torch.float64)
        targets = torch.randint(0, classes, (batch, symbols))
        logits, lm, am = (t.to(dtype).to(device) for t in (logits, lm, am))
        valid = reference.inside(bounds, None, frames, symbols + 1)
        logits = torch.where(valid[..., None], logits, torch.nan)
        lm = torch.where(valid.any(1)[..., None], lm, torch.nan)
        am = torch.where(valid.any(2)[..., None], am, torch.nan)
        s = torch.arange(symbols)
        inside = (s >= bounds[:, :1].cpu()) & (s < bounds[:, 2:3].cpu())
        targets = torch.where(inside, targets, -7).to(device)
        weights = torch.linspace(0.5, -1.5, batch, dtype=torch.float64).to(device)
        return Problem(logits, lm, am, targets, bounds, weights)


def reference_score(
    label: Tensor, blank: Tensor, rnnt_type: str, boundary: Tensor, begin: Tensor | None = None, delay_penalty: float = 0.0
) -> Tensor:
    """The score of scores (B, T, S or rows), (B, 1, T, rows)."""
    if rnnt_type == "constrained":
        following = blank[:, 0, :, 1:]
        label = label + (following if begin is None else torch.nn.functional.pad(following, (0, 1), value=-torch.inf))
    if delay_penalty:
        t = torch.arange(label.shape[1], device=label.device, dtype=label.dtype)[:, None]
        label = label + delay_penalty * ((boundary[:, 3, None, None] - 1) / 2 - t)
    duration = 0 if rnnt_type == "regular" else 1
    return reference.lattice(label[:, None], blank, [duration], [1], boundary, begin, duration == 1)


def compare(
    run: Callable[..., Tensor],
    oracle: Callable[..., Tensor],
    leaves: Sequence[Tensor],
    weights: Tensor,
    tolerance: float | None = None,
) -> None:
    """run(*leaves) -> losses (B,), and their gradients, no further from oracle(*leaves in float64) than oracle(*leaves in float32)."""
    state = torch.float64 if leaves[0].dtype == torch.float64 else torch.float32

    def results(function: Callable[..., Tensor], work: torch.dtype | None) -> list[Tensor]:
        mine = [t.detach().requires_grad_() for t in leaves]
        loss = function(*mine) if work is None else function(*(t.to(work) for t in mine))
        assert loss.dtype == (work or state)
        grads = torch.autograd.grad((loss * weights.to(loss.dtype)).sum(), mine, materialize_grads=True)
        assert all(grad.dtype == leaf.dtype for grad, leaf in zip(grads, leaves, strict=True))
        return [loss, *grads]

    actual, baseline = results(run, None), results(oracle, state)
    truths = [t.detach().double().requires_grad_() for t in leaves]
    expected = oracle(*truths)
    oracles = [expected, *torch.autograd.grad((expected * weights).sum(), truths, materialize_grads=True)]
    names = ["loss", *(f"gradient of {i}" for i in range(len(leaves)))]
    for name, a, o, b in zip(names, actual, oracles, baseline, strict=True):
        close = TOLERANCE[a.dtype] if tolerance is None else max(tolerance, TOLERANCE[a.dtype])
        assert_no_worse(name, a, o, b, close)


def all_paths(frames: int, symbols: int, rnnt_type: str) -> list[list[tuple[str, int, int]]]:
    """Every path of a small lattice, as its arcs (kind, t, s)."""
    paths = []
    if rnnt_type == "regular":  # the last arc is a blank
        for emits in itertools.combinations(range(frames + symbols - 1), symbols):
            t = s = 0
            path = []
            for step in range(frames + symbols):
                kind = "label" if step in emits else "blank"
                path.append((kind, t, s))
                t, s = (t, s + 1) if kind == "label" else (t + 1, s)
            paths.append(path)
    else:
        for emits in itertools.combinations(range(frames), symbols):
            s, path = 0, []
            for t in range(frames):
                path.append(("label" if t in emits else "blank", t, s))
                if t in emits:
                    if rnnt_type == "constrained":
                        path.append(("blank", t, s + 1))
                    s += 1
            paths.append(path)
    return paths
