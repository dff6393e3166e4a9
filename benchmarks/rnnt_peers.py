"""The peers of bench_rnnt_loss.py, made to run beside today's torch, on a CPU as well.

fast_rnnt is compiled from its sources as C++17, which its own build, made for C++14, does not do with today's torch.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import subprocess
import sys
import tarfile
import types
from pathlib import Path
from typing import Any

import suite
import torch
from suite import PEERS
from torch import Tensor


def torchaudio() -> Any:
    """torchaudio.functional.rnnt_loss's op. Its wheel on PyPI wants CUDA's libraries, of which CPU-only torch gets empty ones."""
    folder = suite.unpacked("torchaudio==2.11.0")
    if torch.version.cuda is None:
        source = PEERS / "empty.c"
        missing = ["aoti_torch_device_type_cuda", "aoti_torch_get_current_cuda_stream", "torch_c10_cuda_check_msg"]
        missing += ["torch_c10_cuda_free_error_msg", "torch_cuda_stream_synchronize", "torch_get_cuda_stream_from_pool"]
        missing += ["torch_set_current_cuda_stream"]
        runtime = ["__cudaGetKernel", "__cudaLaunchKernel", "__cudaPopCallConfiguration", "__cudaPushCallConfiguration"]
        runtime += ["__cudaRegisterFatBinary", "__cudaRegisterFatBinaryEnd", "__cudaRegisterFunction", "__cudaRegisterVar"]
        runtime += ["__cudaUnregisterFatBinary", "cudaGetLastError", "cudaMemcpyAsync", "cudaMemset", "cudaSetDevice"]
        for name, symbols in (("libc10_cuda.so", missing), ("libtorch_cuda.so", []), ("libcudart.so.13", runtime)):
            source.write_text("\n".join(f"int {symbol}(void) {{ return 0; }}" for symbol in symbols))
            version = PEERS / "empty.map"
            version.write_text("libcudart.so.13 { global: *; };\n")
            script = [f"-Wl,--version-script={version}"] if name.startswith("libcudart") else []
            options = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", *script, str(source), "-o", str(PEERS / name)]
            subprocess.run(["gcc", *options], check=True)
            ctypes.CDLL(str(PEERS / name), mode=ctypes.RTLD_GLOBAL)
    torch.ops.load_library(str(folder / "torchaudio" / "lib" / "libtorchaudio.abi3.so"))

    class Loss(torch.autograd.Function):
        """As torchaudio registers it: gradients are computed with the costs."""

        @staticmethod
        def forward(ctx: Any, logits: Tensor, targets: Tensor, frames: Tensor, symbols: Tensor) -> Tensor:
            costs, ctx.grads = torch.ops.torchaudio.rnnt_loss_forward(logits, targets, frames, symbols, 0, -1.0, True)
            return costs

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
            return grad[:, None, None, None] * ctx.grads, None, None, None

    return lambda logits, targets, frames, symbols: Loss.apply(logits, targets, frames, symbols).sum()


def fast_rnnt(cuda: bool) -> Any:
    """fast_rnnt 1.3, from its sources."""
    from torch.utils import cpp_extension

    folder = PEERS / "fast_rnnt-1.3"
    if not folder.exists():
        with tarfile.open(suite.fetched("fast_rnnt==1.3", "--no-binary=:all:", "--no-build-isolation")) as file:
            file.extractall(PEERS, filter="data")
    names = ["fast_rnnt/csrc/mutual_information_cpu.cu", "fast_rnnt/python/csrc/fast_rnnt.cu"]
    names += ["fast_rnnt/python/csrc/mutual_information.cu"]
    if cuda:
        sources = [folder / name for name in [*names, "fast_rnnt/csrc/mutual_information_cuda.cu"]]
    else:
        sources = []
        for name in names:
            sources.append(folder / (Path(name).stem + str(len(sources)) + ".cpp"))
            sources[-1].write_text(f'#include "{folder / name}"\n')
    flags = ["-O3", "-w", *(["-DFT_WITH_CUDA"] if cuda else [])]
    build = folder / ("build-cuda" if cuda else "build")
    build.mkdir(exist_ok=True)
    os.environ.setdefault("MAX_JOBS", "2")
    cpp_extension.load(
        "_fast_rnnt", [str(s) for s in sources], extra_cflags=flags, extra_cuda_cflags=flags, extra_include_paths=[str(folder)],
        build_directory=str(build), with_cuda=cuda,
    )  # fmt: skip
    sys.path.insert(0, str(build))
    package = types.ModuleType("fast_rnnt")
    package.__path__ = [str(folder / "fast_rnnt" / "python" / "fast_rnnt")]
    sys.modules["fast_rnnt"] = package
    return importlib.import_module("fast_rnnt.rnnt_loss")
