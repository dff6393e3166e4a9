"""Examples that need several packages, run as a reader would run them, but shorter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGES = Path(__file__).parents[2] / "packages"


def run(example: str, *options: str, folder: Path) -> str:
    command = [sys.executable, str(PACKAGES / example), *options]
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_a_transducer_says_by_onnxruntime_what_it_says_in_python(tmp_path: Path) -> None:
    said = run("rnnt_loss/examples/transducer_onnx.py", "--steps", "150", folder=tmp_path)
    assert "20 of 20 texts are the same in Python and by onnxruntime" in said
    assert {path.name for path in (tmp_path / "transducer").glob("*.onnx")} == {
        "encoder.onnx",
        "decoder.onnx",
        "joiner.onnx",
    }


def test_agents_learn_side_by_side_and_are_drawn(tmp_path: Path) -> None:
    said = run("mingru/examples/memory_maze.py", "--seconds", "4", "--seeds", "1", folder=tmp_path)
    assert "minGRU: 95 % of the turns right after" in said
    assert "nn.GRU: 95 % of the turns right after" in said
    assert (tmp_path / "memory_maze.png").stat().st_size > 10_000
