"""What a user of the layers relies on: the seed's example, states, padding, directions, dropout, normalisation."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from ligru import LiGRU, LiGRU_Layer, SLiGRU, SLiGRU_Layer, from_pytorch_kaldi
from rnnkit_common.testing import check_replicas, check_resets
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

DATA = Path(__file__).parent / "data"
CONFIGS = {
    "LiGRU": (LiGRU, {}),
    "both ways": (LiGRU, {"bidirectional": True, "nonlinearity": "tanh"}),
    "layernorm": (LiGRU, {"normalization": "layernorm", "nonlinearity": "sine", "num_layers": 3}),
    "SLiGRU": (SLiGRU, {}),
    "SLiGRU both ways": (SLiGRU, {"bidirectional": True, "recurrent_elementwise_affine": True}),
    "SLiGRU layernorm": (SLiGRU, {"ff_normalization": "layernorm", "nonlinearity": "leakyrelu"}),
}


@pytest.fixture(params=CONFIGS)
def net(request: pytest.FixtureRequest) -> nn.Module:
    """Two layers (or three) on 6 features, of 5 units, with statistics that are not those of the start; in evaluation."""
    torch.manual_seed(0)
    cls, options = CONFIGS[request.param]
    net = cls(5, (4, 9, 6), **{"num_layers": 2, **options})
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if "running" in name or ".norm." in name or "layer_norm" in name:
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return net.eval()


def test_the_seeds_example() -> None:
    """The example of the fast_ligru README, as written but for the imports, and on the CPU."""
    for LiGRU_or_SLiGRU in (SLiGRU, LiGRU):
        batch, time, feats = 10, 10, 10
        hidden_size, num_layer, dropout = 512, 4, 0.1
        nonlinearity = "relu"  # works also with sine, leakyrelu and tanh

        device = "cuda" if torch.cuda.is_available() else "cpu"

        inp_tensor = torch.randn((batch, time, feats), requires_grad=False).to(device)
        net = LiGRU_or_SLiGRU(
            input_shape=inp_tensor.shape,
            hidden_size=hidden_size,
            num_layers=num_layer,
            dropout=dropout,
            nonlinearity=nonlinearity,
        ).to(device)

        # forward
        out_tensor, _ = net(inp_tensor)

        # backward
        out_tensor.sum().backward()

        assert out_tensor.shape == (batch, time, hidden_size)
        assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("file", sorted(DATA.glob("speechbrain-*.pt")), ids=lambda file: file.stem)
def test_speechbrain_checkpoints_load_and_give_its_numbers(file: Path) -> None:
    """The data were made by SpeechBrain 1.1.0: outputs in evaluation and in training, and gradients in training."""
    data = torch.load(file)
    cls = SLiGRU if "SLiGRU" in file.stem else LiGRU
    net = cls(**data["arguments"])
    assert any(key.endswith("h_init") for key in data["state_dict"])
    net.load_state_dict(data["state_dict"])
    torch.testing.assert_close(net.eval()(data["x"])[0], data["eval"], rtol=1e-5, atol=1e-5)
    out, _ = net.train()(data["x"])
    torch.testing.assert_close(out, data["train"], rtol=1e-5, atol=1e-5)
    (out * data["grad"]).sum().backward()
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, data["gradients"][name], rtol=1e-4, atol=1e-4)


def test_names_that_speechbrain_asks_for() -> None:
    """Its transducer decoder passes a state only to classes with these names, and gets one tensor from a layer."""
    assert {cls.__name__ for cls in (LiGRU, LiGRU_Layer)} == {"LiGRU", "LiGRU_Layer"}
    layer = LiGRU_Layer(
        6, 5, 1, 4, dropout=0.0, nonlinearity="relu", normalization="layernorm", bias=True, bidirectional=True
    )
    x = torch.randn(4, 9, 6)
    out = layer(x, torch.zeros(8, 5))
    assert isinstance(out, Tensor)
    torch.testing.assert_close(out, layer(x))
    assert SLiGRU_Layer(6, 5)(x, hx=torch.zeros(4, 5)).shape == (4, 9, 5)


def test_four_dimensional_inputs_are_flattened() -> None:
    torch.manual_seed(0)
    net = LiGRU(input_shape=[None, None, 3, 2], hidden_size=5).eval()
    x = torch.randn(4, 9, 3, 2)
    torch.testing.assert_close(net(x)[0], net(x.flatten(2))[0])


def test_pieces_continue_the_whole(net: nn.Module) -> None:
    x = torch.randn(4, 9, 6)
    if net.bidirectional:  # the state that comes out can be fed back, in torch's order
        out, h = net(x)
        assert h.shape == (2 * net.num_layers, 4, 5)
        torch.testing.assert_close(h[-2], out[:, -1, :5])
        torch.testing.assert_close(h[-1], out[:, 0, 5:])
        assert net(x, h)[1].shape == h.shape
        return
    out, h = net(x)
    first, state = net(x[:, :4])
    second, state = net(x[:, 4:], state)
    torch.testing.assert_close((torch.cat([first, second], 1), state), (out, h))


def test_directions_are_two_recurrences_with_the_same_weights() -> None:
    torch.manual_seed(0)
    for cls in (LiGRU_Layer, SLiGRU_Layer):
        both, one = cls(6, 5, bidirectional=True).eval(), cls(6, 5).eval()
        one.load_state_dict(both.state_dict())
        x, h0 = torch.randn(4, 9, 6), torch.randn(2, 4, 5)
        out = both(x, h0)
        torch.testing.assert_close(out[..., :5], one(x, h0[0]))
        torch.testing.assert_close(out[..., 5:].flip(1), one(x.flip(1), h0[1]))


def test_padding_never_shows(net: nn.Module) -> None:
    x, lengths = torch.randn(4, 9, 6), torch.tensor([9, 1, 0, 5])
    padded = x.masked_fill((torch.arange(9) >= lengths[:, None])[..., None], torch.nan)
    h0 = torch.randn(net.num_layers * net.num_directions, 4, 5)
    out, h = net(padded, h0, lengths)
    for b, length in enumerate(lengths.tolist()):
        alone, last = net(x[b : b + 1, :length], h0[:, b : b + 1])
        torch.testing.assert_close(out[b : b + 1, :length], alone)
        torch.testing.assert_close(h[:, b : b + 1], last)
        assert not out[b, length:].any()
    net.train()
    out, h = net(padded, h0, lengths)
    grads = torch.autograd.grad(out.square().sum() + h.sum(), list(net.parameters()))
    assert all(g.isfinite().all() for g in grads)


def test_running_statistics_move_as_fast_as_speechbrains() -> None:
    """By 0.05 at each batch, where nn.BatchNorm1d's default is 0.1."""
    net, x = LiGRU(5, (4, 9, 6)), torch.randn(4, 9, 6)
    net(x)
    projected = net.rnn[0].w(x).flatten(0, 1)
    torch.testing.assert_close(net.rnn[0].norm.running_mean, 0.05 * projected.mean(0))
    torch.testing.assert_close(net.rnn[0].norm.running_var, 0.95 + 0.05 * projected.var(0))


def test_batch_norm_counts_only_what_is_no_padding() -> None:
    """Sequences of equal valid steps, padded or not, leave the same outputs, statistics and gradients."""
    torch.manual_seed(0)
    for momentum in (0.05, 0.3):
        plain, padded = LiGRU(5, (4, 9, 6)), LiGRU(5, (4, 9, 6))
        padded.load_state_dict(plain.state_dict())
        plain.rnn[0].norm.momentum = padded.rnn[0].norm.momentum = momentum
        x = torch.randn(4, 9, 6)
        out, _ = plain(x)
        longer = torch.cat([x, torch.full((4, 3, 6), torch.nan)], dim=1)
        out_padded, _ = padded(longer, lengths=torch.full((4,), 9))
        torch.testing.assert_close(out_padded[:, :9], out)
        out.square().sum().backward()
        out_padded.square().sum().backward()
        for a, e in zip(padded.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a.grad, e.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(dict(padded.named_buffers()), dict(plain.named_buffers()))


def test_sync_batch_norm_is_called_with_what_is_not_padding() -> None:
    """Which, in one process, gives what nn.BatchNorm1d gives, statistics and gradients too."""
    torch.manual_seed(0)
    net = LiGRU(5, (4, 9, 6))
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    x, lengths = torch.randn(4, 9, 6), torch.tensor([9, 3, 0, 5])
    expected, actual = net(x, lengths=lengths), synchronised(x, lengths=lengths)
    torch.testing.assert_close(actual, expected)
    for out in (expected, actual):
        out[0].square().sum().backward()
    for e, a in zip(net.parameters(), synchronised.parameters(), strict=True):
        torch.testing.assert_close(a.grad, e.grad)
    torch.testing.assert_close(synchronised.state_dict(), net.state_dict())


@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_sequences(net: nn.Module, enforce_sorted: bool) -> None:
    lengths = [7, 5, 3] if enforce_sorted else [3, 7, 5]
    pieces = [torch.randn(n, 6) for n in lengths]
    out, h = net(pack_sequence(pieces, enforce_sorted=enforce_sorted))
    assert (out.sorted_indices is None) == enforce_sorted
    padded, unpacked_lengths = pad_packed_sequence(out, batch_first=True)
    assert unpacked_lengths.tolist() == lengths
    for b, piece in enumerate(pieces):
        alone, last = net(piece[None])
        torch.testing.assert_close(padded[b : b + 1, : len(piece)], alone)
        torch.testing.assert_close(h[:, b : b + 1], last)
    with pytest.raises(ValueError, match="lengths: expected None with a PackedSequence"):
        net(pack_padded_sequence(torch.randn(2, 4, 6), [4, 2], batch_first=True), None, torch.tensor([4, 2]))


def test_recurrent_dropout_is_one_mask_for_all_steps() -> None:
    """A unit that is dropped only ever sees its old state; the others are scaled. Nothing is dropped in evaluation."""
    torch.manual_seed(0)
    layer = LiGRU_Layer(6, 400, dropout=0.25, normalization="layernorm", bidirectional=True)
    with torch.no_grad():
        layer.u.weight.zero_()
    x = torch.randn(2, 9, 6)
    out = layer(x, torch.ones(2, 2, 400))
    whole = layer.eval()(x, torch.ones(2, 2, 400))
    z = torch.sigmoid(layer.norm(layer.w(x))[..., 400:])
    only_kept = z.cumprod(1)
    dropped = torch.isclose(out[..., :400], only_kept).all(1)
    assert 0.2 < dropped.float().mean() < 0.3
    excess, expected = out[..., :400] - only_kept, (whole[..., :400] - only_kept) / 0.75
    kept = ~dropped[:, None].expand_as(excess)
    torch.testing.assert_close(excess[kept], expected[kept], rtol=1e-4, atol=1e-5)
    assert torch.equal(layer(x), layer(x))


def test_dropout_between_layers_is_another_thing() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 9, 6)
    one, two = (LiGRU(5, x.shape, num_layers=n, dropout_between=0.5) for n in (1, 2))
    assert torch.equal(one(x)[0], one(x)[0])
    assert not torch.equal(two(x)[0], two(x)[0])
    assert torch.equal(two.eval()(x)[0], two(x)[0])


def test_start_of_the_weights() -> None:
    torch.manual_seed(0)
    net = SLiGRU(8, (1, 1, 3), num_layers=2)
    for layer in net.rnn:
        torch.testing.assert_close(layer.u.weight.t() @ layer.u.weight, torch.eye(8))
    assert not torch.allclose(LiGRU_Layer(3, 8).u.weight.t() @ LiGRU_Layer(3, 8).u.weight, torch.eye(8), atol=0.1)
    frozen = LiGRU(8, (1, 1, 3), bias=False).rnn[0].norm.bias
    assert not frozen.requires_grad
    assert not frozen.any()


def test_empty_batches_and_sequences(net: nn.Module) -> None:
    for mode in (True, False):
        net.train(mode)
        for batch, steps in ((0, 3), (4, 0)):
            x = torch.randn(batch, steps, 6, requires_grad=True)
            out, h = net(x)
            assert out.shape == (batch, steps, 5 * net.num_directions)
            assert h.shape == (net.num_layers * net.num_directions, batch, 5)
            (out.sum() + h.sum()).backward()
            assert x.grad.shape == x.shape


def test_replicas_run_at_the_same_time() -> None:
    torch.manual_seed(0)
    net = SLiGRU(16, (4, 50, 8), num_layers=2).eval()
    x, h0 = torch.randn(4, 50, 8), torch.randn(2, 4, 16)
    check_replicas(net, [x, h0], batch=[0, 1])


def kaldi(dropout: float) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """A state dict as pytorch-kaldi's liGRU has it, two layers of 5 units, an input (B, T, 6), and its output in evaluation."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}
    x = out = torch.randn(4, 9, 6)
    for i, inputs in enumerate((6, 10)):
        for part in "hz":
            state[f"w{part}.{i}.weight"], state[f"u{part}.{i}.weight"] = torch.randn(5, inputs), torch.randn(5, 5)
            for name in ("weight", "bias", "running_mean", "running_var"):
                state[f"bn_w{part}.{i}.{name}"] = torch.rand(5) + 0.5
            state[f"bn_w{part}.{i}.num_batches_tracked"] = torch.tensor(3)
        state[f"ln.{i}.gamma"], state[f"ln.{i}.beta"] = torch.ones(5), torch.zeros(5)

        def norm(part: str, y: Tensor, i: int = i) -> Tensor:
            names = ("running_mean", "running_var", "weight", "bias")
            mean, var, weight, bias = (state[f"bn_w{part}.{i}.{name}"] for name in names)
            return (y - mean) / (var + 1e-5).sqrt() * weight + bias

        directions = []
        for flip in (False, True):
            given, h, hs = out.flip(1) if flip else out, torch.zeros(4, 5), []
            for t in range(9):
                a = norm("h", given[:, t] @ state[f"wh.{i}.weight"].t()) + h @ state[f"uh.{i}.weight"].t()
                z = torch.sigmoid(norm("z", given[:, t] @ state[f"wz.{i}.weight"].t()) + h @ state[f"uz.{i}.weight"].t())
                h = z * h + (1 - z) * torch.relu(a) * (1 - dropout)
                hs.append(h)
            directions.append(torch.stack(hs, 1).flip(1) if flip else torch.stack(hs, 1))
        out = torch.cat(directions, -1)
    return state, x, out


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_pytorch_kaldi_checkpoints(dropout: float) -> None:
    state, x, expected = kaldi(dropout)
    net = LiGRU(5, x.shape, num_layers=2, bidirectional=True, dropout=dropout).eval()
    net.load_state_dict(from_pytorch_kaldi(state, dropout=dropout))
    torch.testing.assert_close(net(x)[0], expected, rtol=1e-4, atol=1e-4)
    assert net.rnn[0].norm.num_batches_tracked == 3


def test_pytorch_kaldi_models_that_are_something_else() -> None:
    state, *_ = kaldi(0.0)
    for extra in ({"wh.0.bias": torch.zeros(5)}, {"bn0.weight": torch.ones(6)}, {"ln.1.gamma": torch.full((5,), 2.0)}):
        with pytest.raises(ValueError, match=f"nothing else, got .*{next(iter(extra))}"):
            from_pytorch_kaldi({**state, **extra})
    with pytest.raises(ValueError, match="dropout: expected 0 with 'tanh'"):
        from_pytorch_kaldi(state, dropout=[0.0, 0.1], nonlinearity="tanh")
    with pytest.raises(ValueError, match="dropout: expected 2 ratios"):
        from_pytorch_kaldi(state, dropout=[0.1])
    with pytest.raises(ValueError, match=r"state_dict: expected keys wh\.0\.weight"):
        from_pytorch_kaldi({})


def test_steps_are_the_whole(net: nn.Module) -> None:
    x = torch.randn(4, 9, 6)
    if net.bidirectional:
        with pytest.raises(ValueError, match="step: a bidirectional model needs the whole sequence"):
            net.step(x[:, 0])
        return
    expected = net(x)
    state, streamed = None, []
    for t in range(9):
        out, state = net.step(x[:, t], state)
        streamed.append(out)
    torch.testing.assert_close((torch.stack(streamed, 1), state), expected)


def test_a_step_has_no_time() -> None:
    with pytest.raises(ValueError, match=r"x: expected shape \(B, 6\), got \[6\]"):
        LiGRU(5, (4, 9, 6)).step(torch.randn(6))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("stack", [LiGRU, SLiGRU])
def test_reset_separates_packed_documents(stack: type[nn.Module], bidirectional: bool) -> None:
    """Of one statistics: batch normalisation sees the whole batch."""
    net = stack(4, (2, 13, 3), num_layers=2, bidirectional=bidirectional, nonlinearity="tanh").eval()
    check_resets(net, 3, batch_first=True)
    torch.nn.utils.parametrizations.weight_norm(net.rnn[0].u)  # a step at a time, through calls
    check_resets(net, 3, batch_first=True)
