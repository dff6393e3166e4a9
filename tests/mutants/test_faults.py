"""Every fault can still be planted, and none of them is the same as another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .faults import FAULTS, Fault

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_text_that_a_fault_replaces_stands_once_in_its_file(fault: Fault) -> None:
    text = (ROOT / fault.file).read_text()
    for old, new in fault.edits:
        assert text.count(old) == 1, f"{text.count(old)} times in {fault.file}: {old}"
        assert old != new


def test_faults_differ_and_every_family_has_some() -> None:
    assert len({(fault.file, fault.edits) for fault in FAULTS}) == len(FAULTS) >= 60
    suites = [suite for fault in FAULTS for suite in fault.suites]
    assert all(suites.count(path.parent.name) >= 8 for path in ROOT.glob("packages/*/setup.py"))


def test_the_results_are_those_of_the_faults() -> None:
    rows = json.loads((ROOT / "tests" / "mutants" / "results.json").read_text())["faults"]
    assert sorted((row["file"], row["fault"]) for row in rows) == sorted((fault.file, fault.name) for fault in FAULTS)
