"""The op against the fp64 reference, on every backend."""

from __future__ import annotations

import dataclasses

from rnnkit_common.testing import ScanTests, scans

from .conftest import CSRC


@dataclasses.dataclass(frozen=True)
class Case(scans.ScanCase):
    """A problem of the op."""

    family = "newname"

    @property
    def names(self) -> tuple[str, ...]:
        return ("gate", "x")


class TestScan(ScanTests):
    csrc = CSRC
    cases = scans.shapes_and_layouts(Case())
