"""Makes a family of scans from the template: packages/NAME and tests/NAME, which build and pass. Then change the equations.

python examples/new.py NAME [FOLDER]: in FOLDER instead of this checkout; it has packages/common.
"""

from __future__ import annotations

import keyword
import re
import shutil
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent
LINKS = ("checks", "decompositions", "derivatives", "layers", "modes", "names", "recurrence", "tensors")


def make(name: str, root: Path) -> None:
    """Writes the family, and the links to what it shares with the others."""
    class_name = name.title().replace("_", "")
    taken = {"torch", "tests", "rnnkit", "common", *sys.stdlib_module_names}
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in taken or any(map(keyword.iskeyword, (name, class_name))):
        raise SystemExit(f"NAME: expected lower-case letters, digits and underscores, and no module's name, got {name!r}")
    package, tests = root / "packages" / name, root / "tests" / name
    for folder in (package, tests):
        if folder.exists():
            raise SystemExit(f"{folder} exists")
    shutil.copytree(EXAMPLES / "template", package, ignore=shutil.ignore_patterns("build", "__pycache__", "*.so"))
    tests.parent.mkdir(exist_ok=True)
    shutil.move(package / "tests", tests)
    for path in sorted([*package.rglob("*"), *tests.rglob("*")], reverse=True):  # files before their folders
        if path.is_file():
            text = path.read_text().replace("rnnkit-newname", "rnnkit-" + name.replace("_", "-"))
            text = text.replace("newname", name).replace("NEWNAME", name.upper()).replace("Newname", class_name)
            path.write_text(re.sub(r"(?m)(^from \w.*\n)+", lambda block: "".join(sorted(block[0].splitlines(True))), text))
        path.rename(path.with_name(path.name.replace("newname", name)))
    (package / "LICENSE").symlink_to("../../LICENSE")
    for link in LINKS:
        (package / "src" / name / f"_{link}.py").symlink_to(f"../../../common/src/rnnkit_common/{link}.py")
    print(f"made {package} and {tests}: nox -s 'quick({name})' builds and tests them")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    make(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else EXAMPLES.parent)
