"""Inputs that break kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

STEPS = (0, 1, 2, 15, 16, 17, 31, 32, 33, 127, 128, 129)
CHANNELS = (1, 3, 31, 32, 33, 63, 64, 65, 100)


def saturated(*shape: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Pre-activations among 0, -0, +-1e-4, +-1, +-50 and +-120, at random."""
    values = torch.tensor([0.0, -0.0, 1e-4, -1e-4, 1.0, -1.0, 50.0, -50.0, 120.0, -120.0], dtype=dtype, device=device)
    return values[torch.randint(len(values), shape, device=device)]


def strided(t: Tensor, kind: str) -> Tensor:
    """An equal tensor (B, T, D) with other strides: "time-major"; "offset" and "odd", slices of larger ones, the second between
    the places of words of two; or "channels" (D strided)."""
    if kind == "time-major":
        return t.transpose(0, 1).contiguous().transpose(0, 1)
    larger = t.new_full((t.shape[0] + 1, t.shape[1] + 2, 2 * t.shape[2] + (2 if kind == "odd" else 3)), torch.nan)
    within = {
        "offset": slice(2, 2 + t.shape[2]),
        "odd": slice(1, 1 + t.shape[2]),
        "channels": slice(1, 1 + 2 * t.shape[2], 2),
    }
    view = larger[1:, 1:-1, within[kind]]
    view.copy_(t)
    return view


def some_sanitized(cases: Sequence[Any], every: int = 6) -> list[Any]:
    """Parameters for a test: every so many-th of the cases also runs under the sanitizers at each run of `nox`."""
    return [pytest.param(case, marks=[pytest.mark.sanitized] * (i % every == 0)) for i, case in enumerate(cases)]


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """While active, torch works with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def poisoned_outputs() -> Iterator[None]:
    """While active, torch fills memory that C++ allocates with NaN, so that an element nobody writes shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(1).isnan(), "torch no longer fills empty tensors under use_deterministic_algorithms"
        yield
    finally:
        torch.use_deterministic_algorithms(before)
