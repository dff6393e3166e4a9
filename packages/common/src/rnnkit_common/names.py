"""Two distributions of one import name.

`_names.py` in a family is a link to this file, and a copy of it in its wheel.
"""

from __future__ import annotations

import importlib.metadata


def refuse_namesake(name: str) -> None:
    """Raises ImportError if upstream's distribution, of the same import name, is installed: the two would share a folder."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return
    raise ImportError(
        f"{name} {version} and rnnkit-{name} are both installed, in the same folder: run "
        f"`pip uninstall -y {name} rnnkit-{name}`, then install rnnkit-{name} again"
    )
