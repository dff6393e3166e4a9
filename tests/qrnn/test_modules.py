"""What a user of the layers relies on."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from qrnn import QRNN, ForgetMult, QRNNLayer, fastai
from rnnkit_common.testing import Backend, check_replicas, check_resets
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence


def test_upstream_readme_example() -> None:
    """The usage section of salesforce/pytorch-qrnn, as written but for the import and `.cuda()`."""
    seq_len, batch_size, hidden_size = 7, 20, 256
    size = (seq_len, batch_size, hidden_size)
    X = torch.autograd.Variable(torch.rand(size), requires_grad=True)

    qrnn = QRNN(hidden_size, hidden_size, num_layers=2, dropout=0.4)
    output, hidden = qrnn(X)
    assert output.size() == (7, 20, 256)
    assert hidden.size() == (2, 20, 256)
    output.sum().backward()
    assert X.grad.shape == size
    f, x, hidden = torch.rand(size), torch.rand(size), torch.rand(size[1:])
    assert ForgetMult()(f, x, hidden).size() == size


def torchqrnn_layer(layer: QRNNLayer, x: Tensor, hidden: Tensor, prev: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Step by step what torchqrnn computes, for any window: x (T, B, I), hidden (B, H), prev (window - 1, B, I)."""
    prev = x.new_zeros(layer.window - 1, *x.shape[1:]) if prev is None else prev
    before = torch.cat([prev, x])
    source = torch.cat([before[layer.window - 1 - j :][: len(x)] for j in range(layer.window)], dim=2)
    y = nn.functional.linear(source, layer.linear.weight, layer.linear.bias)
    if layer.pooling == "f":
        (z, f), o = y.chunk(2, dim=2), None
    else:
        z, f, o = y.chunk(3, dim=2)
    states = []
    for t in range(len(x)):
        gate = f[t].sigmoid()
        hidden = gate * z[t].tanh() + (1 - gate) * hidden
        states.append(hidden)
    c = torch.stack(states)
    return (c if o is None else o.sigmoid() * c), hidden


@pytest.mark.parametrize("window", [1, 2, 3, 5])
@pytest.mark.parametrize("output_gate", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_equals_torchqrnn(window: int, output_gate: bool, bias: bool) -> None:
    torch.manual_seed(0)
    layer = QRNNLayer(4, 6, window=window, output_gate=output_gate, bias=bias)
    x, hidden = torch.randn(9, 3, 4, requires_grad=True), torch.randn(3, 6, requires_grad=True)
    actual, expected = layer(x, hidden), torchqrnn_layer(layer, x, hidden)
    torch.testing.assert_close(actual[0], expected[0])
    torch.testing.assert_close(actual[1], expected[1].unsqueeze(0))
    inputs = [x, hidden, *layer.parameters()]
    weights = torch.randn(9, 3, 6)
    grads = [torch.autograd.grad((out * weights).sum() + last.sum(), inputs) for out, last in (actual, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("window", [1, 3])
def test_stack_is_its_layers(window: int) -> None:
    torch.manual_seed(0)
    rnn = QRNN(4, 6, 3, window=window)
    x, hidden = torch.randn(9, 2, 4), torch.randn(3, 2, 6)
    expected, last = x, []
    for layer, start in zip(rnn.layers, hidden, strict=True):
        expected, c = torchqrnn_layer(layer, expected, start)
        last.append(c)
    out, state = rnn(x, hidden)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(state, torch.stack(last))


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("join", ["layer", "top"])
@pytest.mark.parametrize("pooling", ["f", "fo", "ifo"])
def test_batch_first_is_a_transposition(window: int, bidirectional: bool, join: str, pooling: str) -> None:
    torch.manual_seed(0)
    options = {"window": window, "bidirectional": bidirectional, "join": join, "pooling": pooling}
    first, second = QRNN(4, 6, 2, batch_first=True, **options), QRNN(4, 6, 2, **options)
    second.load_state_dict(first.state_dict())
    x, lengths = torch.randn(5, 9, 4, requires_grad=True), torch.tensor([9, 1, 0, 4, 8])
    out, state = first(x, lengths=lengths)
    expected, same = second(x.transpose(0, 1), lengths=lengths)
    torch.testing.assert_close(out, expected.transpose(0, 1))
    torch.testing.assert_close(state, same)
    (a,), (e,) = (torch.autograd.grad(t.square().sum(), x) for t in (out, expected))
    torch.testing.assert_close(a, e)


@pytest.mark.parametrize("window", [1, 2, 3, 6])
def test_pieces_continue_exactly(window: int) -> None:
    """The hidden state, and with save_prev_x the window, carry a sequence on over calls, even shorter than the window."""
    torch.manual_seed(0)
    rnn = QRNN(4, 6, 2, window=window, save_prev_x=True)
    x = torch.randn(23, 3, 4)
    whole, end = rnn(x)
    for sizes in ([10, 13], [1] * 23, [2, 3, 18]):
        rnn.reset()
        hidden, outputs = None, []
        for piece in x.split(sizes):
            out, hidden = rnn(piece, hidden)
            outputs.append(out)
        torch.testing.assert_close(torch.cat(outputs), whole)
        torch.testing.assert_close(hidden, end)
    for layer in rnn.layers:
        if window > 1:  # these inputs, and no more memory than theirs
            assert layer.prevX.shape == (window - 1, 3, layer.input_size)
            assert layer.prevX.untyped_storage().nbytes() == layer.prevX.nbytes
    rnn.reset()
    torch.testing.assert_close(rnn(x)[0], whole)


def test_saved_inputs_are_each_sequences_own() -> None:
    """With lengths, save_prev_x keeps the last valid inputs of every sequence."""
    torch.manual_seed(0)
    layer = QRNNLayer(4, 6, window=3, save_prev_x=True)
    x, more, lengths = torch.randn(7, 3, 4), torch.randn(5, 3, 4), torch.tensor([7, 1, 0])
    _, hidden = layer(x, lengths=lengths)
    out, _ = layer(more, hidden)
    for b, n in enumerate(lengths):
        alone = QRNNLayer(4, 6, window=3)
        alone.load_state_dict(layer.state_dict())
        expected, _ = alone(torch.cat([x[:n, b], more[:, b]]).unsqueeze(1))
        torch.testing.assert_close(out[:, b], expected[n:, 0])


@pytest.mark.parametrize("lengths", [None, [7, 1, 0]])
def test_a_backward_layer_saves_the_first_inputs_for_the_piece_before(lengths: list[int] | None) -> None:
    """As in fastai: the later piece goes first, and the earlier one ends with its inputs, each sequence where it ends."""
    torch.manual_seed(0)
    layer = QRNNLayer(4, 6, window=3, save_prev_x=True, backward=True)
    alone = QRNNLayer(4, 6, window=3, backward=True)
    alone.load_state_dict(layer.state_dict())
    early, late = torch.randn(7, 3, 4), torch.randn(5, 3, 4)
    last, hidden = layer(late)
    first, hidden = layer(early, hidden, lengths)
    for b, n in enumerate(lengths or [7, 7, 7]):
        expected, end = alone(torch.cat([early[:n, b], late[:, b]]).unsqueeze(1))
        torch.testing.assert_close(torch.cat([first[:n, b], last[:, b]]), expected[:, 0])
        torch.testing.assert_close(hidden[0, b], end[0, 0])


def test_states_may_come_as_a_list_with_one_for_each_layer() -> None:
    """As torchqrnn and fastai, which index them, allow."""
    rnn, x, hidden = QRNN(4, 6, 2), torch.randn(5, 3, 4), torch.randn(2, 3, 6)
    torch.testing.assert_close(rnn(x, list(hidden)), rnn(x, hidden))
    torch.testing.assert_close(rnn(x, tuple(hidden.split(1))), rnn(x, hidden))


def test_saved_inputs_carry_no_gradient() -> None:
    layer = QRNNLayer(2, window=2, save_prev_x=True)
    x = torch.randn(3, 1, 2, requires_grad=True)
    layer(x)
    layer(torch.randn(3, 1, 2))[0].sum().backward()
    assert x.grad is None


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"bidirectional": True, "join": "top"}], ids=str)
def test_padding_never_shows(window: int, options: dict) -> None:
    """Lengths, NaN in the padding: every sequence gives what it gives alone, and so do the gradients."""
    torch.manual_seed(0)
    rnn = QRNN(4, 6, 2, window=window, **options).double()
    lengths = [9, 1, 0, 5]
    sequences = [torch.randn(n, 4, dtype=torch.float64) for n in lengths]
    x = torch.full((9, 4, 4), torch.nan, dtype=torch.float64)
    for b, s in enumerate(sequences):
        x[: len(s), b] = s
    out, state = rnn(x, lengths=torch.tensor(lengths))
    grads = torch.autograd.grad(out.square().sum() + state.sum(), list(rnn.parameters()))
    loss = torch.zeros((), dtype=torch.float64)
    for b, s in enumerate(sequences):
        alone, last = rnn(s)
        torch.testing.assert_close(out[: len(s), b], alone)
        assert (out[len(s) :, b] == 0).all()
        torch.testing.assert_close(state[:, b], last)
        loss = loss + alone.square().sum() + last.sum()
    torch.testing.assert_close(grads, torch.autograd.grad(loss, list(rnn.parameters())))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_sequences(batch_first: bool, enforce_sorted: bool) -> None:
    torch.manual_seed(0)
    rnn = QRNN(4, 6, 2, window=2, bidirectional=True, batch_first=batch_first)
    lengths = [9, 4, 2] if enforce_sorted else [4, 9, 2]
    x = torch.randn(3, 9, 4) if batch_first else torch.randn(9, 3, 4)
    packed = pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=enforce_sorted)
    hidden = torch.randn(4, 3, 6)
    out, state = rnn(packed, hidden)
    padded, sizes = pad_packed_sequence(out, batch_first=batch_first)
    expected, same = rnn(x, hidden, lengths=torch.tensor(lengths))
    assert sizes.tolist() == lengths
    torch.testing.assert_close(padded, expected)
    torch.testing.assert_close(state, same)


@pytest.mark.parametrize("window", [1, 3])
def test_backward_is_forward_on_the_flipped_sequence(window: int) -> None:
    torch.manual_seed(0)
    layer, flipped = QRNNLayer(4, 6, window=window, backward=True), QRNNLayer(4, 6, window=window)
    flipped.load_state_dict(layer.state_dict())
    x, hidden = torch.randn(9, 3, 4), torch.randn(3, 6)
    out, last = layer(x, hidden)
    expected, same = flipped(x.flip(0), hidden)
    torch.testing.assert_close(out, expected.flip(0))
    torch.testing.assert_close(last, same)


def test_both_ways_to_join_directions() -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 3, 4)
    for join, above in (("layer", 12), ("top", 6)):
        rnn = QRNN(4, 6, 2, bidirectional=True, join=join)
        assert [layer.input_size for layer in rnn.layers] == [4, above]
        out, hidden = rnn(x)
        assert out.shape == (9, 3, 12)
        assert hidden.shape == (4, 3, 6)
        left, c0 = rnn.layers[0](x)
        right, d0 = rnn.layers_bwd[0](x)
        if join == "layer":
            left = right = torch.cat([left, right], dim=2)
        left, c1 = rnn.layers[1](left)
        right, d1 = rnn.layers_bwd[1](right)
        torch.testing.assert_close(out, torch.cat([left, right], dim=2))
        torch.testing.assert_close(hidden, torch.cat([c0, d0, c1, d1]))
        again, _ = rnn(x, hidden)  # torch's order can be fed back
        assert not torch.equal(again, out)


def test_layers_of_ones_own() -> None:
    """Sizes may differ; states are then as wide as the widest, and the first columns of the others count."""
    torch.manual_seed(0)
    layers = [QRNNLayer(3, 8, window=2), QRNNLayer(8, 5, output_gate=False)]
    rnn = QRNN(3, 5, 2, layers=layers)
    x = torch.randn(7, 2, 3)
    out, hidden = rnn(x)
    middle, c = layers[0](x)
    expected, d = layers[1](middle)
    torch.testing.assert_close(out, expected)
    assert hidden.shape == (2, 2, 8)
    torch.testing.assert_close(hidden[0], c[0])
    torch.testing.assert_close(hidden[1, :, :5], d[0])
    torch.testing.assert_close(rnn(x, hidden)[0], layers[1](layers[0](x, c)[0], d)[0])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_stands_in_for_an_lstm(batch_first: bool, bidirectional: bool) -> None:
    """Same constructor, same shapes of outputs and of one state, batched or not."""
    arguments = {"num_layers": 2, "batch_first": batch_first, "bidirectional": bidirectional, "dropout": 0.1, "bias": True}
    ours, theirs = QRNN(4, 6, **arguments), nn.LSTM(4, 6, **arguments)
    for x in (torch.randn(3, 9, 4), torch.randn(9, 4)):
        out, hidden = ours(x)
        expected, (h, c) = theirs(x)
        assert out.shape == expected.shape
        assert hidden.shape == h.shape == c.shape
        assert ours(x, hidden)[1].shape == hidden.shape


def test_dropout_is_between_layers_and_while_training() -> None:
    torch.manual_seed(0)
    rnn = QRNN(4, 6, 2, dropout=0.5)
    x = torch.randn(9, 3, 4)
    assert not torch.equal(rnn(x)[0], rnn(x)[0])
    rnn.eval()
    assert torch.equal(rnn(x)[0], rnn(x)[0])
    alone = QRNN(4, 6, 1, dropout=0.5)
    assert torch.equal(alone(x)[0], alone(x)[0])


def test_a_wrapped_or_hooked_linear_is_called() -> None:
    """AWD-LSTM replaces `linear` by a WeightDrop around it; hooks and parametrizations change weights when it is called."""
    torch.manual_seed(0)

    class Doubled(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, 2 * self.module.weight, self.module.bias)

    for window in (1, 3):
        plain = QRNNLayer(4, 6, window=window)
        x = torch.randn(9, 3, 4)
        expected, _ = torchqrnn_layer(plain, x, torch.zeros(3, 6))
        hooked = copy.deepcopy(plain)
        hooked.linear.register_forward_hook(lambda module, args, out: out)
        torch.testing.assert_close(hooked(x)[0], expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            normed = copy.deepcopy(plain)
            nn.utils.weight_norm(normed.linear)
        normed.linear.weight.data.zero_()  # the hook makes it from weight_g and weight_v
        torch.testing.assert_close(normed(x)[0], expected)
        wrapped = copy.deepcopy(plain)
        wrapped.linear = Doubled(plain.linear)
        with torch.no_grad():
            plain.linear.weight *= 2
            expected, _ = torchqrnn_layer(plain, x, torch.zeros(3, 6))
            plain.linear.weight /= 2
        torch.testing.assert_close(wrapped(x)[0], expected)


def test_fastai() -> None:
    """fastai's names, defaults and shapes (of its own tests)."""
    torch.manual_seed(0)
    rnn = fastai.QRNN(10, 20, 2, bidirectional=True, batch_first=True)
    x = torch.randn(7, 5, 10)
    y, h = rnn(x)
    assert y.shape == (7, 5, 40)
    assert h.shape == (4, 7, 20)
    assert [layer.window for layer in rnn.layers] == [2, 1]
    assert all(name.startswith(("layers.", "layers_bwd.")) for name in rnn.state_dict())
    with torch.no_grad():  # without output gates the states are seen in the output, at its ends
        rnn = fastai.QRNN(10, 20, 2, bidirectional=True, output_gate=False)
        y, h = rnn(x)
    torch.testing.assert_close(y[:, -1, :20], h[2])
    torch.testing.assert_close(y[:, 0, 20:], h[3])
    layer = fastai.QRNNLayer(10, 20, save_prev_x=True, window=2, output_gate=True)
    assert layer(x)[0].shape == (7, 5, 20)
    assert layer.zoneout_mode == "fastai"
    assert QRNN(10, 20, n_layers=3, window=None).num_layers == 3


@pytest.mark.parametrize("window", [1, 2])
def test_replicas_run_at_the_same_time(window: int) -> None:
    """What nn.DataParallel does: replicas in threads, outputs and states joined along the batch."""
    torch.manual_seed(0)
    rnn = QRNN(8, 16, 3, window=window)
    x, hidden = torch.randn(50, 4, 8), torch.randn(3, 4, 16)
    check_replicas(rnn, [x, hidden], batch=[1, 1])
    torch.testing.assert_close(nn.DataParallel(rnn, dim=1)(x, hidden), rnn(x, hidden))


def test_empty_batches_and_sequences() -> None:
    for window in (1, 3):
        rnn = QRNN(4, 6, 2, window=window)
        for steps, batch in ((0, 3), (5, 0)):
            x = torch.randn(steps, batch, 4, requires_grad=True)
            out, hidden = rnn(x)
            assert out.shape == (steps, batch, 6)
            assert hidden.shape == (2, batch, 6)
            (out.sum() + hidden.sum()).backward()
            assert x.grad.shape == x.shape


def test_packed_sequence_of_one_step_each() -> None:
    rnn = QRNN(4, 6)
    out, _ = rnn(pack_sequence([torch.randn(1, 4), torch.randn(1, 4)]))
    assert out.data.shape == (2, 6)


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"window": 2, "save_prev_x": True}], ids=str)
def test_steps_are_the_whole(options: dict) -> None:
    torch.manual_seed(0)
    rnn, x = QRNN(3, 4, num_layers=2, **options), torch.randn(6, 2, 3)
    whole, last = rnn(x.transpose(0, 1) if "batch_first" in options else x)
    rnn.reset()
    state, streamed = None, []
    for row in x:
        out, state = rnn.step(row, state)
        streamed.append(out)
    torch.testing.assert_close((torch.stack(streamed, 1 if "batch_first" in options else 0), state), (whole, last))


def wrapped(rnn: QRNN) -> QRNN:
    rnn.layers[1] = checkpoint_wrapper(rnn.layers[1])
    return rnn


@pytest.mark.parametrize(
    "make",
    [
        lambda: QRNN(3, 4, num_layers=3),
        lambda: QRNN(3, 4, num_layers=2, pooling="ifo", bias=False),
        lambda: QRNN(3, 4, num_layers=2, layers=[QRNNLayer(3, 4), QRNNLayer(4, 4, pooling="f")]),
        lambda: wrapped(QRNN(3, 4, num_layers=2)),
        lambda: QRNN(3, 4, num_layers=2, zoneout=0.3).eval(),
        lambda: QRNN(3, 4, num_layers=2, dropout=0.3).eval(),
    ],
)
def test_steps_without_gradients_are_the_whole(make, few_backends: Backend) -> None:
    """Those of layers that are alike in one op; the state is a piece of a larger tensor."""
    torch.manual_seed(0)
    rnn, x = make().to(few_backends.device), torch.randn(6, 2, 3, device=few_backends.device)
    state = torch.randn(rnn.num_layers + 1, 2, 4, device=few_backends.device)[1:]
    with torch.no_grad():
        whole, last = rnn(x, state)
        streamed = []
        for row in x:
            out, state = rnn.step(row, state)
            streamed.append(out)
        torch.testing.assert_close((torch.stack(streamed), state), (whole, last))
        torch.testing.assert_close(rnn.step(x[0])[0], rnn(x[:1])[0][0])


def test_a_step_calls_what_is_more_than_a_layer() -> None:
    rnn, row = QRNN(3, 4, num_layers=2), torch.randn(2, 3)
    with torch.no_grad():
        plain, _ = rnn.step(row)
        rnn.layers[1].linear.register_forward_hook(lambda module, inputs, out: out * 2)
        assert not torch.equal(rnn.step(row)[0], plain)
        rnn = QRNN(3, 4, num_layers=2)
        rnn.layers[0].register_forward_hook(lambda module, inputs, out: (out[0] * 2, out[1]))
        torch.testing.assert_close(rnn.step(row)[0], rnn(row[None])[0][0])


def test_a_step_needs_what_went_before_alone() -> None:
    row = torch.randn(2, 3)
    with pytest.raises(ValueError, match="step: a bidirectional model needs the whole sequence"):
        QRNN(3, 4, bidirectional=True).step(row)
    with pytest.raises(ValueError, match="step: expected save_prev_x with a window > 1"):
        QRNN(3, 4, window=2).step(row)
    with pytest.raises(ValueError, match=r"X: expected shape \(B, 3\), got \[2, 1, 3\]"):
        QRNN(3, 4).step(row[:, None])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("batch_first", [True, False])
def test_reset_separates_packed_documents(batch_first: bool, window: int, bidirectional: bool) -> None:
    """For windows, too, which would reach across."""
    options = {"batch_first": batch_first, "window": window, "bidirectional": bidirectional, "pooling": "ifo"}
    check_resets(QRNN(3, 4, num_layers=2, **options), 3, batch_first=batch_first)


@pytest.mark.parametrize("backward", [False, True])
def test_reset_separates_what_is_kept_for_the_next_piece(backward: bool) -> None:
    """A layer with a window, fed in pieces of sequences with lengths of their own, forgets what lies beyond a reset."""
    torch.manual_seed(0)
    whole = QRNNLayer(3, 4, window=4, backward=backward, batch_first=True)
    pieces = QRNNLayer(3, 4, window=4, backward=backward, batch_first=True, save_prev_x=True)
    pieces.load_state_dict(whole.state_dict())
    x, reset = torch.randn(2, 9, 3), torch.zeros(2, 9, dtype=torch.bool)
    reset[0, 4], reset[1, [2, 6]] = True, True
    expected, _ = whole(x, reset=reset)
    outputs, state = [], None
    parts = [slice(0, 5), slice(5, 9)]
    for part in reversed(parts) if backward else parts:
        out, state = pieces(x[:, part], state, reset=reset[:, part])
        outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs[::-1] if backward else outputs, 1), expected)
