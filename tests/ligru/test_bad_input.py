"""Bad input is refused in words that name the argument, what was given and what is accepted; it never crashes."""

from __future__ import annotations

import pytest
import torch
from ligru import LiGRU, LiGRU_Layer, SLiGRU, SLiGRU_Layer, functional
from rnnkit_common.testing import Backend, check_survives
from torch._subclasses.fake_tensor import FakeTensorMode

pytestmark = pytest.mark.kernels

X = torch.randn(2, 5, 3)
G, U = torch.randn(2, 5, 8), torch.randn(8, 4)
SHAPE = (2, 5, 3)


def run(*arguments, **options):
    return functional.recurrence(*arguments, **options)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, "nonlinearity: expected 'relu', .* or 'sin' .'sine'., got 'gelu'", lambda: LiGRU(4, SHAPE, "gelu")),
        (ValueError, "nonlinearity: .* got 'ReLU'", lambda: run(G, U, nonlinearity="ReLU")),
        (ValueError, "normalization: expected 'batchnorm' or 'layernorm' .*, got 'None'", lambda: LiGRU(4, SHAPE, normalization="None")),
        (ValueError, "ff_normalization: expected 'batchnorm' or 'layernorm' .*, got None", lambda: SLiGRU(4, SHAPE, ff_normalization=None)),
        (ValueError, r"input_shape: expected \(B, T, F\) or \(B, T, F, C\), got \(2, 5\)", lambda: LiGRU(4, (2, 5))),
        (TypeError, r"input_shape: expected the shape of an input, \(B, T, F\), got 8", lambda: LiGRU(4, 8)),
        (TypeError, r"input_shape: expected the shape of an input, \(B, T, F\), got 'abc'", lambda: LiGRU(4, "abc")),
        (ValueError, r"input_shape: .* got \(2, 5, None\)", lambda: LiGRU(4, (2, 5, None))),
        (ValueError, r"dropout: expected a probability in \[0, 1\), got 1", lambda: LiGRU(4, SHAPE, dropout=1)),
        (ValueError, r"dropout_between: expected a probability in \[0, 1\), got -1", lambda: LiGRU(4, SHAPE, dropout_between=-1)),
        (ValueError, "num_layers: expected at least 1, got 0", lambda: LiGRU(4, SHAPE, num_layers=0)),
        (ValueError, "expected positive sizes, got 3 and 0", lambda: LiGRU(0, SHAPE)),
        (ValueError, r"x: expected shape \(B, T, 3\), got \[2, 5, 8\]", lambda: LiGRU(4, SHAPE)(G)),
        (ValueError, r"x: expected shape \(B, T, 3\), got \[2, 5\]", lambda: SLiGRU_Layer(3, 4)(X[..., 0])),
        (TypeError, "x: expected torch.float32, got torch.float64", lambda: LiGRU(4, SHAPE)(X.double())),
        (TypeError, "x: expected torch.float32, got torch.int64", lambda: LiGRU(4, SHAPE)(X.long())),
        (ValueError, "x: expected device cpu, got meta", lambda: LiGRU(4, SHAPE)(X.to("meta"))),
        (ValueError, r"hx: expected a shape that expands to \[1, 2, 4\], got \[2, 2, 4\]", lambda: LiGRU(4, SHAPE)(X, torch.zeros(2, 2, 4))),
        (TypeError, "hx: expected torch.float32, got torch.float64", lambda: LiGRU(4, SHAPE)(X, torch.zeros(1, 2, 4).double())),
        (ValueError, r"hx: expected shape \[2, 4\], got \[3, 4\]", lambda: LiGRU_Layer(3, 4)(X, torch.zeros(3, 4))),
        (ValueError, "lengths: expected values within 0..5", lambda: LiGRU(4, SHAPE)(X, lengths=torch.tensor([5, 6]))),
        (ValueError, "lengths: expected values within 0..5", lambda: SLiGRU(4, SHAPE)(X, lengths=torch.tensor([-1, 5]))),
        (ValueError, r"lengths: expected shape \[2\], got \[3\]", lambda: LiGRU(4, SHAPE)(X, lengths=torch.tensor([5, 5, 5]))),
        (TypeError, "lengths: expected integers, got torch.float32", lambda: LiGRU(4, SHAPE)(X, lengths=torch.ones(2))),
        (ValueError, r"g: expected shape \(B, T, 2 \* H\), got \[2, 5, 7\]", lambda: run(G[..., :7], U)),
        (TypeError, "g: expected float64, float32, float16 or bfloat16, got torch.int64", lambda: run(G.long(), U)),
        (ValueError, r"weight: expected shape \[8, 4\], got \[4, 8\]", lambda: run(G, U.t())),
        (TypeError, "weight: expected torch.float32, got torch.float64", lambda: run(G, U.double())),
        (ValueError, "weight: expected device cpu, got meta", lambda: run(G, U.to("meta"))),
        (ValueError, "mask: expected a tensor without requires_grad", lambda: run(G, U, mask=torch.ones(1, 2, 4, requires_grad=True))),
        (ValueError, r"mask: expected a shape that expands to \[2, 2, 4\]", lambda: run(G, U, mask=torch.ones(3), bidirectional=True)),
        (ValueError, "norm_weight and norm_bias: expected both or none", lambda: run(G, U, normalize=True, norm_weight=torch.ones(8))),
        (ValueError, "norm_weight and norm_bias: expected None without", lambda: run(G, U, norm_weight=torch.ones(8), norm_bias=torch.ones(8))),
        (ValueError, r"norm_bias: expected shape \[8\], got \[4\]", lambda: run(G, U, normalize=True, norm_weight=torch.ones(8), norm_bias=torch.ones(4))),
    ],
)  # fmt: skip
def test_is_refused(error: type[Exception], words: str, call) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("inputs", {"inputs": [G]}),
        ("inputs", {"inputs": [G, U, torch.ones(8), torch.ones(8)]}),
        ("g: expected shape", {"inputs": [G[..., :6], U]}),
        ("u: not a contiguous tensor", {"inputs": [G, U.double()]}),
        ("weight and bias", {"inputs": [G, U, torch.ones(8), torch.ones(7)], "normalize": True}),
        ("lengths", {"lengths": torch.tensor([5, 5], dtype=torch.int32)}),
        ("lengths", {"lengths": torch.tensor([5])}),
        ("reset", {"reset": torch.zeros(2, 4, dtype=torch.bool)}),
        ("reset", {"reset": torch.zeros(2, 5)}),
        ("h0 and mask", {"h0": torch.zeros(2, 2, 4)}),
        ("h0 and mask", {"mask": torch.zeros(1, 2, 4).double()}),
        ("activation: expected 'relu', 'leaky_relu', 'tanh' or 'sin', got 'gelu'", {"activation": "gelu"}),
        ("dtype must be", {"inputs": [G.long(), U.long()]}),
    ],
)
def test_the_op_itself_keeps_memory_safe(words: str, change: dict) -> None:
    with pytest.raises((RuntimeError, IndexError), match=words):
        torch.ops.rnnkit_ligru.recurrence(**{"inputs": [G, U], **change})


@pytest.mark.parametrize("normalize", [pytest.param(False, marks=pytest.mark.sanitized), True])
def test_the_bare_ops_survive_any_arguments(normalize: bool, host_backends: Backend) -> None:
    ops = torch.ops.rnnkit_ligru
    inputs = [torch.randn(2, 3, 8), torch.randn(8, 4), *([torch.ones(8), torch.zeros(8)] if normalize else [])]
    h0, lengths, mask = torch.zeros(2, 2, 4), torch.tensor([3, 2]), torch.rand(2, 2, 4)
    reset = torch.tensor([[True, False, True], [False, True, False]])
    options = ["tanh", True, normalize, 1e-5, True]
    check_survives(ops.recurrence, [inputs, h0, lengths, reset, mask, *options, True])
    out, _, *kept = ops.recurrence(inputs, h0, lengths, reset, mask, *options, True)
    grads = [torch.randn(2, 3, 8), torch.randn(2, 2, 4)]
    check_survives(ops.recurrence_backward, [*grads, inputs, out, *kept, h0, lengths, reset, mask, *options])


@pytest.mark.parametrize(("option", "value"), [("activation", "g")])
def test_a_graph_is_not_made_of_what_is_unknown(option: str, value: str) -> None:
    with FakeTensorMode(), pytest.raises(ValueError, match=f"^{option}: expected one of '"):
        torch.ops.rnnkit_ligru.recurrence([torch.empty(2, 3, 8), torch.empty(8, 4)], **{option: value})
