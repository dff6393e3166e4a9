"""Bad input is refused in words that name the argument, what was given and what is accepted; it never crashes."""

from __future__ import annotations

import pytest
import torch
from rnnkit_common.testing import Backend, changed, check_survives
from sru import SRU, SRUCell, SRUpp, SRUppAttention, functional
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_sequence

pytestmark = pytest.mark.kernels

X = torch.randn(5, 2, 3)
U = torch.randn(5, 2, 12)
BIAS = torch.randn(8)
W = torch.randn(4, 12)
H = torch.randn(5, 2, 4)


class Returns(nn.Module):
    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.shapes = shapes

    def reset_parameters(self) -> None: ...

    def forward(self, x: torch.Tensor):
        made = tuple(torch.randn(s) for s in self.shapes)
        return made[0] if len(made) == 1 else made


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, "use_tanh and use_relu: expected at most one activation, got both", lambda: SRU(3, 4, use_tanh=True, use_relu=True)),
        (ValueError, "projection size: expected 0 or more, got -1", lambda: SRUCell(3, 4, n_proj=-1)),
        (ValueError, r"projection_size: expected 2 of them, one per layer, got \[1, 2, 3\]", lambda: SRU(3, 4, projection_size=[1, 2, 3])),
        (ValueError, "projection size: expected 0 with custom_m", lambda: SRUCell(8, 8, n_proj=2, custom_m=Returns())),
        (ValueError, "custom_m: expected 2 modules, one per layer, got 1", lambda: SRU(3, 4, custom_m=[Returns()])),
        (ValueError, "custom_m: expected U with 16 features, got 12", lambda: SRUCell(3, 4, custom_m=Returns((5, 2, 12)))(X)),
        (ValueError, "custom_m: expected V with 8 features, got 4", lambda: SRUCell(3, 4, custom_m=Returns((5, 2, 16), (5, 2, 4)))(X)),
        (ValueError, "custom_m: expected to return U, or U and V, got 3", lambda: SRUCell(3, 4, custom_m=Returns((1,), (1,), (1,)))(X)),
        (ValueError, r"dropout: expected a probability in \[0, 1\), got 1", lambda: SRU(3, 4, dropout=1)),
        (ValueError, r"rnn_dropout: expected a probability in \[0, 1\), got -0.5", lambda: SRU(3, 4, rnn_dropout=-0.5)),
        (ValueError, "expected positive sizes, got 0 and 4", lambda: SRU(0, 4)),
        (ValueError, "num_layers: expected at least 1, got 0", lambda: SRU(3, 4, 0)),
        (TypeError, "use_selu", lambda: SRU(3, 4, use_selu=True)),
        (ValueError, r"input: expected shape \(T, B, 3\), got \[5, 2, 12\]", lambda: SRU(3, 4)(U)),
        (ValueError, r"input: expected shape \(B, T, 3\), got \[5, 2, 12\]", lambda: SRU(3, 4, batch_first=True)(U)),
        (ValueError, r"input: expected shape \(T, B, 3\), got \[5, 2\]", lambda: SRU(3, 4)(X[..., 0])),
        (ValueError, r"input: expected shape \(B, 3\), got \[5, 2, 3\]", lambda: SRU(3, 4).step(X)),
        (TypeError, "input: expected a tensor, got list", lambda: SRU(3, 4).step([[1.0, 2.0, 3.0]])),
        (TypeError, "c0: expected a tensor, got list", lambda: SRU(3, 4).step(X[0], [torch.zeros(2, 4)] * 2)),
        (TypeError, "input: expected torch.float32, got torch.int64", lambda: SRU(3, 4)(X.long())),
        (TypeError, "input: expected torch.float32, got torch.float64", lambda: SRU(3, 4)(X.double())),
        (ValueError, "input: expected device cpu, got meta", lambda: SRU(3, 4)(X.to("meta"))),
        (TypeError, "input: expected a tensor, got list", lambda: SRU(3, 4)(X.tolist())),
        (TypeError, "c0: expected a tensor, got tuple", lambda: SRU(3, 4)(X, (torch.zeros(2, 2, 4), torch.zeros(2, 2, 4)))),
        (TypeError, "input: expected torch.float32, got torch.float64", lambda: SRU(3, 4, proj_input_to_hidden_first=True)(X.double())),
        (TypeError, "input: expected torch.float32, got torch.float64", lambda: SRUpp(3, 4, 4)(X.double())),
        (ValueError, r"lengths: expected values within 0..5 \(T\), got 5..6", lambda: SRUpp(3, 4, 4)(X, lengths=[5, 6])),
        (ValueError, r"bias: expected shape \(2 \* D,\), got \[9\]", lambda: functional.recurrence(U, torch.randn(9))),
        (TypeError, "bias: expected float64, float32, float16 or bfloat16, got torch.int64", lambda: functional.recurrence(U, BIAS.long())),
        (TypeError, "bias: .* got torch.complex64", lambda: functional.recurrence(U, BIAS.cfloat())),
        (ValueError, r"c0: expected shape \[2, 2, 4\], got \[1, 2, 4\]", lambda: SRU(3, 4)(X, torch.zeros(1, 2, 4))),
        (ValueError, r"c0: expected shape \[2, 2, 8\], got \[4, 2, 3\]", lambda: SRU(3, 4, bidirectional=True)(X, torch.zeros(4, 2, 3))),
        (ValueError, r"c0: expected a shape that expands to \[2, 4\], got \[3, 4\]", lambda: SRUCell(3, 4)(X, torch.zeros(3, 4))),
        (TypeError, "c0: expected torch.float32", lambda: SRU(3, 4)(X, torch.zeros(2, 2, 4).double())),
        (ValueError, "c0: expected device cpu, got meta", lambda: SRU(3, 4)(X, torch.zeros(2, 2, 4, device="meta"))),
        (ValueError, r"mask_pad: expected shape \[5, 2\], got \[2, 5\]", lambda: SRU(3, 4)(X, mask_pad=torch.zeros(2, 5))),
        (ValueError, r"mask_pad: expected shape \[5, 2\], got \[2, 5\]", lambda: SRU(3, 4, batch_first=True)(X, mask_pad=torch.zeros(2, 5))),
        (ValueError, r"lengths: expected values within 0..5 \(T\), got 5..6", lambda: SRU(3, 4)(X, lengths=torch.tensor([5, 6]))),
        (ValueError, r"lengths: expected shape \[2\], got \[1\]", lambda: SRU(3, 4)(X, lengths=torch.tensor([5]))),
        (TypeError, "lengths: expected integers, got torch.float32", lambda: SRU(3, 4)(X, lengths=torch.ones(2))),
        (ValueError, "mask_pad, lengths and reset: expected None with a single step", lambda: SRUCell(3, 4)(X[0], lengths=torch.tensor([5, 5]))),
        (ValueError, "mask_pad and lengths: expected None with a PackedSequence", lambda: SRU(3, 4)(pack_sequence([X[:, 0]]), lengths=torch.tensor([5]))),
        (ValueError, r"U: expected .* 3 or 4 times 4 \(bias / 2\), got \[5, 2, 3\]", lambda: functional.recurrence(X, BIAS)),
        (ValueError, "x: expected None where U has four values a channel", lambda: functional.recurrence(torch.randn(5, 2, 16), BIAS, x=H)),
        (ValueError, r"x: expected the sequences of U with 4 features, got \[2, 5, 3\]", lambda: functional.recurrence(U, BIAS, x=X)),
        (TypeError, "x: expected torch.float32, got torch.float64", lambda: functional.recurrence(U, BIAS, x=H.double())),
        (TypeError, "U: expected float64, float32, float16 or bfloat16, got torch.int64", lambda: functional.recurrence(U.long(), BIAS)),
        (ValueError, "weight_c: expected the shape and device of bias", lambda: functional.recurrence(U, BIAS, torch.randn(4))),
        (ValueError, r"weight_c: expected 1 dimension, or 3 for each step its own, got \[\]", lambda: functional.recurrence(U, BIAS, torch.tensor(1.0))),
        (ValueError, "activation: expected 'identity', 'tanh' or 'relu', got 'TANH'", lambda: changed(SRU(4, 4), "rnn_lst.0.activation", "TANH")(H)),
        (ValueError, "weight_c: expected the sequences of U with 8 features", lambda: functional.recurrence(U, BIAS, torch.randn(5, 2, 4))),
        (ValueError, "bias: expected device cpu, got meta", lambda: functional.recurrence(U, BIAS.to("meta"))),
        (ValueError, r"mask_c: expected a shape that expands to \[2, 4\]", lambda: functional.recurrence(U, BIAS, mask_c=torch.ones(3, 4))),
        (ValueError, "mask_c: expected a tensor without requires_grad", lambda: functional.recurrence(U, BIAS, mask_c=torch.ones(2, 4, requires_grad=True))),
        (ValueError, r"scale_x: expected a shape that expands to \[1\]", lambda: functional.recurrence(U, BIAS, scale_x=torch.ones(3))),
        (ValueError, "activation: expected 'identity', 'tanh' or 'relu', got 'selu'", lambda: functional.recurrence(U, BIAS, activation="selu")),
        (ValueError, "bidirectional: expected an even number of channels, got 3", lambda: functional.recurrence(torch.randn(5, 2, 9), torch.randn(6), bidirectional=True)),
        (ValueError, r"x and weight: expected \(T, B, 4\) and \(4, 12\), got \[5, 2, 3\]", lambda: functional.layer(X, W, BIAS)),
        (TypeError, "weight: expected torch.float32, got torch.float64", lambda: functional.layer(H, W.double(), BIAS)),
        (ValueError, r"weight_c: expected shape \(8,\), got \[5, 2, 8\]", lambda: functional.layer(H, W, BIAS, torch.randn(5, 2, 8))),
        (ValueError, "proj_features: expected a multiple of num_heads=3, got 4", lambda: SRUpp(3, 4, 4, num_heads=3)),
        (ValueError, "num_layers and proj_size: expected at least 1, got 2 and 0", lambda: SRUpp(3, 4, 0)),
        (ValueError, "expected at most one of the two", lambda: SRUpp(3, 4, 4, attention_every_n_layers=2, attention_last_n_layers=1)),
        (ValueError, "expected >= 1 and >= -1, got 0 and -1", lambda: SRUpp(3, 4, 4, attention_every_n_layers=0)),
        (ValueError, "memory: expected 2 of them, one per layer, got 1", lambda: SRUpp(3, 4, 4)(X, memory=[X])),
        (ValueError, r"memory: expected shape \(M, 2, 3\), got \[5, 2, 4\]", lambda: SRUppAttention(3, 4, 4)(X, memory=H)),
        (ValueError, r"attn_mask: expected shape \[5, 5\], got \[5, 6\]", lambda: SRUpp(3, 4, 4)(X, attn_mask=torch.zeros(5, 6))),
        (ValueError, r"mask_pad: expected shape \[5, 2\], got \[2, 5\]", lambda: SRUpp(3, 4, 4)(X, mask_pad=torch.zeros(2, 5))),
        (ValueError, "memory_mask_pad: expected None without memory", lambda: SRUpp(3, 4, 4)(X, memory_mask_pad=torch.zeros(5, 2))),
        (ValueError, r"memory_mask_pad: expected shape \[4, 2\], got \[5, 2\]", lambda: SRUppAttention(3, 4, 4)(X, memory=X[1:], memory_mask_pad=torch.zeros(5, 2))),
    ],
)  # fmt: skip
def test_python_refuses(error: type[Exception], words: str, call) -> None:
    with pytest.raises(error, match=words):
        call()


P4, P2 = torch.randn(4, 4), torch.randn(2, 4)
UB, HB = torch.randn(2, 5, 12), torch.randn(2, 5, 4)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("activation: expected 'identity', 'tanh' or 'relu', got 'selu'", {"activation": "selu"}),
        ("skip: expected 'none', 'input' or 'column', got ''", {"skip": ""}),
        ("peephole: expected 'none', 'parameter' or 'plane', got 'v'", {"peephole": "v"}),
        ("inputs: expected .* with 4 planes", {"inputs": [torch.randn(2, 5, 10), P4], "skip": "input"}),
        ("inputs: expected a tensor with just the interleaved", {"inputs": [UB[..., :4], UB[..., :8], P4]}),
        ("inputs: expected a tensor with just the interleaved", {"inputs": [HB, UB, P4], "skip": "input"}),
        ("inputs: expected .* all of one D", {"inputs": [UB[..., :5], UB[..., :7], P4]}),
        ("inputs: expected the planes before", {"inputs": [UB, P4, HB], "skip": "input"}),
        ("inputs: expected 4 parameters, got 2", {"inputs": [UB, P2]}),
        ("inputs: expected parameters of shape", {"inputs": [UB, P4[:, :3]]}),
        ("inputs: expected parameters that are", {"inputs": [UB.double(), P4]}),
        ("inputs: dtype", {"inputs": [UB, HB.double(), P4], "skip": "input"}),
        ("pad: not", {"pad": torch.zeros(2, 5)}),
        ("mask: not", {"mask": torch.zeros(2, 5)}),
        ("scale: not", {"scale": torch.zeros(2)}),
        ("h0: not", {"h0": torch.zeros(2, 5)}),
    ],
)
def test_ops_keep_memory_safe_on_their_own(words: str, arguments: dict) -> None:
    with pytest.raises(RuntimeError, match=words):
        torch.ops.rnnkit_sru.scan(**{"inputs": [UB, P4], "skip": "none", **arguments})


@pytest.mark.parametrize(
    ("peephole", "skip"),
    [pytest.param("parameter", "input", marks=pytest.mark.sanitized), ("plane", "column"), ("none", "none")],
)
def test_the_bare_ops_survive_any_arguments(peephole: str, skip: str, host_backends: Backend) -> None:
    ops = torch.ops.rnnkit_sru
    widths = [16 if skip == "column" else 12, *([4] if skip == "input" else [])]
    widths = [4, *widths, 4] if peephole == "plane" else widths
    parameters = torch.randn(4 if peephole == "parameter" else 2, 4)
    inputs = [*(torch.randn(2, 20, w) for w in widths), parameters]
    extras = [torch.tensor([20, 7]), torch.rand(2, 20) < 0.1, torch.rand(2, 20) < 0.3, torch.rand(2, 4), torch.rand(1)]
    c0, options = torch.zeros(2, 4), ["tanh", skip, peephole, "both"]
    check_survives(ops.scan, [inputs, c0, *extras, *options, True])
    carries = ops.scan(inputs, c0, *extras, *options, True)[2]
    grads = [torch.randn(2, 20, 4), torch.randn(2, 4)]
    check_survives(ops.scan_backward, [*grads, inputs, carries, c0, *extras, *options], unread=[4])
    if skip == "input":
        weight = torch.randn(4, 12)
        x, bias, weight_c = inputs[1], parameters[:2].flatten(), parameters[2:].flatten()
        check_survives(ops.layer, [x, weight, bias, weight_c, c0, *extras, "tanh", "both", True, True])
        check_survives(ops.product, [torch.randn(5, 4), weight])
        check_survives(ops.stack_step, [x[:, 0], [weight], [bias], [weight_c], [torch.rand(1)], c0[None], True, "tanh"])
        _, _, carries, u = ops.layer(x, weight, bias, weight_c, c0, *extras, "tanh", "both", True, True)
        given = [*grads, x, weight, bias, weight_c, u, carries, *extras]
        check_survives(ops.layer_backward, [*given, "tanh", "both", True, True, True, True, True, True])


@pytest.mark.parametrize(("option", "value"), [("activation", "g"), ("direction", "up")])
def test_a_graph_is_not_made_of_what_is_unknown(option: str, value: str) -> None:
    with FakeTensorMode(), pytest.raises(ValueError, match=f"^{option}: expected one of '"):
        torch.ops.rnnkit_sru.layer(torch.empty(2, 3, 4), torch.empty(4, 12), torch.empty(8), **{option: value})
