"""The tests that every scan has to pass, for a family to inherit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from . import scans
from .backends import SHARING_DEVICES, Backend, EmulatedDevice
from .fuzz import check_survives
from .interop import check_op


class ScanTests:
    """What a family's op `scan` has to pass, on every backend. In its tests/NAME/test_scan.py, beside the fixtures of conftest.py:

        class TestScan(ScanTests):
            csrc = CSRC
            cases = scans.shapes_and_layouts(Case())

    Attributes:
        csrc: where the family's native sources are.
        cases: problems; the first, of middling size, is also the one that tests of one problem are about.
    """

    csrc: ClassVar[Path]
    cases: ClassVar[Sequence[scans.ScanCase]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Makes a test of each case."""
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.cases, ids=str)

    def vary(self, **changes: Any) -> scans.ScanCase:
        """The first case, with some changes."""
        return dataclasses.replace(self.cases[0], **changes)

    def test_matches_the_reference(self, case: scans.ScanCase, backend: Backend) -> None:
        """Values and gradients, of everything that a caller may pass."""
        scans.check_against_reference(case, backend.device)

    @pytest.mark.parametrize("device", SHARING_DEVICES.values(), ids=SHARING_DEVICES.keys())
    def test_emulated_threads_agree(self, device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
        """In any order, they give the same bits."""
        case = self.vary(batch=1, steps=1100, channels=40, lengths=(1090,), reset=(100,))
        scans.check_orders_agree(case, case.family, self.csrc, device, monkeypatch)

    def test_threads_share_the_time(self, few_backends: Backend) -> None:
        """Where there are more of them than sequences."""
        case = self.vary(batch=1, steps=3000, channels=5, dtype=torch.float64, reset=(0, 255, 256, 1500, 2999))
        scans.check_shared_time(case, 16, few_backends.device)

    def test_gradients_too_large_for_the_caches(self) -> None:
        """67 channels leave some stores unaligned."""
        planes = len(self.cases[0].names)
        scans.check_large_gradients(self.vary(steps=(8 << 20) // (67 * 4 * planes) - 100, channels=67))

    def test_lengths_out_of_range(self, host_backends: Backend) -> None:
        """Every kernel looks."""
        for lengths in ((5, 41), (-1, 5)):
            with pytest.raises(RuntimeError, match="lengths"):
                scans.run_op(self.vary(lengths=lengths), scans.Problem.of(self.vary(lengths=lengths), torch.device("cpu")))

    def test_derivatives(self, few_backends: Backend) -> None:
        """First ones by finite differences, and second ones, which the reference has; in float64."""
        run, leaves = self._function(few_backends.device)
        assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)

    def test_opcheck(self) -> None:
        """What torch asks of an op."""
        for layout in ("packed", "planes", "time-major"):
            for given in self._arguments(layout=layout):
                check_op(*given)

    def test_the_bare_ops_survive_any_arguments(self, host_backends: Backend) -> None:
        """They refuse them, or take them, and keep memory safe."""
        for layout in ("packed", "planes"):
            (scan, arguments), (backward, saved) = self._arguments(layout=layout)
            check_survives(scan, _detached(arguments))
            check_survives(backward, saved, unread=[4])

    def _arguments(self, layout: str) -> list[tuple[Any, list[Any]]]:
        """The ops forward and backward, and arguments of each."""
        case = self.vary(steps=20, channels=4, lengths=(20, 7), reset=(3,), direction="backward", layout=layout)
        problem = scans.Problem.of(case, torch.device("cpu"))
        ops = getattr(torch.ops, f"rnnkit_{case.family}")
        planes = [plane.nan_to_num() for plane in problem.planes]
        if layout == "time-major":
            planes = [plane.transpose(0, 1).contiguous().transpose(0, 1) for plane in planes]
        inputs = [t.detach().requires_grad_() for t in case.inputs(planes, problem.parameters)]
        rest = [problem.lengths, problem.reset, *problem.extra, *case.options, case.direction]
        forward = [inputs, problem.h0, *rest, True]
        carries = ops.scan(*_detached(forward))[2]
        detached = [t.detach() for t in inputs]
        return [(ops.scan, forward), (ops.scan_backward, [*problem.grads, detached, carries, problem.h0, *rest])]

    def _function(self, device: torch.device) -> tuple[Callable[..., tuple[Tensor, Tensor]], list[Tensor]]:
        case = self.vary(steps=5, channels=3, dtype=torch.float64, lengths=(5, 2), reset=(2,), layout="planes")
        problem = scans.Problem.of(case, device)
        leaves = [*(plane.nan_to_num() for plane in problem.planes), *problem.parameters, problem.h0]
        count = len(problem.planes)

        def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            return case.op(case.inputs(list(tensors[:count]), list(tensors[count:-1])), tensors[-1], problem)

        return run, [t.detach().requires_grad_() for t in leaves if t is not None]


def _detached(arguments: list[Any]) -> list[Any]:
    return [[t.detach() for t in a] if isinstance(a, list) else a for a in arguments]
