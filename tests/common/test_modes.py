"""How torch runs, as families ask."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rnnkit_common.modes import allows_tf32


def by_flag(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed


def by_name(allowed: bool) -> None:
    torch.set_float32_matmul_precision("high" if allowed else "highest")


def by_precision(allowed: bool) -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32" if allowed else "ieee"


@pytest.mark.parametrize("choose", [by_flag, by_name, by_precision])
def test_tf32_is_allowed_in_all_of_torchs_ways(choose: Callable[[bool], None]) -> None:
    try:
        for allowed in (False, True, False):
            choose(allowed)
            assert allows_tf32() is allowed
    finally:
        choose(False)


def test_a_graph_keeps_whether_tf32_is_allowed() -> None:
    @torch.compile(backend="eager", fullgraph=True)
    def asked(x: torch.Tensor) -> torch.Tensor:
        return x + int(allows_tf32())

    try:
        by_flag(True)
        assert asked(torch.zeros(1)) == 1
    finally:
        by_flag(False)
