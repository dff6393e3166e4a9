"""What a user of the layers relies on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mingru
import pytest
import torch
from mingru import Bidirectional, MinConv2dGRU, MinConv2dGRUCell, MinGRU, MinGRUCell, MinLSTM, functional, parallel_scan_log
from rnnkit_common.testing import Backend, check_resets
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

STACKS = [MinGRU, MinLSTM]


def test_upstream_readme_example() -> None:
    """The usage section of cheind/mingru 1.3.0, as written."""
    # Instantiate
    B, I, H, L, S = 10, 3, 64, 2, 128  # noqa: E741
    rnn = mingru.MinGRU(
        input_dims=I,
        hidden_dims=H,
        num_layers=L,
        dropout=0.0,
        residual=True,
    ).eval()

    # Invoke for input x with sequence length 128 and batch-size 10
    # This will allocate 'zero' hidden state for each layer.
    out, h = rnn(torch.randn(B, S, I))
    assert out.shape == (B, S, H)
    assert h.shape == (L, B, 1, H)

    # Invoke with initial/previous hidden state.
    # Hidden state must be expandable to shape (L,B,1,H)
    out, h = rnn(torch.randn(B, S, I), h=torch.ones(B, 1, H) * 0.5)
    assert out.shape == (B, S, H)
    assert h.shape == (L, B, 1, H)

    # Sequential prediction pattern
    data = torch.randn(B, S, I)
    h0 = torch.ones(L, B, 1, H) * 0.5
    h = h0
    out_seq = []
    for i in range(data.shape[1]):
        out, h = rnn(data[:, i : i + 1], h=h)
        out_seq.append(out)
    out_seq = torch.cat(out_seq, 1)
    assert out_seq.shape == (B, S, H)

    # Parallel prediction pattern
    out_par, h = rnn(data, h0)
    assert torch.allclose(out_seq, out_par, atol=1e-4)

    # Note, don't use <= 0 for initial hidden state, instead
    h0 = mingru.functional.g(torch.zeros(10, 1, 64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: MinGRU(input_size=3, hidden_sizes=[4, 6], residual=True),
        lambda: MinGRUCell(input_size=3, hidden_size=6),
        lambda: Bidirectional(MinGRU(input_size=3, hidden_sizes=[4, 6])),
    ],
)
def test_mingru_1_4_has_lists_of_states(make) -> None:
    """One (B, 1, H_i) per layer; a step at a time, or at once, from `init_hidden_state` or from nothing; scripted too."""
    torch.manual_seed(0)
    rnn = make()
    directions = 2 if isinstance(rnn, Bidirectional) else 1
    x = torch.randn(2, 5, 3)
    out, h = rnn(x)
    assert rnn.layer_sizes[0] == 3
    assert [tuple(state.shape) for state in h] == [(2, 1, size) for size in rnn.layer_sizes[1:]] * directions
    torch.testing.assert_close(rnn(x, rnn.init_hidden_state(x)), (out, h))
    if directions == 1:
        state, steps = rnn.init_hidden_state(x), []
        for t in range(5):
            step, state = rnn(x[:, t : t + 1], state) if t % 2 else rnn.step(x[:, t], state)
            steps.append(step.reshape(2, 6))
        torch.testing.assert_close(torch.stack(steps, 1), out)
    else:
        torch.testing.assert_close(out, torch.cat([rnn.rnn(x)[0], rnn.rnn(x.flip(1))[0]], 2))


def test_the_scan_in_logarithms() -> None:
    a, b = torch.rand(2, 10, 3), torch.rand(2, 11, 3)
    expected = [b[:, 0]]
    for t in range(10):
        expected.append(a[:, t] * expected[-1] + b[:, t + 1])
    torch.testing.assert_close(parallel_scan_log(a.log(), b.log()), torch.stack(expected, 1))


def test_g_and_its_logarithm() -> None:
    x = torch.tensor([-120.0, -1.0, -0.0, 0.0, 2.0], requires_grad=True)
    torch.testing.assert_close(functional.g(x), torch.tensor([0.0, 0.26894143, 0.5, 0.5, 2.5]))
    torch.testing.assert_close(functional.log_g(x), torch.tensor([-120.0, -1.3132617, -0.6931472, -0.6931472, 0.91629073]))
    (slope,) = torch.autograd.grad(functional.g(x).sum(), x)
    assert slope.tolist()[2:] == [1.0, 1.0, 1.0]  # at 0 too: a zero-initialised projection must learn


@pytest.mark.parametrize("stack", STACKS)
def test_a_layer_is_its_equations(stack: type[MinGRU], backend: Backend) -> None:
    """out, gradients of weights and of x against the loop one would write from the paper."""
    torch.manual_seed(0)
    rnn = stack(5, 7, device=backend.device)
    x = torch.randn(3, 20, 5, device=backend.device)

    def loop(x: Tensor) -> Tensor:
        *gates, v = rnn.layers[0].gate_hidden(x).chunk(rnn.gates + 1, dim=-1)
        f, i = (1 - gates[0].sigmoid(), gates[0].sigmoid()) if len(gates) == 1 else [k.sigmoid() for k in gates]
        h, out = torch.full((3, 7), 0.5, device=x.device), []
        for t in range(x.shape[1]):
            h = (f / (f + i))[:, t] * h + (i / (f + i))[:, t] * functional.g(v[:, t])
            out.append(h)
        return torch.stack(out, 1)

    out, h = rnn(x)
    expected = loop(x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(h[0, :, 0], expected[:, -1])
    parameters = list(rnn.parameters())
    actual = torch.autograd.grad(out.square().sum(), parameters)
    torch.testing.assert_close(actual, torch.autograd.grad(expected.square().sum(), parameters))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{}, {"residual": True, "norm": True}, {"batch_first": False}, {"activation": "tanh", "bias": False}], ids=str
)
@pytest.mark.parametrize("stack", STACKS)
def test_streaming_equals_the_parallel_pass(stack: type[MinGRU], options: dict, dtype: torch.dtype) -> None:
    """Step by step and in uneven pieces, from a state of any sign."""
    torch.manual_seed(0)
    rnn = stack(6, [8, 5, 8], dtype=dtype, **options)
    x = torch.randn(2, 24, 6, dtype=dtype)
    h0 = torch.randn(3, 2, 1, 8)
    time_first = options.get("batch_first") is False

    def run(piece: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        out, h = rnn(piece.transpose(0, 1) if time_first else piece, h)
        return out.transpose(0, 1) if time_first else out, h

    with torch.no_grad():
        out, h = run(x, h0)
        assert h.dtype == torch.float32
        state, pieces = h0, []
        for piece in x.split([1, 7, 0, 16], dim=1):
            y, state = run(piece, state)
            pieces.append(y)
        steps, streamed = h0, []
        for t in range(24):
            y, steps = rnn.step(x[:, t], steps)
            streamed.append(y)
    exact = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(torch.cat(pieces, 1), out, **exact)
    torch.testing.assert_close(torch.stack(streamed, 1), out, **exact)
    for i, size in enumerate((8, 5, 8)):
        torch.testing.assert_close(state[i, ..., :size], h[i, ..., :size], **exact)
        torch.testing.assert_close(steps[i, ..., :size], h[i, ..., :size], **exact)


def test_steps_can_be_trained_through() -> None:
    torch.manual_seed(0)
    rnn = MinGRU(3, 4, num_layers=2, residual=True).double()
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    out, _ = rnn(x)
    h, streamed = None, []
    for t in range(6):
        y, h = rnn.step(x[:, t], h)
        streamed.append(y)
    parameters = list(rnn.parameters())
    expected = torch.autograd.grad(out.square().sum(), parameters)
    torch.testing.assert_close(torch.autograd.grad(torch.stack(streamed, 1).square().sum(), parameters), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MinGRU(3, 4, num_layers=3),
        lambda: MinGRU(3, 4, bias=False, activation="tanh"),
        lambda: MinLSTM(3, 4, num_layers=2, dropout=0.5).eval(),
        lambda: MinGRU(3, (4, 5)),
        lambda: MinGRU(3, 4, num_layers=2, residual=True, norm=True),
    ],
)
def test_steps_without_gradients_are_the_whole(make, few_backends: Backend) -> None:
    """Most of them in one op for all layers; the state is a piece of a larger tensor."""
    torch.manual_seed(0)
    rnn, x = make().to(few_backends.device), torch.randn(2, 6, 3, device=few_backends.device)
    state = torch.randn(rnn.num_layers + 1, 2, 1, rnn.state_size, device=few_backends.device)[1:]
    with torch.no_grad():
        expected, streamed = rnn(x, state), []
        for t in range(6):
            y, state = rnn.step(x[:, t], state)
            streamed.append(y)
        torch.testing.assert_close((torch.stack(streamed, 1), state), expected)


def test_a_step_of_layers_that_differ() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4)
    for change in (
        lambda layers: setattr(layers[1], "activation", "tanh"),
        lambda layers: setattr(layers[1], "gate_hidden", nn.Linear(4, 8, bias=False)),
        lambda layers: layers.__setitem__(0, checkpoint_wrapper(layers[0])),
    ):
        rnn = MinGRU(4, 4, num_layers=2)
        change(rnn.layers)
        with torch.no_grad():
            torch.testing.assert_close(rnn.step(x)[0], rnn(x[:, None])[0][:, 0])


def test_a_step_calls_a_projection_that_is_more_than_one() -> None:
    rnn, x = MinGRU(3, 4, num_layers=2), torch.randn(2, 3)
    with torch.no_grad():
        plain, _ = rnn.step(x)
        rnn.layers[1].gate_hidden.register_forward_hook(lambda module, inputs, out: out * 2)
        assert not torch.equal(rnn.step(x)[0], plain)


def test_a_stream_may_begin_without_a_state() -> None:
    rnn, x = MinGRU(3, 4, num_layers=2), torch.randn(2, 6, 3)
    with torch.no_grad():
        torch.testing.assert_close(rnn.step(x[:, 0])[0], rnn(x)[0][:, 0])


def test_a_bfloat16_stream_does_not_stall() -> None:
    """With z = 0.002, a bfloat16 state would stop moving near 0.25; the float32 state reaches the candidate."""
    cell = MinGRUCell(1, 1, bias=True, dtype=torch.bfloat16)
    with torch.no_grad():
        cell.to_gate_hidden.weight.zero_()
        cell.to_gate_hidden.bias.copy_(torch.tensor([-6.2, 0.5]))
    h = [torch.zeros(1, 1, 1)]
    with torch.no_grad():
        for _ in range(4000):
            out, h = cell.step(torch.zeros(1, 1, dtype=torch.bfloat16), h)
    assert out.item() == 1.0
    assert h[0].item() == pytest.approx(1.0, abs=1e-3)


def test_sizes_per_layer_and_the_widest_state() -> None:
    rnn = MinGRU(3, [8, 5])
    out, h = rnn(torch.randn(2, 4, 3), torch.full((2, 2, 1, 8), 0.25))
    assert out.shape == (2, 4, 5)
    assert h.shape == (2, 2, 1, 8)
    assert torch.equal(h[1, :, 0, :5], out[:, -1])
    assert torch.equal(h[1, :, 0, 5:], torch.zeros(2, 3))


def test_the_returned_state_owns_its_memory() -> None:
    _, h = MinGRU(3, 4)(torch.randn(2, 500, 3))
    assert h.untyped_storage().nbytes() == h.numel() * h.element_size()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("stack", STACKS)
def test_bidirectional_means_what_it_means_for_nn_gru(stack: type[MinGRU], batch_first: bool) -> None:
    torch.manual_seed(0)
    rnn = stack(3, 4, bidirectional=True, batch_first=batch_first)
    backward = stack(3, 4)
    backward.layers[0].gate_hidden = rnn.layers[0].gate_hidden_reverse
    forward = stack(3, 4)
    forward.layers[0].gate_hidden = rnn.layers[0].gate_hidden
    x, h0 = torch.randn(2, 9, 3), torch.randn(2, 2, 1, 4)
    out, h = rnn(x if batch_first else x.transpose(0, 1), h0)
    out = out if batch_first else out.transpose(0, 1)
    left, h_left = forward(x, h0[:1])
    right, h_right = backward(x.flip(1), h0[1:])
    torch.testing.assert_close(out, torch.cat([left, right.flip(1)], -1))
    torch.testing.assert_close(h, torch.cat([h_left, h_right]))


@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True}, {"residual": True, "norm": True}, {"batch_first": False}], ids=str
)
def test_padding_is_never_read_and_sequences_are_independent(options: dict) -> None:
    torch.manual_seed(0)
    rnn = MinGRU(3, 4, num_layers=2, **options)
    batch_first = options.get("batch_first", True)
    sequences = [torch.randn(n, 3) for n in (5, 9, 0, 1)]
    x = torch.full((4, 9, 3), torch.nan)
    for i, sequence in enumerate(sequences):
        x[i, : len(sequence)] = sequence
    lengths = torch.tensor([5, 9, 0, 1], dtype=torch.int32)
    out, h = rnn(x if batch_first else x.transpose(0, 1), lengths=lengths)
    out = out if batch_first else out.transpose(0, 1)
    for i, sequence in enumerate(sequences):
        alone, h_alone = rnn(sequence.unsqueeze(0 if batch_first else 1))
        torch.testing.assert_close(out[i, : len(sequence)], alone.squeeze(0 if batch_first else 1))
        torch.testing.assert_close(h[:, i : i + 1], h_alone)
        assert torch.equal(out[i, len(sequence) :], torch.zeros(9 - len(sequence), out.shape[2]))
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in rnn.parameters())


@pytest.mark.parametrize("batch_first", [True, False])
def test_packed_sequences(batch_first: bool) -> None:
    torch.manual_seed(0)
    rnn = MinGRU(3, 4, num_layers=2, bidirectional=True, batch_first=batch_first)
    sequences = [torch.randn(n, 3) for n in (3, 7, 5)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    h0 = torch.randn(4, 3, 1, 4)
    out, h = rnn(packed, h0)
    assert torch.equal(out.batch_sizes, packed.batch_sizes)
    padded, lengths = pad_packed_sequence(out, batch_first=True)
    assert lengths.tolist() == [3, 7, 5]
    for i, sequence in enumerate(sequences):
        alone, h_alone = rnn(sequence.unsqueeze(0 if batch_first else 1), h0[:, i : i + 1])
        torch.testing.assert_close(padded[i, : len(sequence)], alone.squeeze(0 if batch_first else 1))
        torch.testing.assert_close(h[:, i : i + 1], h_alone)
    sorted_once = pack_padded_sequence(torch.randn(5, 2, 3), torch.tensor([5, 2]))
    assert torch.equal(rnn(sorted_once)[0].batch_sizes, sorted_once.batch_sizes)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [True, False])
def test_reset_separates_packed_documents(batch_first: bool, bidirectional: bool) -> None:
    options = {"batch_first": batch_first, "bidirectional": bidirectional}
    check_resets(MinGRU(3, 4, num_layers=2, residual=True, **options), 3, batch_first=batch_first)


def test_the_first_of_packed_documents_may_carry_a_state() -> None:
    rnn = MinGRU(3, 4, num_layers=2)
    first, second, h0 = torch.randn(1, 4, 3), torch.randn(1, 6, 3), torch.randn(2, 1, 1, 4)
    reset = torch.zeros(1, 10, dtype=torch.bool)
    reset[0, 4] = True
    out, h = rnn(torch.cat([first, second], 1), h0, reset=reset)
    torch.testing.assert_close(out, torch.cat([rnn(first, h0)[0], rnn(second)[0]], 1))
    torch.testing.assert_close(h, rnn(second)[1])


def test_dropout_is_scaled_and_for_training_only() -> None:
    torch.manual_seed(0)
    rnn = MinGRU(3, 2000, num_layers=2, dropout=0.25)
    x = torch.randn(1, 3, 3)
    seen: list[Tensor] = []
    rnn.layers[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    rnn(x)
    rnn.eval()(x)
    trained, evaluated = seen
    dropped = trained == 0
    assert 0.22 < dropped.float().mean() < 0.28
    torch.testing.assert_close(trained[~dropped], (evaluated / 0.75)[~dropped])
    assert torch.equal(rnn(x)[0], rnn(x)[0])
    assert rnn.layers[1].dropout is None  # not after the last layer


def test_residual_aligns_the_first_layer_and_wherever_sizes_differ() -> None:
    rnn = MinGRU(4, [4, 4, 6], residual=True)
    kinds = [type(layer.res_align) for layer in rnn.layers]
    assert kinds == [nn.Linear, nn.Identity, nn.Linear]
    with torch.no_grad():
        for parameter in rnn.layers[0].gate_hidden.parameters():
            parameter.zero_()  # z = 1/2 and g = 1/2 keep h at 1/2
    x = torch.randn(1, 5, 4)
    first, _ = rnn.layers[0](x, None, None, None)
    torch.testing.assert_close(first, 0.5 + rnn.layers[0].res_align(x))


@pytest.mark.parametrize("norm", [False, True])
def test_convolutional_stack_is_a_recurrence_over_frames(norm: bool, backend: Backend) -> None:
    torch.manual_seed(0)
    rnn = MinConv2dGRU(3, [4, 8], 3, strides=[1, 2], paddings=1, residual=True, norm=norm, device=backend.device)
    video = torch.randn(2, 5, 3, 6, 6, device=backend.device)
    out, h = rnn(video)
    assert out.shape == (2, 5, 8, 3, 3)
    assert [tuple(s.shape) for s in h] == [(2, 1, 4, 6, 6), (2, 1, 8, 3, 3)]
    state, frames = None, []
    for t in range(5):
        y, state = rnn(video[:, t : t + 1], state)
        frames.append(y)
    torch.testing.assert_close(torch.cat(frames, 1), out)

    cell = MinConv2dGRUCell(3, 4, 3, padding=1, device=backend.device)
    k, v = cell.to_gate_hidden(video.flatten(0, 1)).unflatten(0, (2, 5)).chunk(2, dim=2)
    state = torch.full((2, 4, 6, 6), -2.0, device=backend.device)
    out, (last,) = cell(video, [torch.full((1,), -2.0, device=backend.device)])
    for t in range(5):
        state = torch.lerp(state, functional.g(v[:, t]), k[:, t].sigmoid())
        torch.testing.assert_close(out[:, t], state)
    torch.testing.assert_close(last[:, 0], state)
    for module in (rnn, cell):
        torch.testing.assert_close(module(video, module.init_hidden_state(video)), module(video))


def test_functional_forms_of_upstream() -> None:
    torch.manual_seed(0)
    cell = MinGRUCell(3, 4)
    x, h = torch.randn(2, 6, 3), torch.rand(2, 1, 4)
    out, _ = cell(x, [h])
    weight, bias = cell.to_gate_hidden.weight, cell.to_gate_hidden.bias
    torch.testing.assert_close(functional.mingru(x, h, weight, bias), out)
    gate, hidden = cell.to_gate_hidden(x).chunk(2, dim=2)
    torch.testing.assert_close(functional.mingru_gate_hidden(gate, hidden, h), out)
    video = torch.randn(2, 6, 2, 3, 3)
    assert functional.mingru_gate_hidden(video, video, torch.rand(2, 1, 2, 3, 3)).shape == video.shape


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
@pytest.mark.parametrize("stack", STACKS)
def test_nothing_in_nothing_out(stack: type[MinGRU], shape: tuple[int, int], backend: Backend) -> None:
    rnn = stack(3, 4, num_layers=2, norm=True, residual=True, device=backend.device)
    out, h = rnn(torch.randn(*shape, 3, device=backend.device))
    assert out.shape == (*shape, 4)
    assert torch.equal(h, torch.full((2, shape[0], 1, 4), 0.5, device=backend.device))
    out.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in rnn.parameters())


def test_initialisation_is_upstreams() -> None:
    rnn = MinGRU(16, 64, num_layers=2, residual=True)
    for layer, bound in zip(rnn.layers, (0.25, 0.125), strict=True):
        assert bound * 0.9 < layer.gate_hidden.weight.abs().max() <= bound
        assert layer.gate_hidden.bias.abs().max() <= bound


def _bias_as_a_buffer(linear: nn.Linear) -> None:
    bias = linear.bias.detach()
    del linear.bias
    linear.register_buffer("bias", bias)


def _strided_bias(linear: nn.Linear) -> None:
    linear.bias = nn.Parameter(torch.stack([linear.bias.detach()] * 2, 1)[:, 0])


def _sparse_weight(linear: nn.Linear) -> None:
    linear.weight = nn.Parameter(linear.weight.detach().to_sparse_csr(), requires_grad=False)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("change", [_bias_as_a_buffer, _strided_bias, _sparse_weight])
def test_parameters_may_be_whatever_a_linear_takes(change) -> None:
    rnn, x = MinGRU(3, 8), torch.randn(2, 5, 3)
    expected = rnn(x)
    change(rnn.layers[0].gate_hidden)
    torch.testing.assert_close(rnn(x), expected)


def test_the_readmes_recipe_is_a_loop_that_resets() -> None:
    """What recurrent policies do with nn.GRU, episode by episode, and the recipe for them does in one scan."""
    readme = (Path(__file__).parents[2] / "packages" / "mingru" / "README.md").read_text()
    (recipe,) = re.findall(r"```python\n(def update.*?)```", readme, re.S)
    names: dict[str, Any] = {}
    exec(recipe, names)
    torch.manual_seed(0)
    rnn = MinGRU(3, 5, num_layers=2)
    features, h = torch.randn(4, 12, 3), torch.randn(2, 4, 5)
    starts = torch.rand(4, 12) < 0.3
    out, last = names["update"](rnn, features, h, starts.float())
    state, expected = h.unsqueeze(2), []
    for t in range(12):
        state = state.clone()
        state[:, starts[:, t]] = 0.5
        row, state = rnn.step(features[:, t], state)
        expected.append(row)
    torch.testing.assert_close(out, torch.stack(expected, 1))
    torch.testing.assert_close(last, state.squeeze(2))
