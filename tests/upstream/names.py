"""A plugin of pytest: makes upstream's names ours before its tests are imported. run.py says which upstream."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from suites import SUITES, module

(SUITE,) = (suite for suite in SUITES if suite.name == os.environ["RNNKIT_UPSTREAM"])
for _name, _attributes in SUITE.names(Path(os.environ["RNNKIT_UPSTREAM_SOURCES"])).items():
    module(_name, **_attributes)


@pytest.fixture
def device() -> str:
    """Speechbrain's tests ask for it."""
    return "cpu"
