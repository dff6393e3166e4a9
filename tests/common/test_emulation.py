"""The emulated GPU finds what it is for: missing barriers, races, accesses out of bounds, divergent barriers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rnnkit_common import build

FAULTY = Path(__file__).parent / "native" / "faulty.cu"
ORDERS = {"forward": (0, 0), "reversed": (1, 0), "shuffled": (2, 1)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """run(fault, order, sanitized=False): the program's result."""
    folder = tmp_path_factory.mktemp("faulty")
    command = ["g++", "-std=c++17", "-g", "-DRNNKIT_EMULATE_CUDA", f"-I{build.INCLUDE}", "-x", "c++", str(FAULTY)]
    for name, flags in {"plain": ["-O1"], "sanitized": ["-O1", "-fsanitize=address,undefined"]}.items():
        subprocess.run([*command, *flags, "-o", str(folder / name)], check=True)

    def run(fault: str, order: str, sanitized: bool = False) -> subprocess.CompletedProcess[str]:
        program = folder / ("sanitized" if sanitized else "plain")
        arguments = [str(program), fault, *map(str, ORDERS[order])]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=60)

    return run


@pytest.mark.parametrize("sanitized", [False, True])
def test_a_correct_kernel_gives_one_answer_in_every_order(run, sanitized: bool) -> None:
    results = [run("none", order, sanitized) for order in ORDERS]
    assert [r.returncode for r in results] == [0, 0, 0], results[0].stderr
    assert len({r.stdout for r in results}) == 1
    # lane sums of 1..31,32 and 33..63,0 plus what the other block of the cluster wrote
    values = [float(x) for x in results[0].stdout.split()]
    assert values[:2] == [sum(range(1, 33)) + 200.0] * 2
    assert values[63] == sum(range(33, 64)) + 200.0
    assert values[64] == sum(range(1, 33)) + 100.0


@pytest.mark.parametrize(
    "fault", ["missing_barrier", "shared_race", "block_race", "missing_cluster_barrier", "early_cluster_write"]
)
def test_races_change_the_answer_between_orders(run, fault: str) -> None:
    answers = {run(fault, order).stdout for order in ORDERS}
    assert len(answers) > 1 or "nan" in answers.pop()  # nan: read before it was written, in whatever order


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("fault", ["divergent_barrier", "early_exit"])
def test_divergent_barriers_are_reported_with_their_places(run, fault: str, order: str) -> None:
    result = run(fault, order)
    assert result.returncode == 1
    assert "divergent barrier" in result.stdout
    assert "faulty.cu:" in result.stdout


@pytest.mark.parametrize("order", ORDERS)
def test_a_shuffle_from_a_lane_that_takes_no_part_is_reported(run, order: str) -> None:
    result = run("shuffle_outside_mask", order)
    assert result.returncode == 1
    assert "outside its mask" in result.stdout


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("fault", ["shared_out_of_bounds", "global_out_of_bounds"])
def test_accesses_out_of_bounds_are_found_by_the_address_sanitizer(run, fault: str, order: str) -> None:
    result = run(fault, order, sanitized=True)
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr


def test_shared_memory_that_nobody_wrote_is_nan(run) -> None:
    assert "nan" in run("uninitialised_shared", "forward").stdout
