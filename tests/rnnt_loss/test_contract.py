"""Whatever works with nn.LSTM and nn.Linear works with every module of the package."""

from __future__ import annotations

import pytest
from rnnkit_common.testing import CONTRACT, check_module_contract

from .test_interop import MODULES

# Of the losses, torchaudio's goes through torch.jit.script: the others take what TorchScript has no types for.
SCRIPTED = ("RNNTLoss", "Joiner")


@pytest.mark.parametrize(
    ("name", "check"), [(name, check) for name in MODULES for check in CONTRACT if check != "scripted" or name in SCRIPTED]
)
def test_module_contract(name: str, check: str) -> None:
    check_module_contract(*MODULES[name], check, repeated=["joiner", "output_linear"])
