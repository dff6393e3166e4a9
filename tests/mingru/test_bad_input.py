"""Bad input is refused in words that name the argument, what was given and what is accepted; it never crashes."""

from __future__ import annotations

import pytest
import torch
from mingru import MinConv2dGRU, MinGRU, MinGRUCell, MinLSTM, functional
from rnnkit_common.testing import Backend, changed, check_survives
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_sequence

pytestmark = pytest.mark.kernels

X = torch.randn(2, 5, 3)
K = torch.randn(2, 5, 4)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, r"x: expected shape \(B, T, 3\), got \[2, 5\]", lambda: MinGRU(3, 4)(X[..., 0])),
        (ValueError, r"x: expected shape \(B, T, 3\), got \[2, 5, 4\]", lambda: MinGRU(3, 4)(K)),
        (ValueError, r"x: expected shape \(B, T, 3\)", lambda: MinGRUCell(3, 4)(X[0])),
        (ValueError, r"x: expected shape \(B, T, 3, H, W\), got", lambda: MinConv2dGRU(3, 4, 1)(X)),
        (ValueError, r"x: expected shape \(B, 3\), got", lambda: MinGRU(3, 4).step(X)),
        (TypeError, "x: expected torch.float32, got torch.int64", lambda: MinGRU(3, 4)(X.long())),
        (TypeError, "x: expected torch.float32, got torch.float64", lambda: MinGRU(3, 4, norm=True)(X.double())),
        (TypeError, "x: expected torch.float32, got torch.float64", lambda: MinGRU(3, 4).step(X[:, 0].double())),
        (TypeError, "x: expected torch.float32, got torch.bfloat16", lambda: MinGRUCell(3, 4)(X.bfloat16())),
        (TypeError, "x: expected torch.float32, got torch.int64", lambda: MinConv2dGRU(3, 4, 1)(torch.ones(1, 1, 3, 2, 2).long())),
        (ValueError, "x: expected device cpu, got meta", lambda: MinGRU(3, 4)(X.to("meta"))),
        (ValueError, "bidirectional", lambda: MinGRU(3, 4, bidirectional=True).step(X[:, 0])),
        (ValueError, r"h: expected a shape that expands to \[1, 2, 1, 4\], got \[3, 1, 4\]", lambda: MinGRU(3, 4)(X, torch.zeros(3, 1, 4))),
        (ValueError, r"h: expected a shape that expands to", lambda: MinGRU(3, 4)(X, torch.zeros(1, 1, 2, 1, 4))),
        (TypeError, "h: expected torch.float32, got torch.float64", lambda: MinGRU(3, 4)(X, torch.zeros(1, dtype=torch.float64))),
        (TypeError, "hidden_size: MinGRU takes input_dims and hidden_dims", lambda: MinGRU(input_size=3, hidden_size=4)),
        (ValueError, "h: expected device cpu, got meta", lambda: MinGRU(3, 4)(X, torch.zeros(1, device="meta"))),
        (ValueError, "h: expected a list of 2 tensors", lambda: MinConv2dGRU(3, [4, 4], 1)(torch.randn(1, 1, 3, 2, 2), [torch.zeros(1)])),
        (ValueError, r"at least 3 dimensions \(B, T, D\), got shape \[5, 4\]", lambda: functional.mingru_scan(K[0], K[0])),
        (ValueError, r"equal shapes, got \[2, 5, 4\] and \[2, 4, 4\]", lambda: functional.mingru_scan(K, K[:, 1:])),
        (TypeError, "one dtype, got torch.float32 and torch.float64", lambda: functional.mingru_scan(K, K.double())),
        (ValueError, "one device, got cpu and meta", lambda: functional.mingru_scan(K, K.to("meta"))),
        (TypeError, "float64, float32, float16 or bfloat16, got torch.int64", lambda: functional.mingru_scan(K.long(), K.long())),
        (TypeError, "got torch.complex64", lambda: functional.mingru_scan(K.cfloat(), K.cfloat())),
        (ValueError, "divisible by 3 in dimension 2, got 4", lambda: functional.scan_packed(K, gates=2)),
        (ValueError, r"gates: expected 1 \(minGRU\) or 2 \(minLSTM\), got 3", lambda: functional.scan_packed(K, gates=3)),
        (ValueError, "activation: expected 'g', 'identity' or 'tanh', got 'relu'", lambda: functional.mingru_scan(K, K, activation="relu")),
        (ValueError, "activation: expected one of", lambda: MinLSTM(3, 4, activation="relu")),
        (ValueError, r"lengths: expected values within 0..5 \(T\), got 5..6", lambda: MinGRU(3, 4)(X, lengths=torch.tensor([5, 6]))),
        (ValueError, r"lengths: expected values within 0..5 \(T\), got -1..5", lambda: functional.mingru_scan(K, K, lengths=torch.tensor([5, -1]))),
        (ValueError, r"lengths: expected shape \[2\], got \[1\]", lambda: MinGRU(3, 4)(X, lengths=torch.tensor([5]))),
        (TypeError, "lengths: expected integers, got torch.float32", lambda: MinGRU(3, 4)(X, lengths=torch.tensor([5.0, 5.0]))),
        (ValueError, "lengths: expected None with a PackedSequence", lambda: MinGRU(3, 4)(pack_sequence([X[0]]), lengths=torch.tensor([5]))),
        (TypeError, "x: expected a tensor, got list", lambda: MinGRU(3, 4)(X.tolist())),
        (TypeError, "x: expected a dense tensor, got one of layout torch.sparse_coo", lambda: MinGRU(3, 4)(X.to_sparse())),
        (TypeError, "h: expected a tensor, got tuple", lambda: MinGRU(3, 4)(X, (torch.zeros(1), torch.zeros(1)))),
        (TypeError, "h: expected a list of 1 tensors, one per layer, got Tensor", lambda: MinGRUCell(3, 4)(X, torch.zeros(2, 1, 4))),
        (TypeError, "lengths: expected a tensor, got int", lambda: MinGRU(3, 4)(X, lengths=5)),
        (ValueError, r"lengths: expected values within 0..5 \(T\), got 5..6", lambda: MinGRU(3, 4)(X, lengths=[5, 6])),
        (ValueError, r"h: expected a shape that expands to \[2, 1, 4\], got \[3\]", lambda: functional.mingru_gate_hidden(K, K, torch.zeros(3))),
        (TypeError, "x: expected torch.float32, got torch.float64", lambda: functional.mingru(X.double(), torch.zeros(1), torch.zeros(8, 3))),
        (TypeError, "reset: expected bool, got torch.float32", lambda: MinGRU(3, 4)(X, reset=torch.zeros(2, 5))),
        (ValueError, r"reset: expected shape \[2, 5\] \(B, T\), got \[5, 2\]", lambda: MinGRU(3, 4)(X, reset=torch.zeros(5, 2).bool())),
        (ValueError, r"dropout: expected a probability in \[0, 1\], got 1.5", lambda: MinGRU(3, 4, dropout=1.5)),
        (ValueError, r"dropout: expected a probability in \[0, 1\], got -0.1", lambda: MinConv2dGRU(3, 4, 1, dropout=-0.1)),
        (ValueError, r"num_layers: expected 2 for hidden_dims=\[4, 4\], got 3", lambda: MinGRU(3, [4, 4], num_layers=3)),
        (ValueError, "num_layers", lambda: MinGRU(3, 4, num_layers=0)),
        (ValueError, "at least one layer", lambda: MinGRU(3, [])),
        (ValueError, "positive sizes, got 0 and 4", lambda: MinGRU(0, 4)),
        (ValueError, "strides: expected 2 values, one per layer, got 1", lambda: MinConv2dGRU(3, [4, 4], 1, strides=[1])),
        (ValueError, r"planes: expected shape \(B, 2 \* D\)", lambda: functional.step(K, 1)),
        (ValueError, "activation: expected 'g', 'identity' or 'tanh', got 'relu'", lambda: functional.step(K[0], 1, activation="relu")),
        (ValueError, "activation: expected 'g', 'identity' or 'tanh', got 'b'g''", lambda: functional.step(K[0], 1, activation=b"g")),
        (ValueError, "activation: expected 'g', 'identity' or 'tanh', got 'TANH'", lambda: changed(MinGRU(3, 4), "layers.0.activation", "TANH")(X)),
    ],
)  # fmt: skip
def test_refused(error: type[Exception], words: str, call) -> None:
    with pytest.raises(error, match=words):
        call()


def test_unsorted_lengths_are_fine() -> None:
    out, _ = functional.mingru_scan(K, K, lengths=torch.tensor([1, 5]))
    assert torch.equal(out[0, 1:], torch.zeros(4, 4))


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("lengths", {"lengths": torch.tensor([5, 9])}),
        ("lengths", {"lengths": torch.tensor([5])}),
        ("inputs", {"inputs": [K, K[:1]]}),
        ("inputs", {"inputs": [K, K, K]}),
        ("inputs: expected no parameters", {"inputs": [K, K, K[0, 0]]}),
        ("inputs: expected no parameters", {"inputs": [K, K, K[0, 0, :0]]}),
        ("no tensor arguments", {"inputs": []}),
        ("inputs", {"inputs": [K[0]]}),
        ("h0", {"h0": torch.zeros(2, 3)}),
        ("reset", {"reset": torch.zeros(2, 5)}),
        ("activation: expected 'g', 'identity' or 'tanh', got 'relu'", {"activation": "relu"}),
        ("cell: expected 'mingru' or 'minlstm', got 'lstm'", {"cell": "lstm"}),
        ("direction: expected 'forward', 'backward' or 'both', got 'up'", {"direction": "up"}),
        ("direction: 'both' expects an even number", {"inputs": [K[..., :3], K[..., :3]], "direction": "both"}),
    ],
)
def test_the_bare_op_keeps_memory_safe(words: str, arguments: dict) -> None:
    with pytest.raises(RuntimeError, match=words):
        torch.ops.rnnkit_mingru.scan(**{"inputs": [K, K], **arguments})


@pytest.mark.sanitized
def test_the_bare_ops_survive_any_arguments(host_backends: Backend) -> None:
    ops, options = torch.ops.rnnkit_mingru, ["mingru", "g", 0.5, "forward"]
    h0, lengths, reset = torch.zeros(2, 4), torch.tensor([20, 7]), torch.rand(2, 20) < 0.1
    for planes in ([torch.randn(2, 20, 8)], [torch.randn(2, 20, 4) for _ in range(2)]):
        check_survives(ops.scan, [planes, h0, lengths, reset, *options, True])
        carries = ops.scan(planes, h0, lengths, reset, *options, True)[2]
        given = [torch.randn(2, 20, 4), torch.randn(2, 4), planes, carries, h0, lengths, reset]
        check_survives(ops.scan_backward, [*given, *options], unread=[4])
    x, weight, bias = torch.randn(2, 20, 3), torch.randn(8, 3), torch.randn(8)
    check_survives(ops.layer, [x, weight, bias, h0, lengths, reset, *options, True, True])
    _, _, carries, planes = ops.layer(x, weight, bias, h0, lengths, reset, *options, True, True)
    given = [torch.randn(2, 20, 4), torch.randn(2, 4), x, weight, bias, planes, carries, lengths, reset]
    check_survives(ops.layer_backward, [*given, *options, True, True, True, True, True], unread=[4])
    check_survives(ops.step, [torch.randn(2, 8), h0, *options[:3]])
    check_survives(ops.stack_step, [torch.randn(2, 3), [weight], [bias], h0[None, :, None], *options[:3]])


@pytest.mark.parametrize(("option", "value"), [("cell", "gru"), ("activation", "relu"), ("direction", "up")])
def test_a_graph_is_not_made_of_what_is_unknown(option: str, value: str) -> None:
    with FakeTensorMode(), pytest.raises(ValueError, match=f"^{option}: expected one of '"):
        torch.ops.rnnkit_mingru.scan([torch.empty(2, 3, 8)], **{option: value})
