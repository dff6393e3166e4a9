from pathlib import Path

from rnnkit_common.testing import backend_fixtures

CSRC = Path(__file__).parents[2] / "packages" / "newname" / "csrc"
backend, few_backends, host_backends = backend_fixtures("newname", CSRC)
