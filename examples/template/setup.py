"""Builds the extension; all that is to know about that is in rnnkit_common.build."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common" / "src"))  # where this is a checkout
try:
    from rnnkit_common.build import extension_arguments
except ModuleNotFoundError:  # an sdist, before its build requirements are installed
    setup(setup_requires=["rnnkit-common>=0.1,<0.2"])
else:
    setup(**extension_arguments(__file__))
