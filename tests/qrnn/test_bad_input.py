"""Bad input is refused in words that name the argument, what was given and what is accepted; it never crashes."""

from __future__ import annotations

import pytest
import torch
from qrnn import QRNN, ForgetMult, QRNNLayer, functional
from rnnkit_common.testing import Backend, changed, check_survives
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_sequence

pytestmark = pytest.mark.kernels

X = torch.randn(5, 2, 3)
G = torch.randn(5, 2, 12)


def mixed() -> list[QRNNLayer]:
    return [QRNNLayer(3, 4), QRNNLayer(5, 4)]


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, "window: expected an integer >= 1, got 0", lambda: QRNNLayer(3, window=0)),
        (ValueError, "window: expected an integer >= 1, got 1.5", lambda: QRNN(3, 4, window=[1.5])),
        (ValueError, "window: expected 2 of them", lambda: QRNN(3, 4, 2, window=[1, 1, 1])),
        (ValueError, r"zoneout: expected a probability in \[0, 1\], got 1.1", lambda: QRNNLayer(3, zoneout=1.1)),
        (ValueError, r"zoneout: expected a probability in \[0, 1\], got -0.5", lambda: QRNN(3, 4, zoneout=-0.5)),
        (ValueError, "zoneout: expected a probability", lambda: functional.pool(G, zoneout=float("nan"))),
        (ValueError, "zoneout_mode: expected 'salesforce', 'fastai' or 'paper', got 'x'", lambda: QRNNLayer(3, zoneout_mode="x")),
        (ValueError, r"dropout: expected a probability in \[0, 1\], got 2", lambda: QRNN(3, 4, dropout=2)),
        (ValueError, "pooling: expected 'f', 'fo' or 'ifo', got 'max'", lambda: QRNNLayer(3, pooling="max")),
        (ValueError, "join: expected 'layer' or 'top', got 'end'", lambda: QRNN(3, 4, join="end")),
        (ValueError, "expected positive sizes, got 0 and 0", lambda: QRNNLayer(0)),
        (ValueError, "num_layers: expected at least 1, got 0", lambda: QRNN(3, 4, 0)),
        (ValueError, "n_layers: expected one number of layers, got 2 and num_layers=3", lambda: QRNN(3, 4, 3, n_layers=2)),
        (TypeError, "windows", lambda: QRNN(3, 4, windows=2)),
        (ValueError, r"layers\[1\]: expected input_size=4 .*, got 5", lambda: QRNN(3, 4, layers=mixed())),
        (ValueError, r"layers\[0\]: expected input_size=7", lambda: QRNN(7, 4, layers=mixed())),
        (ValueError, "layers: expected num_layers=3 of them, got 2", lambda: QRNN(3, 4, 3, layers=mixed())),
        (ValueError, "layers: expected num_layers=1 of them, got 0", lambda: QRNN(3, 4, layers=[])),
        (ValueError, "hidden_size: expected 4, that of the last layer, got 9", lambda: QRNN(3, 9, layers=mixed()[:1])),
        (ValueError, "layers: given, so window, bidirectional", lambda: QRNN(3, 4, layers=mixed(), window=2)),
        (ValueError, "layers: given, so window, bidirectional", lambda: QRNN(3, 4, layers=mixed(), bidirectional=True)),
        (ValueError, r"layers\[0\]: expected batch_first=True", lambda: QRNN(3, 4, batch_first=True, layers=mixed()[:1])),
        (ValueError, r"X: expected shape \(T, B, 3\), got \[5, 2, 12\]", lambda: QRNN(3, 4)(G)),
        (ValueError, r"X: expected shape \(B, T, 3\), got \[5, 2, 12\]", lambda: QRNN(3, 4, batch_first=True)(G)),
        (ValueError, r"X: expected shape \(T, B, 3\), got \[5, 2\]", lambda: QRNNLayer(3)(X[..., 0])),
        (ValueError, "save_prev_x: expected False if bidirectional", lambda: QRNN(3, 4, bidirectional=True, save_prev_x=True)),
        (TypeError, "X: expected a tensor, got list", lambda: QRNN(3, 4)(X.tolist())),
        (TypeError, "X: expected a tensor, got ndarray", lambda: QRNNLayer(3)(X.numpy())),
        (ValueError, r"hidden: expected a tensor, or a list with equal ones for each of 1 layers, got \[\[2, 4\], \[2, 4\]\]", lambda: QRNN(3, 4)(X, [torch.zeros(2, 4), torch.zeros(2, 4)])),
        (ValueError, r"hidden: expected one state, got two; of nn.LSTM's \(h, c\), it is c alone", lambda: QRNN(3, 4)(X, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))),
        (ValueError, r"hidden: expected one state, got two", lambda: QRNN(3, 4, 2)(X, (torch.zeros(2, 2, 4), torch.zeros(2, 2, 4)))),
        (TypeError, "proj_size: not an argument of QRNN, nor one of its layers: device, .*, zoneout", lambda: QRNN(3, 4, proj_size=2)),
        (TypeError, "backward: not an argument of QRNN", lambda: QRNN(3, 4, backward=True)),
        (TypeError, "window: expected an int, or one for each layer, got 2.0", lambda: QRNN(3, 4, window=2.0)),
        (TypeError, "hidden: expected a tensor, got tuple", lambda: QRNNLayer(3)(X, (torch.zeros(2, 3), torch.zeros(2, 3)))),
        (ValueError, r"gates: expected 3 dimensions \(T, B, P \* H\), got shape \[5, 2, 12, 1\]", lambda: functional.pool(G.unsqueeze(3))),
        (TypeError, "X: expected torch.float32, got torch.int64", lambda: QRNN(3, 4)(X.long())),
        (TypeError, "X: expected torch.float32, got torch.float64", lambda: QRNN(3, 4, window=2)(X.double())),
        (ValueError, "X: expected device cpu, got meta", lambda: QRNN(3, 4)(X.to("meta"))),
        (ValueError, r"hidden: expected a shape that expands to \[2, 2, 4\], got \[1, 3, 4\]", lambda: QRNN(3, 4, 2)(X, torch.zeros(1, 3, 4))),
        (ValueError, "hidden: expected a shape that expands to", lambda: QRNN(3, 4)(X[:, 0], torch.zeros(2, 4))),
        (ValueError, r"hidden: expected a shape that expands to \[1, 2, 3\]", lambda: QRNNLayer(3)(X, torch.zeros(5))),
        (TypeError, "hidden: expected torch.float32", lambda: QRNN(3, 4)(X, torch.zeros(1, 2, 4).double())),
        (ValueError, "hidden: expected device cpu, got meta", lambda: QRNN(3, 4)(X, torch.zeros(1, 2, 4, device="meta"))),
        (ValueError, r"lengths: expected values within 0..5 \(T\), got 5..6", lambda: QRNN(3, 4)(X, lengths=torch.tensor([5, 6]))),
        (ValueError, r"lengths: expected shape \[2\], got \[1\]", lambda: QRNN(3, 4)(X, lengths=torch.tensor([5]))),
        (TypeError, "lengths: expected integers, got torch.float32", lambda: QRNN(3, 4)(X, lengths=torch.ones(2))),
        (ValueError, "lengths: expected None with one sequence alone", lambda: QRNN(3, 4)(X[:, 0], lengths=torch.tensor([5]))),
        (ValueError, "lengths: expected None with a PackedSequence", lambda: QRNN(3, 4)(pack_sequence([X[:, 0]]), lengths=torch.tensor([5]))),
        (ValueError, r"f: expected at least 3 dimensions \(T, B, H\), got shape \[5, 2\]", lambda: ForgetMult()(X[..., 0], X[..., 0])),
        (ValueError, r"f and x: expected equal shapes, got \[5, 2, 3\] and \[4, 2, 3\]", lambda: ForgetMult()(X, X[1:])),
        (TypeError, "f and x: expected one dtype, got torch.float32 and torch.float64", lambda: ForgetMult()(X, X.double())),
        (ValueError, "f and x: expected one device, got cpu and meta", lambda: ForgetMult()(X, X.to("meta"))),
        (TypeError, "f: expected float64, float32, float16 or bfloat16, got torch.int64", lambda: ForgetMult()(X.long(), X.long())),
        (TypeError, "f: expected float64, float32, float16 or bfloat16, got torch.complex64", lambda: ForgetMult()(X.cfloat(), X.cfloat())),
        (ValueError, r"hidden: expected a shape that expands to \[2, 3\], got \[4, 3\]", lambda: ForgetMult()(X, X, torch.zeros(4, 3))),
        (ValueError, r"gates: expected 4 \* H features for pooling 'ifo', got 10", lambda: functional.pool(G[..., :10], pooling="ifo")),
        (ValueError, "pooling: expected 'f', 'fo' or 'ifo', got 'mult'", lambda: changed(QRNNLayer(3, 4), "pooling", "mult")(X)),
        (TypeError, "gates: expected float64", lambda: functional.pool(G.bool())),
    ],
)  # fmt: skip
def test_python_refuses(error: type[Exception], words: str, call) -> None:
    with pytest.raises(error, match=words):
        call()


def test_another_batch_without_a_reset() -> None:
    layer = QRNNLayer(3, 4, window=2, save_prev_x=True)
    layer(X)
    with pytest.raises(ValueError, match=r"batch of 2 that went before, got 1; is a reset\(\) missing"):
        layer(X[:, :1])


SEED = torch.tensor([1])


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("pooling: expected 'linear', 'mult', 'f', 'fo' or 'ifo', got 'fifo'", {"pooling": "fifo"}),
        ("seed: the pooling 'mult' has no zoneout", {"seed": SEED, "pooling": "mult"}),
        ("zoneout: expected a probability", {"seed": SEED, "zoneout": 1.5}),
        ("seed: not a contiguous tensor", {"seed": SEED.int(), "zoneout": 0.5}),
        ("inputs: expected", {"inputs": [G, G[..., :1]]}),
        ("inputs: expected", {"inputs": [G[..., :10]]}),
        ("h0: not a contiguous tensor", {"h0": torch.zeros(2, 5)}),
    ],
)
def test_ops_keep_memory_safe_on_their_own(words: str, arguments: dict) -> None:
    with pytest.raises(RuntimeError, match=words):
        torch.ops.rnnkit_qrnn.scan(**{"inputs": [G], **arguments})


@pytest.mark.sanitized
def test_the_bare_ops_survive_any_arguments(host_backends: Backend) -> None:
    ops = torch.ops.rnnkit_qrnn
    h0, lengths, seed = torch.zeros(2, 4), torch.tensor([20, 7]), torch.tensor([3])
    reset = torch.rand(2, 20) < 0.1
    options = ["fo", 0.3, 1.0, "forward"]
    for planes in ([torch.randn(2, 20, 12)], [torch.randn(2, 20, 4) for _ in range(3)]):
        check_survives(ops.scan, [planes, h0, lengths, reset, seed, *options, True])
        carries = ops.scan(planes, h0, lengths, reset, seed, *options, True)[2]
        given = [torch.randn(2, 20, 4), torch.randn(2, 4), planes, carries, h0, lengths, reset, seed]
        check_survives(ops.scan_backward, [*given, *options], unread=[4])
    x, weight, bias = torch.randn(2, 20, 3), torch.randn(12, 3), torch.randn(12)
    check_survives(ops.layer, [x, weight, bias, h0, lengths, reset, seed, *options, True, True])
    _, _, carries, planes = ops.layer(x, weight, bias, h0, lengths, reset, seed, *options, True, True)
    given = [torch.randn(2, 20, 4), torch.randn(2, 4), x, weight, bias, planes, carries, lengths, reset, seed]
    check_survives(ops.layer_backward, [*given, *options, True, True, True, True, True], unread=[4])
    check_survives(ops.step, [torch.randn(2, 12), h0, None, *options[:3]])
    check_survives(ops.stack_step, [torch.randn(2, 3), [weight], [bias], h0[None, :, None], None, *options[:3]])


@pytest.mark.parametrize(("option", "value"), [("pooling", "max"), ("direction", "up")])
def test_a_graph_is_not_made_of_what_is_unknown(option: str, value: str) -> None:
    with FakeTensorMode(), pytest.raises(ValueError, match=f"^{option}: expected one of '"):
        torch.ops.rnnkit_qrnn.scan([torch.empty(2, 3, 12)], **{option: value})
