"""State dicts of the packages that users come from load, and compute what they computed there."""

from __future__ import annotations

import pytest
import torch
from mingru import MinConv2dGRU, MinGRU, MinGRUCell, MinLSTM, functional
from torch import Tensor


def linear(state: dict[str, Tensor], key: str, x: Tensor) -> Tensor:
    return torch.nn.functional.linear(x, state[f"{key}.weight"], state.get(f"{key}.bias"))


def layer(planes: Tensor, h: float) -> Tensor:
    """minGRU from [gate | hidden] by the sequential definition."""
    k, v = planes.chunk(2, dim=-1)
    state, out = torch.full_like(k[:, 0], h), []
    for t in range(k.shape[1]):
        state = torch.lerp(state, functional.g(v[:, t]), k[:, t].sigmoid())
        out.append(state)
    return torch.stack(out, 1)


@pytest.mark.parametrize("prefix", ["", "rnn."])
@pytest.mark.parametrize("bias", [True, False])
def test_mingru_1_3_0(bias: bool, prefix: str) -> None:
    """linear_gate_hidden.{i}; the first layer's residual always through input_residual_align, with a bias."""
    torch.manual_seed(0)
    shapes = {"linear_gate_hidden.0": (12, 3), "linear_gate_hidden.1": (12, 6), "input_residual_align": (6, 3)}
    state = {f"{k}.weight": torch.randn(s) for k, s in shapes.items()}
    if bias:
        state |= {f"{k}.bias": torch.randn(s[0]) for k, s in shapes.items()}
    rnn = torch.nn.ModuleDict({"rnn": MinGRU(3, 6, num_layers=2, residual=True, bias=bias)})
    (rnn if prefix else rnn["rnn"]).load_state_dict({prefix + k: v for k, v in state.items()})

    x = torch.randn(2, 7, 3)
    first = layer(linear(state, "linear_gate_hidden.0", x), 0.5) + linear(state, "input_residual_align", x)
    expected = layer(linear(state, "linear_gate_hidden.1", first), 0.5) + first
    torch.testing.assert_close(rnn["rnn"](x)[0], expected)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("input_size", [3, 6])
def test_mingru_1_4(input_size: int, norm: bool) -> None:
    """layers.{i}.{norm,gate_hidden,res_align}; a residual is aligned without bias, and only where sizes differ."""
    torch.manual_seed(0)
    state = {"layers.0.gate_hidden.weight": torch.randn(12, input_size), "layers.0.gate_hidden.bias": torch.randn(12)}
    state |= {"layers.1.gate_hidden.weight": torch.randn(8, 6), "layers.1.gate_hidden.bias": torch.randn(8)}
    state["layers.1.res_align.weight"] = torch.randn(4, 6)
    if input_size != 6:
        state["layers.0.res_align.weight"] = torch.randn(6, input_size)
    if norm:
        for i, size in enumerate((input_size, 6)):
            state |= {f"layers.{i}.norm.weight": torch.randn(size), f"layers.{i}.norm.bias": torch.randn(size)}
    rnn = MinGRU(input_size, [6, 4], residual=True, norm=norm)
    rnn.load_state_dict(state)

    x = y = torch.randn(2, 7, input_size)
    for i in range(2):
        z = y
        if norm:
            z = torch.nn.functional.layer_norm(
                y, y.shape[2:], state[f"layers.{i}.norm.weight"], state[f"layers.{i}.norm.bias"]
            )
        aligned = linear(state, f"layers.{i}.res_align", y) if f"layers.{i}.res_align.weight" in state else y
        y = layer(linear(state, f"layers.{i}.gate_hidden", z), 0.5) + aligned
    torch.testing.assert_close(rnn(x)[0], y)


def test_mingru_1_4_cells_and_convolutions() -> None:
    MinGRUCell(3, 4).load_state_dict({"to_gate_hidden.weight": torch.randn(8, 3), "to_gate_hidden.bias": torch.randn(8)})
    MinConv2dGRU(3, [4, 4], 3, paddings=1, residual=True, norm=True).load_state_dict(
        {
            "layers.0.norm.weight": torch.randn(3),
            "layers.0.norm.bias": torch.randn(3),
            "layers.0.gate_hidden.weight": torch.randn(8, 3, 3, 3),
            "layers.0.gate_hidden.bias": torch.randn(8),
            "layers.0.res_align.weight": torch.randn(4, 3, 3, 3),
            "layers.1.norm.weight": torch.randn(4),
            "layers.1.norm.bias": torch.randn(4),
            "layers.1.gate_hidden.weight": torch.randn(8, 4, 3, 3),
            "layers.1.gate_hidden.bias": torch.randn(8),
        }
    )


@pytest.mark.parametrize("bias", [True, False])
def test_mingru_pytorch(bias: bool) -> None:
    """to_hidden_and_gate: hidden rows first, never a bias; no state means a state of 0."""
    torch.manual_seed(0)
    weight = torch.randn(12, 3)
    rnn = MinGRU(3, 6, bias=bias)
    rnn.load_state_dict({"to_hidden_and_gate.weight": weight})
    x = torch.randn(2, 7, 3)
    hidden, gate = (x @ weight.T).chunk(2, dim=-1)
    torch.testing.assert_close(rnn(x, torch.zeros(1))[0], layer(torch.cat([gate, hidden], -1), 0.0))


def test_minlstm_of_mingru_pytorch() -> None:
    """to_hidden_and_f_i_gate: hidden, forget, input."""
    torch.manual_seed(0)
    weight = torch.randn(18, 3)
    rnn = MinLSTM(3, 6, bias=False)
    rnn.load_state_dict({"to_hidden_and_f_i_gate.weight": weight})
    x = torch.randn(2, 7, 3)
    v, f, i = (x @ weight.T).chunk(3, dim=-1)
    state = torch.zeros(2, 6)
    for t in range(7):
        forget, take = f[:, t].sigmoid(), i[:, t].sigmoid()
        state = (forget * state + take * functional.g(v[:, t])) / (forget + take)
    torch.testing.assert_close(rnn(x, torch.zeros(1))[1][0, :, 0], state)


def test_what_does_not_fit_is_still_an_error() -> None:
    with pytest.raises(RuntimeError, match="to_out"):
        MinGRU(3, 6, bias=False).load_state_dict(
            {"to_hidden_and_gate.weight": torch.randn(12, 3), "to_out.weight": torch.randn(3, 6)}
        )
    with pytest.raises(RuntimeError, match="res_align"):
        MinGRU(3, 6, residual=True).load_state_dict(
            {"layers.0.gate_hidden.weight": torch.randn(12, 3), "layers.0.gate_hidden.bias": torch.randn(12)}
        )


def test_a_part_of_a_state_dict_leaves_the_rest_as_it_is() -> None:
    """It is no state dict of 1.4, in whose place of the first alignment the identity stands."""
    rnn = MinGRU(6, [6, 4], residual=True)
    before = rnn.layers[0].res_align.weight.detach().clone()
    gates = {k: v for k, v in rnn.state_dict().items() if "gate" in k}
    assert set(rnn.load_state_dict(gates, strict=False).missing_keys) == set(rnn.state_dict()) - set(gates)
    assert torch.equal(rnn.layers[0].res_align.weight, before)


@pytest.mark.parametrize("residual", [True, False])
def test_what_a_state_dict_lacks_is_like_the_rest_of_it(residual: bool) -> None:
    rnn = MinGRU(6, 6, residual=residual).bfloat16()
    state = {"to_hidden_and_gate.weight": torch.randn(12, 6).bfloat16()}
    if residual:  # of 1.4
        state = {"layers.0.gate_hidden.weight": state.popitem()[1], "layers.0.gate_hidden.bias": torch.randn(12).bfloat16()}
    rnn.load_state_dict(state, assign=True)
    assert {p.dtype for p in rnn.parameters()} == {torch.bfloat16}
    assert rnn(torch.randn(2, 3, 6).bfloat16())[0].isfinite().all()


@pytest.mark.parametrize("rnn", [MinGRU(3, [4, 5], residual=True, norm=True, bidirectional=True), MinLSTM(3, 4)])
def test_round_trip(rnn: MinGRU) -> None:
    state = rnn.state_dict()
    rnn.load_state_dict(state)
    assert list(rnn.state_dict()) == list(state)
