"""Accuracy of the vector functions, for each instruction set that this machine has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rnnkit_common import build
from rnnkit_common.testing.backends import cpu_targets
from torch import Tensor

NATIVE = Path(__file__).parent / "native"


@pytest.fixture(scope="module")
def library():
    path = build.compile_library(
        "rnnkit_math_test", [NATIVE / "math.cpp"], NATIVE.parents[2] / "build" / "math", [f"-I{NATIVE}"]
    )
    torch.ops.load_library(str(path))
    return torch.ops.rnnkit_math_test


@pytest.fixture(params=cpu_targets())
def target(request, monkeypatch) -> str:
    monkeypatch.setenv("RNNKIT_CPU_TARGET", request.param)
    return request.param


def arguments(name: str, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(0)
    x = torch.cat([torch.randn(200_001), 10 * torch.randn(100_000), 1e-4 * torch.randn(1_000), torch.tensor([0.0, -0.0])])
    if name == "log":
        x = torch.cat([x.abs() + 1e-30, 10 ** (30 * torch.rand(100_000) - 15), 1 + 1e-3 * torch.randn(100_000)])
    if name in ("sqrt", "log1p"):
        x = torch.cat([x.abs(), 10 ** (30 * torch.rand(100_000) - 15)])
    if name == "exp_nonpositive":
        x = -x.abs()
    if name in ("sin", "cos"):
        x = torch.cat([x, 1e3 * torch.randn(100_000), 1e6 * torch.randn(1_000)])
    return x.to(dtype)


TRUTH = {
    "exp": torch.exp,
    "exp_nonpositive": torch.exp,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "expm1": torch.expm1,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "log": torch.log,
    "sin": torch.sin,
    "cos": torch.cos,
}
ULPS = {
    "exp": 1.2,
    "exp_nonpositive": 1.2,
    "sigmoid": 2.2,
    "tanh": 2.9,
    "expm1": 2.3,
    "log1p": 2.3,
    "sqrt": 0.5001,
    "log": 0.9,
    "sin": 1.7,
    "cos": 1.7,
}


@pytest.mark.parametrize("name", TRUTH)
def test_float32_is_right_to_the_stated_ulps(library, target: str, name: str) -> None:
    x = arguments(name, torch.float32)
    y, truth = library.apply(x, name), TRUTH[name](x.double())
    ulp = torch.nextafter(truth.float().abs(), torch.tensor(torch.inf)).double() - truth.float().abs().double()
    error = (y.double() - truth).abs() / ulp
    worst = int(error.argmax())
    assert error.max() <= ULPS[name], (
        f"{name}({x[worst]:.9g}) = {y[worst]:.9g}, not {truth[worst]:.9g}: {error[worst]:.2f} ulp"
    )


@pytest.mark.parametrize("name", TRUTH)
def test_float64_is_right_to_1e_15(library, target: str, name: str) -> None:
    x = arguments(name, torch.float64)
    torch.testing.assert_close(library.apply(x, name), TRUTH[name](x), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_limits(library, target: str, dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, -0.0, 120.0, -120.0, 1e4, -1e4, torch.inf, -torch.inf, torch.nan], dtype=dtype)
    tiny = 1e-36 if dtype == torch.float32 else 1e-300  # results below the normal numbers may be 0 or the smallest of them
    for name in ("exp", "sigmoid", "tanh"):
        torch.testing.assert_close(library.apply(x, name), TRUTH[name](x), rtol=1e-6, atol=tiny, equal_nan=True, msg=name)
    assert torch.equal(library.apply(x, "tanh").signbit()[:8], x.signbit()[:8])
    x = torch.tensor([0.0, 1.0, torch.inf, -1.0, torch.nan], dtype=dtype)
    torch.testing.assert_close(library.apply(x, "log"), x.log(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_conversion_rounds_as_torch_does(library, target: str, dtype: torch.dtype) -> None:
    x = torch.cat([torch.randn(100_003), torch.tensor([0.0, -0.0, 1e-7, 65519.0, 65520.0, 1e38, torch.inf, -torch.inf])])
    x = torch.cat([x, (torch.arange(0x3F80, 0x3FFF, dtype=torch.int32) << 16 | 0x8000).view(torch.float32)])  # ties
    assert torch.equal(library.convert(x, dtype == torch.float16), x.to(dtype))
    bits = torch.tensor(
        [0x7FC00000, 0x7F800001, 0x7FFFFFFF, -1, -0x7FFFFF], dtype=torch.int32
    )  # NaNs of any payload and sign
    assert library.convert(bits.repeat(9).view(torch.float32), dtype == torch.float16).isnan().all()


def test_an_unknown_target_is_named(library, monkeypatch) -> None:
    monkeypatch.setenv("RNNKIT_CPU_TARGET", "sse9")
    with pytest.raises(RuntimeError, match="RNNKIT_CPU_TARGET is 'sse9'"):
        library.apply(torch.zeros(1), "exp")
