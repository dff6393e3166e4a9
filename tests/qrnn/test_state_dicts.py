"""Checkpoints of torchqrnn, fastai and AWD-QRNN load."""

from __future__ import annotations

import torch
from qrnn import QRNN, fastai
from torch import Tensor


def torchqrnn_dict(sizes: list[tuple[int, int, int]], prefix: str = "layers.{}.linear.") -> dict[str, Tensor]:
    """(inputs, window, hidden) of each layer -> keys and shapes of salesforce/pytorch-qrnn."""
    torch.manual_seed(0)
    state = {}
    for i, (inputs, window, hidden) in enumerate(sizes):
        state[prefix.format(i) + "weight"] = torch.randn(3 * hidden, window * inputs)
        state[prefix.format(i) + "bias"] = torch.randn(3 * hidden)
    return state


SIZES = [(4, 2, 6), (6, 1, 6)]


def test_torchqrnn() -> None:
    rnn = QRNN(4, 6, 2, window=[2, 1])
    state = torchqrnn_dict(SIZES)
    assert set(rnn.state_dict()) == set(state)
    rnn.load_state_dict(state)
    torch.testing.assert_close(rnn.layers[0].linear.weight.data, state["layers.0.linear.weight"])


def test_fastai_bidirectional() -> None:
    rnn = fastai.QRNN(4, 6, 2, bidirectional=True)
    state = {**torchqrnn_dict(SIZES), **torchqrnn_dict(SIZES, "layers_bwd.{}.linear.")}
    rnn.load_state_dict(state)
    assert set(rnn.state_dict()) == set(state)


def test_awd_of_salesforce_and_fastai() -> None:
    """A list `rnns` of QRNNs of one layer, each with WeightDrop around its linear map; the raw weights are the truth."""
    plain = torchqrnn_dict(SIZES)
    salesforce, nested = {}, {}
    for i in range(2):
        weight, bias = (plain[f"layers.{i}.linear.{kind}"] for kind in ("weight", "bias"))
        salesforce |= {f"rnns.{i}.linear.module.weight_raw": weight, f"rnns.{i}.linear.module.bias": bias}
        nested |= {
            f"rnns.{i}.layers.0.linear.weight_raw": weight,
            f"rnns.{i}.layers.0.linear.module.weight": torch.zeros_like(weight),
            f"rnns.{i}.layers.0.linear.module.bias": bias,
        }
    for state in (salesforce, nested):
        rnn = QRNN(4, 6, 2, window=[2, 1])
        rnn.load_state_dict(state)
        torch.testing.assert_close(dict(rnn.state_dict()), plain)


def test_awd_as_a_list_of_modules() -> None:
    """The same keys, in a model that keeps the list as it was."""
    plain = torchqrnn_dict(SIZES)
    model = torch.nn.Module()
    model.rnns = torch.nn.ModuleList([QRNN(4, 6, window=2), QRNN(6, 6)])
    state = {}
    for i in range(2):
        state[f"rnns.{i}.layers.0.linear.weight_raw"] = plain[f"layers.{i}.linear.weight"]
        state[f"rnns.{i}.layers.0.linear.module.bias"] = plain[f"layers.{i}.linear.bias"]
    model.load_state_dict(state)
    torch.testing.assert_close(model.rnns[1].layers[0].linear.weight.data, plain["layers.1.linear.weight"])
