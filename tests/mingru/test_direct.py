"""The methods of the compiled library, by which small calls go without torch's dispatcher: what they take, and what they leave to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mingru import _C, MinGRU
from torch import Tensor
from torch.nn import Linear, Parameter
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from torch.testing import assert_close
from torch.utils._pytree import tree_map_only

OPTIONS = ("mingru", "g", 0.5, "forward", True)  # ..., batch_first
OP = torch.ops.rnnkit_mingru.layer


def layer(x: Any, weight: Any, bias: Any, save: bool = True) -> tuple[Tensor, ...] | None:
    """(out, h_last, carries, planes), or None."""
    made: tuple[Tensor, ...] | None = _C.layer(x, weight, bias, None, None, None, *OPTIONS, save, ())
    return made


def parameters(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(2 * 5, 3, dtype=dtype), torch.randn(2 * 5, dtype=dtype)


@pytest.mark.sanitized
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(2, 7, 3), (3, 40, 3), (1, 1, 3), (0, 7, 3)])
def test_it_gives_what_the_op_gives(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, bias = parameters(dtype)
    for x in (torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype).transpose(0, 1).contiguous().transpose(0, 1)):
        for b in (bias, None):
            made, expected = layer(x, weight, b), OP(x, weight, b, None, None, None, *OPTIONS, True)
            assert made is not None
            assert_close(made, tuple(expected))
            grad = torch.randn_like(made[0])
            given = (grad, None, x, weight, b, made[3], made[2], None, None, *OPTIONS, True, True, True, True)
            of_inputs = _C.layer_backward(*given)
            assert of_inputs is not None
            assert_close(of_inputs, tuple(torch.ops.rnnkit_mingru.layer_backward(*given)))


@pytest.mark.sanitized
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 13])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 5), (16, 16), (17, 33), (40, 70)])
def test_products_of_all_sizes(rows: int, sizes: tuple[int, int]) -> None:
    torch.manual_seed(0)
    depth, width = sizes
    x, weight, bias = torch.randn(1, rows, depth), torch.randn(2 * width, depth), torch.randn(2 * width)
    made = layer(x, weight, bias)
    assert made is not None
    assert_close(made[3], torch.nn.functional.linear(x.double(), weight.double(), bias.double()).float(), rtol=0, atol=2e-5)


@pytest.mark.sanitized
def test_what_is_not_for_it_is_left_alone() -> None:
    """None, and no exception that would come up later."""

    class Special(Tensor):
        pass

    x, (weight, bias) = torch.randn(2, 7, 3), parameters()
    turned = torch.randn(2, 7, 3, dtype=torch.complex64).conj().imag  # its values are not those in memory
    assert turned.is_neg()
    for wrong in (
        x.as_subclass(Special),
        x.to_sparse(),
        x.to("meta"),
        x.half(),
        x.int(),
        torch.randn(2, 7, 6)[..., ::2],
        torch.randn(2, 7, 6)[..., :3],
        torch.randn(2, 1, 3).expand(2, 7, 3),
        turned,
        torch._neg_view(x),
        torch._efficientzerotensor(2, 7, 3),
        torch.randn(2, 7, 4),
        torch.randn(7, 3),
        torch.randn(64, 1024, 3),
        None,
        "x",
    ):
        assert layer(wrong, weight, bias) is None
    assert layer(x, Parameter(torch._neg_view(weight)), bias) is None
    assert layer(torch.zeros(1, 2, 0), torch.zeros(2**61, 0), None, save=False) is None
    assert layer(x, weight[:, :2], bias) is None
    assert layer(x, torch.randn(2, 10, 3), bias) is None
    assert layer(x, weight, bias.double()) is None
    assert layer(x, weight.double(), None) is None
    assert _C.stack_step(x[:, 0].contiguous(), [weight], [bias], None, *OPTIONS[:3]) is not None
    assert _C.stack_step(x[:, 0].contiguous(), [weight], [bias[:4]], None, *OPTIONS[:3]) is None
    assert _C.layer(x, weight, bias) is None
    assert _C.layer() is None
    assert _C.layer(x, weight, bias, None, None, None, "mingru", "relu", 0.5, "forward", True, True, ()) is None
    assert _C.layer(x, weight, bias, None, None, None, "mingru", "g", "0.5", "forward", True, True, ()) is None
    assert _C.layer(x, weight, bias, None, torch.tensor([7, 8]), None, *OPTIONS, True, ()) is None


@pytest.mark.sanitized
def test_the_last_state_has_the_shape_that_is_asked_for() -> None:
    given = (torch.randn(2, 7, 3), *parameters(), None, None, None, *OPTIONS, True)
    expected = OP(*given)[1]
    for shape in ((2, 5), (1, 2, 1, 5), (10,)):
        assert_close(_C.layer(*given, shape)[1], expected.view(shape))
    for wrong in ((2, 4), (1, 1, 1, 1, 1, 10), ("2", 5), 10):
        assert _C.layer(*given, wrong) is None


def test_a_module_takes_what_the_methods_do_not() -> None:
    torch.manual_seed(0)
    rnn = MinGRU(3, 5)
    wide = torch.randn(2, 7, 6)
    turned = torch.randn(2, 7, 3, dtype=torch.complex64).conj().imag
    for x in (wide[..., :3], wide[..., ::2], turned, wide[:, :1, :3].expand(2, 7, 3)):
        out, expected = rnn(x)[0], rnn(x.clone())[0]
        assert_close(out, expected)
        assert_close(
            *(torch.autograd.grad(o.sum(), rnn.parameters()) for o in (out, expected))
        )  # a gradient that is expanded


def test_a_projection_of_another_width_is_no_layers_state() -> None:
    rnn = MinGRU(3, 5)
    for width in (2 * 3, 2 * 7):
        rnn.layers[0].gate_hidden = Linear(3, width)
        with pytest.raises(RuntimeError, match="invalid for input of size"):
            rnn(torch.randn(2, 7, 3))


class Wrapped(Tensor):
    """A tensor that holds another, and whose shape cannot change."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> Wrapped:
        made: Wrapped = Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, strides=held.stride())
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(Wrapped, lambda t: t.held, (args, kwargs or {}))
        return tree_map_only(Tensor, Wrapped, function(*args, **kwargs))


def test_a_subclass_has_the_states_shape() -> None:
    rnn, x = MinGRU(3, 5), torch.randn(2, 7, 3)
    with torch.no_grad():
        out, h = rnn(Wrapped(x))
        assert_close((out.held, h.held), rnn(x))
        assert h.shape == (1, 2, 1, 5)


def test_results_are_ordinary_tensors() -> None:
    made = layer(torch.randn(2, 7, 3), *parameters())
    assert made is not None
    for t in made:
        assert type(t) is Tensor
        assert not t._is_view()
        assert t.untyped_storage().resizable()


def test_a_function_mode_sees_the_op() -> None:
    seen = []

    class Onlooker(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Onlooker():
        MinGRU(3, 5)(torch.randn(2, 7, 3))
    assert "rnnkit_mingru.layer.default" in seen


def test_a_profile_shows_the_op() -> None:
    rnn = MinGRU(3, 5)
    with profile() as profiled:
        rnn(torch.randn(2, 7, 3))[0].sum().backward()
    names = {event.key for event in profiled.key_averages()}
    assert {"rnnkit_mingru::layer", "rnnkit_mingru::layer_backward"} <= names
