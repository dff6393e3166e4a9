from pathlib import Path

from rnnkit_common.testing import backend_fixtures

CSRC = Path(__file__).parents[2] / "packages" / "ligru" / "csrc"
# What each CUDA engine is emulated on. Twelve multiprocessors are so few that groups of the grid engine take several rows in turn.
ENGINES = {"cluster": 132, "grid": 12, "steps": 132}
backend, few_backends, host_backends = backend_fixtures("ligru", CSRC, ENGINES, "RNNKIT_LIGRU_ENGINE")
