"""Checks what wheels contain and prints a table of them: python contents.py WHEEL ..."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

try:
    from .baseline import misplaced
except ImportError:  # run as a script
    from baseline import misplaced

sys.path.insert(0, str(Path(__file__).parents[2] / "packages" / "common" / "src"))
from rnnkit_common.manylinux import LIMITS

LARGEST_CPU_WHEEL = 2_000_000  # bytes: what an edge device, or a continuous integration, downloads each time
# CPython's, of the limited API of 3.10 (abi3audit). All of them functions: a C++ program loads the library without Python, where
# data would have to be there, and functions that nobody calls do not.
PYTHON = frozenset(
    [
        "PyBool_FromLong",
        "PyCapsule_GetPointer",
        "PyCapsule_IsValid",
        "PyDict_New",
        "PyDict_SetItem",
        "PyErr_Clear",
        "PyErr_Occurred",
        "PyFloat_AsDouble",
        "PyImport_ImportModule",
        "PyList_New",
        "PyList_SetItem",
        "PyLong_AsLongLong",
        "PyLong_FromLongLong",
        "PyModule_Create2",
        "PyObject_Call",
        "PyObject_CallMethodObjArgs",
        "PyObject_GetAttr",
        "PyObject_GetAttrString",
        "PySequence_GetItem",
        "PySequence_Tuple",
        "PyTuple_GetItem",
        "PyTuple_New",
        "PyTuple_Pack",
        "PyTuple_SetItem",
        "PyTuple_Size",
        "PyType_GetFlags",
        "PyUnicode_AsUTF8AndSize",
        "PyUnicode_InternFromString",
        "Py_BuildValue",
        "_Py_Dealloc",
    ]
)
OUTSIDE = "|".join(  # of no version: torch's, Python's, the compiler's
    (r"aoti_torch_\w+|torch_\w+|_ITM_\w+|__gmon_start__", *PYTHON)
)


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
        assert any(name.endswith("/LICENSE") for name in names), f"{wheel.name}: no LICENSE"
        assert "+cpu" not in wheel.name or wheel.stat().st_size <= LARGEST_CPU_WHEEL, f"{wheel.name}: more than 2 MB"
        assert re.findall(r"^Requires-Dist: (.+)$", metadata, re.M) == ["torch>=2.11"], (
            f"{wheel.name}: needs more than torch"
        )
        (library,) = (name for name in names if name.endswith(".so"))
        path = archive.extract(library, folder)
        content = archive.read(library)
        named = {place.decode() for place in re.findall(rb"(?<![\w.+-])/[\w./+-]+\.(?:h|hpp|cpp|cu|c)\b", content)}
        assert not named, f"{wheel.name}: names files of the machine that built it: {sorted(named)}"
        symbols = subprocess.run(["readelf", "-W", "--dyn-syms", path], capture_output=True, text=True, check=True).stdout
        beyond = misplaced(Path(path)) if "x86_64" in wheel.name else {}
        assert not beyond, f"{wheel.name}: instructions that not every x86-64 has: {beyond}"
    unknown = [name for name in re.findall(r" UND (\w+)$", symbols, re.M) if not re.fullmatch(OUTSIDE, name)]
    assert not unknown, f"{wheel.name}: {unknown} come from nowhere"
    newest = {
        base: max([tuple(map(int, version.split("."))) for version in re.findall(rf"@{base}_([\d.]+)", symbols)] or [(0,)])
        for base in LIMITS["2.28"]
    }
    major, minor, *_ = newest["GLIBC"]
    tag = re.search(r"-manylinux_(\d+)_(\d+)_", wheel.name)
    assert tag is None or (int(tag[1]), int(tag[2])) >= (major, minor), f"{wheel.name}: needs glibc {major}.{minor}"
    if tag is not None:
        limits = {base: tuple(map(int, limit.split("."))) for base, limit in LIMITS[f"{tag[1]}.{tag[2]}"].items()}
        assert all(newest[base] <= limit for base, limit in limits.items()), f"{wheel.name}: needs {newest}"
    return len(content), f"manylinux_{major}_{minor}"


def has_cuda(wheel: Path) -> bool:
    """Whether its library has kernels for GPUs."""
    with zipfile.ZipFile(wheel) as archive:
        (library,) = (name for name in archive.namelist() if name.endswith(".so"))
        return b".nv_fatbin" in archive.read(library)


def main() -> None:
    print(f"{'wheel':72}{'wheel MB':>9}{'library MB':>12}  could be tagged")
    for wheel in map(Path, sys.argv[1:]):
        size, tag = check(wheel)
        print(f"{wheel.name:72}{wheel.stat().st_size / 1e6:9.1f}{size / 1e6:12.1f}  {tag}")


if __name__ == "__main__":
    main()
