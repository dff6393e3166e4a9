"""The suites of the packages that ours replace: where their sources are, what they import, and which tests differ, and why."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import unittest
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

# what needs a GPU is left out where there is none; fast_rnnt's own and torchaudio's tests see to that themselves
WITHOUT_GPU = "" if torch.cuda.is_available() else "not cuda"
Names = dict[str, dict[str, Any]]  # module -> its attributes


@dataclasses.dataclass(frozen=True)
class Difference:
    """Tests that ours fails on purpose."""

    tests: str  # pattern of their names
    count: int
    message: str  # part of what pytest says of each
    why: str


@dataclasses.dataclass(frozen=True)
class Suite:
    """Tests of an upstream, and what ours are called there."""

    name: str  # of the folder with its sources
    repository: str
    branch: str
    tests: tuple[str, ...]  # files, or folders, in it
    family: str
    names: Callable[[Path], Names] = lambda sources: {}
    select: str = ""  # what pytest's -k is told
    different: tuple[Difference, ...] = ()


def module(name: str, **attributes: Any) -> ModuleType:
    """Makes `import name` find a module with these attributes; its parents become packages."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        parent = ".".join(parts[:i])
        if parent not in sys.modules:
            sys.modules[parent] = ModuleType(parent)
            sys.modules[parent].__path__ = []
    made = sys.modules[name] = ModuleType(name)
    made.__dict__.update(attributes)
    if len(parts) > 1:
        setattr(sys.modules[".".join(parts[:-1])], parts[-1], made)
    return made


def from_source(name: str, path: Path) -> dict[str, Any]:
    """The attributes of one of upstream's own files, loaded without the package around it."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return vars(loaded)


def fast_rnnt(sources: Path) -> Names:
    import rnnt_loss

    return {"fast_rnnt": {name: getattr(rnnt_loss, name) for name in rnnt_loss.__all__}}


def fastai(sources: Path) -> Names:
    import qrnn.fastai

    def forget_mult(x: Any, f: Any, hidden_init: Any = None, batch_first: bool = True, backward: bool = False) -> Any:
        return qrnn.functional.forget_mult(f, x, hidden_init, batch_first=batch_first, reverse=backward)[0]

    return {
        "fastai.basics": {"have_min_pkg_version": lambda *args: True},
        "fastai.gen_doc.doctest": {"this_tests": lambda *args: None},
        "fastai.text.models.qrnn": {
            "QRNN": qrnn.fastai.QRNN,
            "QRNNLayer": qrnn.fastai.QRNNLayer,
            "forget_mult_CPU": forget_mult,
            "ForgetMultGPU": None,
            "BwdForgetMultGPU": None,
        },
    }


def speechbrain(sources: Path) -> Names:
    import ligru

    class Size(int):
        def item(self) -> int:
            return int(self)

    attentions = ["ContentBasedAttention", "LocationAwareAttention", "KeyValueAttention"]
    module("speechbrain.nnet.attention", **dict.fromkeys(attentions))
    module("speechbrain.utils.logger", get_logger=lambda name: None)
    theirs = from_source("speechbrain.nnet.RNN", sources / "speechbrain" / "nnet" / "RNN.py")
    # its nn.LSTM gets a tensor as input_size, which torch refuses by now
    theirs["torch"] = ModuleType("torch")
    theirs["torch"].__dict__.update(vars(torch), prod=lambda sizes: Size(torch.prod(sizes)))
    return {"speechbrain.nnet.RNN": {**theirs, "LiGRU": ligru.LiGRU, "SLiGRU": ligru.SLiGRU}}


def nemo(sources: Path) -> Names:
    import rnnt_loss

    losses = sources / "nemo" / "collections" / "asr"
    types = ["LabelsType", "LengthsType", "LogprobsType", "LossType", "NeuralType"]
    module("nemo.core.classes", Loss=nn.Module)
    module("nemo.core.neural_types", **dict.fromkeys(types))
    return {
        "nemo.core.utils.numba_utils": {
            "__NUMBA_MINIMUM_VERSION__": "",
            "is_numba_cuda_fp16_supported": torch.cuda.is_available,
            "skip_numba_cuda_test_if_unsupported": lambda version: None,
        },
        "nemo.collections.asr.losses.rnnt": from_source("nemo_rnnt_pytorch", losses / "losses" / "rnnt_pytorch.py"),
        "nemo.collections.asr.parts.numba.rnnt_loss.rnnt_numpy": from_source(
            "nemo_rnnt_numpy", losses / "parts" / "numba" / "rnnt_loss" / "rnnt_numpy.py"
        ),
        "nemo.collections.asr.parts.numba.rnnt_loss.rnnt_pytorch": {
            "RNNTLossNumba": rnnt_loss.RNNTLoss,
            "MultiblankRNNTLossNumba": rnnt_loss.MultiblankRNNTLoss,
            "TDTLossNumba": rnnt_loss.TDTLoss,
        },
    }


def torchaudio(sources: Path) -> Names:
    import rnnt_loss

    class TestBaseMixin:
        dtype: torch.dtype
        device: torch.device

    class PytorchTestCase(unittest.TestCase):
        def assertEqual(self, first: Any, second: Any, atol: float | None = None, rtol: float | None = None) -> None:
            torch.testing.assert_close(first, second, atol=atol, rtol=rtol, check_dtype=False)

    def undecorated(*args: Any) -> Callable[[Any], Any]:
        return lambda function: function

    tests = sources / "test" / "torchaudio_unittest"
    module("scipy", signal=None)
    module("torchaudio.functional", rnnt_loss=rnnt_loss.torchaudio.rnnt_loss)
    others = ["TorchaudioTestCase", "get_sinusoid", "get_whitenoise"]
    common = module(
        "torchaudio_unittest.common_utils",
        rnnt_utils=module("rnnt_utils", **from_source("rnnt_utils", tests / "common_utils" / "rnnt_utils.py")),
        PytorchTestCase=PytorchTestCase,
        TestBaseMixin=TestBaseMixin,
        nested_params=undecorated,
        skipIfNoSox=lambda test: None,
        **dict.fromkeys(others, object),
    )
    sys.modules["torchaudio_unittest"].__path__ = [str(Path.cwd() / "test" / "torchaudio_unittest")]
    return {"torchaudio_unittest.common_utils": vars(common)}


SUITES = [
    Suite(
        "sru",
        "asappresearch/sru",
        "master",
        ("test/sru/test_sru.py", "test/sru/test_torchscript.py", "test/test_amp.py"),
        "sru",
    ),
    Suite(
        "sru3",
        "asappresearch/sru",
        "3.0.0-dev",
        ("test/sru/test_sru.py", "test/sru/test_torchscript.py", "test/test_amp.py"),
        "sru",
        different=(
            Difference(
                "test_projection*",
                4,
                "assert False",
                "a cell's own weight is its parameter, as in 2.6, and no module; 3.0's state dicts load all the same",
            ),
        ),
    ),
    Suite("mingru", "cheind/mingru", "main", ("tests", "conftest.py"), "mingru"),
    Suite("mingru13", "cheind/mingru", "v1.3.0", ("tests",), "mingru"),
    Suite("fastai1", "fastai/fastai1", "master", ("tests/test_text_qrnn.py",), "qrnn", fastai, "not cuda and not gpu"),
    Suite("speechbrain", "speechbrain/speechbrain", "develop", ("tests/unittests/test_RNN.py",), "ligru", speechbrain),
    Suite(
        "fast_rnnt",
        "k2-fsa/fast_rnnt",
        "master",
        ("fast_rnnt/python/tests/mutual_information_test.py", "fast_rnnt/python/tests/rnnt_loss_test.py"),
        "rnnt_loss",
        fast_rnnt,
    ),
    Suite(
        "NeMo",
        "NVIDIA/NeMo",
        "main",
        ("tests/collections/asr/numba/rnnt_loss/test_rnnt_pytorch.py",),
        "rnnt_loss",
        nemo,
        WITHOUT_GPU,
        (
            Difference(
                "test_case_small_*fastemit_*",
                5,
                "costs mismatch",
                "with FastEmit the loss is that of the likelihood, which can be compared; NeMo's is 1 + fastemit_lambda times that. "
                "The gradients are the same",
            ),
        ),
    ),
    Suite(
        "audio",
        "pytorch/audio",
        "v0.10.0",
        (
            "test/torchaudio_unittest/__init__.py",
            "test/torchaudio_unittest/functional/__init__.py",
            "test/torchaudio_unittest/functional/functional_cpu_test.py",
            "test/torchaudio_unittest/functional/functional_impl.py",
        ),
        "rnnt_loss",
        torchaudio,
        "rnnt_loss",
    ),
]
