"""Performance that needs no GPU and has no noise: how many instructions the kernels in the wheels take for an output."""

from __future__ import annotations

import sys

import pytest

from . import contents
from .test_packages import FAMILIES, ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import sass

SCANS = ["mingru", "qrnn", "sru"]
ROWS = {"BFloat16": (8, 6.5), "Half": (8, 6.5), "float": (8, 6.5)}  # of joint_scores: forward, backward, an output
# Counted at the commit that brought them here, and one in twenty more: forward, backward, of bfloat16; then of float32.
LIMITS = {
    "Kind<(Gates)0, (Activation)0>": (36, 52, 46, 63),
    "Kind<(Pooling)0, false>": (21, 31, 18, 30),
    "Kind<(Pooling)2, false>": (51, 76, 66, 90),
    "Kind<(Peephole)0, (Skip)1>": (48, 86, 57, 82),
    "Kind<(Peephole)1, (Skip)1>": (52, 93, 62, 89),
}


@pytest.fixture(scope="module")
def kernels(request: pytest.FixtureRequest) -> list[sass.Kernel]:
    wheels = [path for path in (ROOT / "dist").glob(f"rnnkit_{request.param}-*.whl") if contents.has_cuda(path)]
    newest = max(wheels, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        pytest.skip("dist/ has no wheel with CUDA kernels: nox -s wheels builds them")
    return sass.read(newest)


@pytest.mark.parametrize("kernels", [f.name for f in FAMILIES], indirect=True)
def test_every_kernel_can_be_read(kernels: list[sass.Kernel]) -> None:
    assert kernels
    assert all(0 < kernel.registers <= 255 for kernel in kernels)


@pytest.mark.parametrize("kernels", SCANS, indirect=True)
def test_scans_keep_their_tiles_in_registers(kernels: list[sass.Kernel]) -> None:
    """But for doubles. Eight bytes of stack are the message of an error; up to 24 more are spilled on other ways than the
    one that is counted: where threads exchange their maps, and at the end.
    """
    scans = [kernel for kernel in kernels if kernel.outputs and "double" not in kernel.name]
    assert scans
    assert {sass.short(kernel.name): kernel.local for kernel in scans if kernel.local or kernel.stack > 32} == {}


@pytest.mark.parametrize("kernels", SCANS, indirect=True)
def test_scans_take_few_instructions_for_an_output(kernels: list[sass.Kernel]) -> None:
    counted = {sass.short(kernel.name): len(kernel.steady) / kernel.outputs for kernel in kernels if kernel.outputs}
    seen = 0
    for kind, limits in LIMITS.items():
        ways = [(dtype, way) for dtype in ("BFloat16", "float") for way in ("forward", "backward")]
        for (dtype, way), limit in zip(ways, limits, strict=True):
            for name, instructions in counted.items():
                if name.endswith(f"_{way}_kernel<{kind}, {dtype}, Tile<2, 8> >"):
                    assert instructions <= limit, name
                    seen += 1
    assert seen >= 4


@pytest.mark.parametrize("kernels", ["rnnt_loss"], indirect=True)
def test_logits_are_read_once_in_few_instructions(kernels: list[sass.Kernel]) -> None:
    """In packs of 16 bytes, four of a lane under way, and without a spill."""
    for dtype, limits in ROWS.items():
        for way, limit in zip(("forward", "backward"), limits, strict=True):
            (kernel,) = (k for k in kernels if sass.short(k.name) == f"joint_{way}_kernel<{dtype}, 32>")
            assert len(kernel.steady) / kernel.outputs <= limit, kernel.name
            assert sum(one.moved_bytes == 16 and one.name.startswith("LDG") for one in kernel.steady) == 4
            assert kernel.local == 0
            assert kernel.stack <= 8


@pytest.mark.parametrize("kernels", ["rnnt_loss"], indirect=True)
def test_a_diagonal_of_lasting_arcs_takes_few_instructions(kernels: list[sass.Kernel]) -> None:
    """Those of four threads a node, which have its kinds of arcs in registers."""
    (kernel,) = (k for k in kernels if sass.short(k.name) == "lattice_kernel<float, 4, 3, false>")
    assert len(kernel.steady) / 4 <= 240  # the loop has four diagonals
    assert kernel.local == 0
    assert kernel.stack <= 8


@pytest.mark.parametrize("kernels", SCANS, indirect=True)
def test_loads_are_under_way_while_the_tile_before_is_computed(kernels: list[sass.Kernel]) -> None:
    """Of two planes at least: then no use of a loaded value waits behind its load."""
    plain = [k for k in kernels if "forward_kernel" in k.name and "Peephole)0" not in k.name and "double" not in k.name]
    assert plain
    assert min(kernel.wait for kernel in plain) >= 100
