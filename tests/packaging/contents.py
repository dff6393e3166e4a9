"""Checks what wheels contain and prints a table of them: python contents.py WHEEL ..."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def check(wheel: Path) -> tuple[int, str]:
    """(size of the library, oldest glibc that it runs on); raises AssertionError if something is there that should not be."""
    family = wheel.name.split("-")[0].removeprefix("rnnkit_")
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
        foreign = [name for name in names if not name.startswith((f"{family}/", f"rnnkit_{family}-"))]
        assert not foreign, f"{wheel.name}: {foreign} belong to no package of this name"
        unwanted = [name for name in names if re.search(r"rnnkit_common|tests?/|\.(cu|cpp|h|o)$", name)]
        assert not unwanted, f"{wheel.name}: {unwanted} should not be in a wheel"
        assert re.findall(r"^Requires-Dist: (.+)$", metadata, re.M) == ["torch>=2.11"], (
            f"{wheel.name}: needs more than torch"
        )
        (library,) = (name for name in names if name.endswith(".so"))
        path = archive.extract(library, folder)
        size = archive.getinfo(library).file_size
        symbols = subprocess.run(["readelf", "-V", path], capture_output=True, text=True, check=True).stdout
    versions = [tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_(\d+\.\d+)", symbols)]
    major, minor = max(versions)
    tag = re.search(r"-manylinux_(\d+)_(\d+)_", wheel.name)
    assert tag is None or (int(tag[1]), int(tag[2])) >= (major, minor), f"{wheel.name}: needs glibc {major}.{minor}"
    return size, f"manylinux_{major}_{minor}"


def main() -> None:
    print(f"{'wheel':72}{'wheel MB':>9}{'library MB':>12}  could be tagged")
    for wheel in map(Path, sys.argv[1:]):
        size, tag = check(wheel)
        print(f"{wheel.name:72}{wheel.stat().st_size / 1e6:9.1f}{size / 1e6:12.1f}  {tag}")


if __name__ == "__main__":
    main()
