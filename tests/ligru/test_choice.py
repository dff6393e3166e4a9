"""Which engine runs on a GPU: a function of sizes and of what the device says of itself, here an H200 and others."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from rnnkit_common import build

NATIVE = Path(__file__).parent / "native"
CSRC = Path(__file__).parents[2] / "packages" / "ligru" / "csrc"


class Device(NamedTuple):
    multiprocessors: int
    capability: int
    kilobytes: int  # of shared memory that a block can have


H200, A100, T4 = Device(132, 90, 227), Device(108, 80, 163), Device(40, 75, 64)


class Engine(NamedTuple):
    groups: int  # 0: step by step
    blocks: int  # of a group
    width: int  # units of a block
    in_cluster: bool

    @property
    def name(self) -> str:
        if self.groups == 0:
            return "steps"
        return ("alone" if self.blocks == 1 else "cluster") if self.in_cluster else "grid"


@pytest.fixture(scope="module")
def choose():
    flags = ["-DRNNKIT_EMULATE_CUDA", f"-I{CSRC}"]
    folder = NATIVE.parents[2] / "build" / "choice"
    torch.ops.load_library(str(build.compile_library("rnnkit_choice_test", [NATIVE / "choice.cpp"], folder, flags)))

    def engine(rows: int, units: int, *, operand: str, device: Device = H200, wanted: str = "") -> Engine:
        return Engine(*torch.ops.rnnkit_choice_test.engine(rows, units, operand, *device, wanted))

    return engine


@pytest.mark.parametrize(
    ("rows", "units", "operand", "expected"),
    [
        # those that an H200 was measured with: the faster of two
        (16, 512, "bfloat16", "cluster"),
        (16, 512, "float32", "grid"),
        (128, 512, "bfloat16", "grid"),
        (128, 512, "float32", "grid"),
        # and others
        (4, 64, "bfloat16", "alone"),
        (4, 64, "float32", "alone"),
        (8, 256, "bfloat16", "cluster"),
        (16, 2048, "bfloat16", "grid"),
        (16, 2048, "float32", "steps"),
        (16, 100_000, "bfloat16", "steps"),
        (4, 64, "tf32", "alone"),
        (16, 512, "tf32", "grid"),
        (128, 512, "tf32", "grid"),
        (16, 2048, "tf32", "steps"),
    ],
)
def test_the_fastest_is_chosen(choose, rows: int, units: int, operand: str, expected: str) -> None:
    assert choose(rows, units, operand=operand).name == expected


def test_what_a_device_lacks_is_not_chosen(choose) -> None:
    """Clusters before 9.0, tensor cores for bfloat16 and TF32 before 8.0, memory for all of U."""
    assert choose(16, 512, operand="bfloat16", device=A100).name == "grid"
    assert choose(16, 512, operand="bfloat16", device=T4).name == "steps"
    assert choose(4, 128, operand="tf32", device=T4).name == "steps"
    assert choose(4, 128, operand="float32", device=T4).name == "grid"
    assert choose(4, 2048, operand="float32", device=T4).name == "steps"


@pytest.mark.parametrize("units", [1, 8, 9, 63, 64, 65, 100, 511, 512, 1000])
@pytest.mark.parametrize("rows", [1, 8, 9, 100, 5000])
@pytest.mark.parametrize("wanted", ["", "cluster", "grid", "steps"])
def test_blocks_hold_all_units_and_groups_are_not_more_than_rows(choose, rows: int, units: int, wanted: str) -> None:
    engine = choose(rows, units, operand="bfloat16", wanted=wanted)
    if wanted == "cluster" and units == 1000:
        assert engine.name == "steps"  # more than 16 blocks can hold
    elif wanted:
        assert engine.name in ((wanted, "alone") if wanted == "cluster" else (wanted,))
    if engine.groups > 0:
        assert engine.blocks * engine.width >= units
        assert engine.groups <= -(-rows // 8)
        assert engine.in_cluster or engine.groups * engine.blocks <= H200.multiprocessors
