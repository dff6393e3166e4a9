from pathlib import Path

import pytest
import torch
from rnnkit_common.testing import Backend
from rnnkit_common.testing.backends import ORDERS, cpu_targets

CSRC = Path(__file__).parents[2] / "packages" / "ligru" / "csrc"
# What each CUDA engine is emulated on. Twelve multiprocessors are so few that groups of the grid engine take several rows in turn.
ENGINES = {"cluster": 132, "grid": 12, "steps": 132}
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def backends() -> list:
    """The CPU's instruction sets, each CUDA engine emulated in several orders of threads, and each on a GPU."""
    found = [pytest.param((Backend(f"cpu-{t}", cpu_target=t), None), id=f"cpu-{t}") for t in cpu_targets()]
    for engine, count in ENGINES.items():
        for order in ORDERS:
            backend = Backend(f"emulated-{engine}-{order}", order=order, multiprocessors=count)
            found.append(pytest.param((backend, engine), id=backend.name))
        found.append(pytest.param((Backend("cuda"), engine), id=f"cuda-{engine}", marks=[pytest.mark.gpu, NO_GPU]))
    return found


@pytest.fixture(params=backends())
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Runs the test once per backend; `torch.ops.rnnkit_ligru` is that backend's."""
    found, engine = request.param
    if engine is not None:
        monkeypatch.setenv("RNNKIT_LIGRU_ENGINE", engine)
    found.activate("ligru", CSRC, monkeypatch)
    return found
