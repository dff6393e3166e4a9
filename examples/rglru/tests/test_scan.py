"""The op against the fp64 reference, on every backend."""

from __future__ import annotations

import dataclasses

import torch
from rglru import reference
from rnnkit_common.testing import ScanTests, scans
from torch import Tensor

from .conftest import CSRC


@dataclasses.dataclass(frozen=True)
class Case(scans.ScanCase):
    """A problem of the op: gates in one tensor, x in another, and Lambda."""

    family = "rglru"

    @property
    def names(self) -> tuple[str, ...]:
        return ("recurrence gate", "input gate", "x")

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return ("Lambda",)

    def inputs(self, planes: list[Tensor], parameters: list[Tensor]) -> list[Tensor]:
        if self.layout != "planes":
            return super().inputs(planes, parameters)
        return [torch.cat(planes[:2], dim=-1), planes[2], *parameters]


class TestScan(ScanTests):
    csrc = CSRC
    cases = scans.shapes_and_layouts(Case())


def test_a_sequence_after_a_reset_is_as_one_alone() -> None:
    """Also the multiplier of the input, which is 1 at the first step of all and not only at that of a batch."""
    torch.manual_seed(0)
    inputs = [torch.randn(2, 9, 8), torch.randn(2, 9, 4), torch.randn(4)]
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[:, [0, 5]] = True
    out, _, _ = torch.ops.rnnkit_rglru.scan(inputs, reset=reset)
    later, _, _ = torch.ops.rnnkit_rglru.scan(
        [inputs[0][:, 5:], inputs[1][:, 5:], inputs[2]], reset=reset[:, 5:].contiguous()
    )
    torch.testing.assert_close(out[:, 5:], later)
    expected = torch.sigmoid(inputs[0][:, 0, 4:]) * inputs[1][:, 0]
    torch.testing.assert_close(out[:, 0], expected)
    whole, _ = reference.scan(inputs, torch.zeros(2, 4), None, reset, "forward")
    torch.testing.assert_close(out, whole)
