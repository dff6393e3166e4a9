from pathlib import Path

from rnnkit_common.testing import backend_fixtures
from rnnkit_common.testing.backends import EmulatedDevice

CSRC = Path(__file__).parents[2] / "packages" / "ligru" / "csrc"
# What each CUDA engine is emulated on: those that have nothing better. Twelve multiprocessors are so few that groups of the
# grid engine take several rows in turn.
ENGINES = {
    "cluster": EmulatedDevice(132, 90),
    "async": EmulatedDevice(132, 90),
    "grid": EmulatedDevice(12, 86),
    "steps": EmulatedDevice(40, 75),
}
backend, few_backends, host_backends = backend_fixtures("ligru", CSRC, ENGINES, "RNNKIT_LIGRU_ENGINE")
