"""Examples that need several packages, or others' packages, run as a reader would run them, but shorter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from rnnt_loss.transformers import tdt_loss

PACKAGES = Path(__file__).parents[2] / "packages"


def run(example: str, *options: str, folder: Path, launcher: Sequence[str] = ()) -> str:
    command = [sys.executable, *launcher, str(PACKAGES / example), *options]
    variables = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # tests beside one another share the cores
    done = subprocess.run(command, cwd=folder, env=variables, check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    return done.stdout


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


@pytest.mark.parametrize("family", ["mingru", "qrnn", "sru", "ligru"])
def test_training(family: str, tmp_path: Path) -> None:
    options = ["--amp", "bfloat16", "--checkpoint", "--accumulate", "2"]
    assert "right: 95%" in run("../examples/training.py", "--family", family, *options, folder=tmp_path)


@pytest.mark.parametrize(
    ("family", "options"),
    [("ligru", ["--amp", "float16"]), ("mingru", ["--amp", "bfloat16", "--checkpoint", "--accumulate", "2", "--compile"])],
    ids=["float16", "everything"],
)
def test_training_otherwise(family: str, options: list[str], tmp_path: Path) -> None:
    assert "right: 95%" in run("../examples/training.py", "--family", family, *options, folder=tmp_path)


@pytest.mark.parametrize(
    ("family", "parallel"),
    [("mingru", "ddp"), ("ligru", "ddp"), ("mingru", "fsdp"), ("qrnn", "fsdp"), ("sru", "fsdp"), ("ligru", "fsdp")],
)
def test_training_by_two_processes(family: str, parallel: str, tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = ["--family", family, "--parallel", parallel, "--accumulate", "2"]
    assert "right: 95%" in run("../examples/training.py", *options, folder=tmp_path, launcher=launcher)


def test_language_models_of_words_are_trained_and_drawn(tmp_path: Path) -> None:
    said = run("qrnn/examples/word_lm.py", "--seconds", "3", folder=tmp_path)
    assert re.search(r"AWD-QRNN: 1.\d\d M parameters, \d+ words/s, perplexity \d+", said)
    assert re.search(r"AWD-LSTM: 3.\d\d M parameters, \d+ words/s, perplexity \d+", said)
    assert (tmp_path / "word_lm.png").stat().st_size > 10_000


@pytest.mark.parametrize("loss", ["tdt", "rnnt"])
def test_parakeet_of_transformers_learns(loss: str, tmp_path: Path) -> None:
    said = run("rnnt_loss/examples/parakeet.py", "--loss", loss, folder=tmp_path)
    assert int(said.split(" of 50 sentences right")[0]) >= 30


def test_tdt_loss_is_that_of_transformers() -> None:
    from transformers.loss.loss_tdt import tdt_loss as theirs

    torch.manual_seed(0)
    tokens, durations = torch.randn(3, 12, 6, 9, requires_grad=True), torch.randn(3, 12, 6, 5, requires_grad=True)
    targets = torch.randint(0, 8, (3, 5))
    lengths = torch.tensor([12, 7, 9]), torch.tensor([5, 2, 1])
    for reduction in ("mean_volume", "mean_batch", "mean", "sum", "none"):
        results = []
        for loss in (tdt_loss, theirs):
            value = loss(tokens, durations, targets, *lengths, 8, [0, 1, 2, 3, 4], sigma=0.05, reduction=reduction)
            results.append([value, *torch.autograd.grad(value.sum(), (tokens, durations))])
        torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def test_speechbrain_trains_with_ours(tmp_path: Path) -> None:
    said = run("ligru/examples/speechbrain_transducer.py", folder=tmp_path)
    rate = re.search(r"word error rate after 150 steps: (\d+)%", said)
    assert rate is not None
    assert int(rate[1]) <= 20
