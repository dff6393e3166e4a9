"""Comparison with an fp64 oracle."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_no_worse(name: str, actual: Tensor, oracle: Tensor, baseline: Tensor, tolerance: float) -> None:
    """Checks, element by element, that `actual` is no further from the truth than plain PyTorch in the same dtype.

    |actual - oracle| <= |baseline - oracle| + tolerance * (|oracle| + 1), with `oracle` from the float64 reference and
    `baseline` from the reference in the dtype of `actual`. A failure names the worst element and its three values.
    """
    assert actual.shape == oracle.shape, f"{name}: shape {list(actual.shape)}, expected {list(oracle.shape)}"
    if actual.numel() == 0:
        return
    a, o, b = (t.detach().to("cpu", torch.float64) for t in (actual, oracle, baseline))
    excess = (a - o).abs() - (b - o).abs().nan_to_num() - tolerance * (o.abs() + 1)
    excess = torch.where(a.isfinite() & o.isfinite(), excess, torch.inf)
    excess = torch.where(a == o, 0.0, excess)  # infinite ones, too
    if excess.max() > 0:
        flat = int(excess.argmax())
        index = [int(i) for i in torch.unravel_index(torch.tensor(flat), excess.shape)]
        raise AssertionError(
            f"{name}: worst at {index}: got {a.flatten()[flat]:.9g}, oracle {o.flatten()[flat]:.9g}, "
            f"PyTorch in {actual.dtype} {b.flatten()[flat]:.9g}; {int((excess > 0).sum())} of {a.numel()} elements fail"
        )


def relative_error(actual: Tensor, oracle: Tensor) -> float:
    """max |actual - oracle| / max |oracle|."""
    oracle = oracle.detach().double()
    return float((actual.detach().double() - oracle).abs().max() / oracle.abs().max())
