from pathlib import Path

import pytest
import torch
from rnnkit_common.testing import Backend
from rnnkit_common.testing.backends import ORDERS, cpu_targets

CSRC = Path(__file__).parents[2] / "packages" / "rnnt_loss" / "csrc"
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
BACKENDS = [
    *(pytest.param(Backend(f"cpu-{target}", cpu_target=target), id=f"cpu-{target}") for target in cpu_targets()),
    *(pytest.param(Backend(f"emulated-{order}", order=order), id=f"emulated-{order}") for order in ORDERS),
    pytest.param(Backend("cuda"), id="cuda", marks=[pytest.mark.gpu, NO_GPU]),
]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Runs the test once per backend; `torch.ops.rnnkit_rnnt_loss` is that backend's."""
    request.param.activate("rnnt_loss", CSRC, monkeypatch)
    return request.param
