from pathlib import Path

from rnnkit_common.testing import backend_fixtures
from rnnkit_common.testing.backends import DEVICES

CSRC = Path(__file__).parents[2] / "packages" / "rnnt_loss" / "csrc"
backend, few_backends, host_backends = backend_fixtures("rnnt_loss", CSRC, {"large": DEVICES["large"]})
