"""Whatever works with nn.LSTM and nn.Linear works with every module of the package."""

from __future__ import annotations

import pytest
from rnnkit_common.testing import CONTRACT, check_module_contract

from .test_interop import MODULES


@pytest.mark.parametrize("check", CONTRACT)
@pytest.mark.parametrize("name", MODULES)
def test_module_contract(name: str, check: str) -> None:
    check_module_contract(*MODULES[name], check)
