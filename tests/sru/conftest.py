from pathlib import Path

import pytest
from rnnkit_common.testing import Backend, backend_parameters

CSRC = Path(__file__).parents[2] / "packages" / "sru" / "csrc"


@pytest.fixture(params=backend_parameters())
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Runs the test once per backend; `torch.ops.rnnkit_sru` is that backend's."""
    request.param.activate("sru", CSRC, monkeypatch)
    return request.param
