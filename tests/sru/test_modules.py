"""What the modules promise beyond upstream's numbers: layouts, lengths, states, dropout, custom products, replicas."""

from __future__ import annotations

import pytest
import sru
import torch
from rnnkit_common.testing import Backend, check_replicas, check_resets
from sru import SRU, SRUCell
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

CONFIGS = {
    "plain": {"input_size": 6, "hidden_size": 6},
    "k4": {"input_size": 4, "hidden_size": 6, "highway_bias": -2.0},
    "bidirectional": {"input_size": 4, "hidden_size": 6, "bidirectional": True, "rescale": True},
    "projection": {"input_size": 6, "hidden_size": 6, "projection_size": 2},
    "norm": {"input_size": 6, "hidden_size": 6, "layer_norm": True},
    "norm after": {"input_size": 6, "hidden_size": 6, "layer_norm": True, "normalize_after": True},
    "v1": {"input_size": 6, "hidden_size": 6, "v1": True, "use_tanh": True},
    "no skip": {"input_size": 4, "hidden_size": 6, "has_skip_term": False, "use_relu": True},
    "first": {"input_size": 4, "hidden_size": 6, "proj_input_to_hidden_first": True},
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> dict:
    torch.manual_seed(0)
    return CONFIGS[request.param]


def gradients(rnn: nn.Module, *outputs: Tensor) -> list[Tensor]:
    loss = sum(t.sin().sum() for t in outputs)
    return list(torch.autograd.grad(loss, [p for p in rnn.parameters() if p.requires_grad]))


def test_lengths_are_the_sequences_alone(config: dict) -> None:
    """Padding may hold NaN: nothing of it reaches outputs, states or gradients."""
    rnn = SRU(**config)
    lengths = [7, 1, 0, 4]
    x = torch.randn(7, 4, config["input_size"])
    c0 = torch.randn(2, 4, rnn.output_size)
    for b, n in enumerate(lengths):
        x[n:, b] = torch.nan
    h, c = rnn(x, c0, lengths=torch.tensor(lengths))
    alone = [rnn(x[:n, b : b + 1], c0[:, b : b + 1]) for b, n in enumerate(lengths)]
    for b, n in enumerate(lengths):
        torch.testing.assert_close(h[:n, b : b + 1], alone[b][0])
        torch.testing.assert_close(c[:, b : b + 1], alone[b][1])
        assert not h[n:, b].any()
    expected = gradients(rnn, *(t for pair in alone for t in pair))
    torch.testing.assert_close(gradients(rnn, h, c), expected)


def test_a_mask_is_the_sequences_without_those_steps(config: dict) -> None:
    rnn = SRU(**config)
    x, mask = torch.randn(9, 3, config["input_size"]), torch.rand(9, 3) < 0.4
    h, c = rnn(x.masked_fill(mask[..., None], torch.nan), mask_pad=mask.byte())
    for b in range(3):
        alone, last = rnn(x[~mask[:, b], b : b + 1])
        torch.testing.assert_close(h[~mask[:, b], b : b + 1], alone)
        torch.testing.assert_close(c[:, b : b + 1], last)
        assert not h[mask[:, b], b].any()


def test_packed_sequences(config: dict) -> None:
    rnn = SRU(**config)
    pieces = [torch.randn(n, config["input_size"]) for n in (3, 7, 5)]
    h, c = rnn(pack_sequence(pieces, enforce_sorted=False))
    h, lengths = pad_packed_sequence(h)
    assert lengths.tolist() == [3, 7, 5]
    for b, piece in enumerate(pieces):
        alone, last = rnn(piece[:, None])
        torch.testing.assert_close(h[: len(piece), b : b + 1], alone)
        torch.testing.assert_close(c[:, b : b + 1], last)
    sorted_ = pack_padded_sequence(torch.randn(4, 2, config["input_size"]), [4, 2])
    assert rnn(sorted_)[0].sorted_indices is None


def test_batch_first_and_strided_inputs(config: dict) -> None:
    rnn = SRU(**config)
    swapped = SRU(**config, batch_first=True)
    swapped.load_state_dict(rnn.state_dict())
    x = torch.randn(5, 3, config["input_size"])
    c0, mask = torch.randn(2, 3, rnn.output_size), torch.rand(5, 3) < 0.3
    h, c = rnn(x, c0, mask)
    for layout in (
        x.transpose(0, 1),
        x.transpose(0, 1).contiguous(),
        x.repeat(2, 1, 2)[:5, :, : x.shape[2]].transpose(0, 1),
    ):
        h_swapped, c_swapped = swapped(layout, c0, mask.t())
        torch.testing.assert_close(h_swapped.transpose(0, 1), h)
        torch.testing.assert_close(c_swapped, c)
    torch.testing.assert_close(rnn(x.transpose(0, 1).contiguous().transpose(0, 1), c0, mask), (h, c))


def test_pieces_and_steps_are_the_whole(config: dict) -> None:
    if config.get("bidirectional"):
        with pytest.raises(ValueError, match="step: expected a model that goes forward only"):
            SRU(**config).step(torch.randn(2, 4))
        return
    rnn = SRU(**config)
    x = torch.randn(9, 2, config["input_size"])
    h, c = rnn(x)
    first, state = rnn(x[:4])
    second, state = rnn(x[4:], state)
    torch.testing.assert_close((torch.cat([first, second]), state), (h, c))
    state, rows = None, []
    for row in x:
        out, state = rnn.step(row, state)
        rows.append(out)
    torch.testing.assert_close((torch.stack(rows), state), (h, c))


@pytest.mark.parametrize(
    "options", [{}, {"v1": True}, {"rescale": True, "use_tanh": True}, {"has_skip_term": False}], ids=str
)
@pytest.mark.parametrize("width", [4, 3])
def test_steps_without_gradients_are_the_whole(options: dict, width: int, few_backends: Backend) -> None:
    """In one op for all layers; the state is a piece of a larger tensor."""
    torch.manual_seed(0)
    rnn, x = SRU(width, 4, 3, **options).to(few_backends.device), torch.randn(6, 2, width, device=few_backends.device)
    state = torch.randn(4, 2, 4, device=few_backends.device)[1:]
    with torch.no_grad():
        assert rnn._step_in_one_op(x[0], state) is not None
        expected, streamed = rnn(x, state), []
        for row in x:
            h, state = rnn.step(row, state)
            streamed.append(h)
        torch.testing.assert_close((torch.stack(streamed), state), expected)


@pytest.mark.parametrize("other", [{"use_tanh": True}, {"has_skip_term": False}, {"rescale": True}, {"v1": True}], ids=str)
def test_a_step_of_cells_that_differ(other: dict) -> None:
    torch.manual_seed(0)
    rnn, x = SRU(4, 4), torch.randn(2, 4)
    rnn.rnn_lst[0] = SRUCell(4, 4, **{"rescale": False, **other})
    with torch.no_grad():
        torch.testing.assert_close(rnn.step(x)[0], rnn(x[None])[0][0])


def test_a_parametrisation_is_computed_once_a_call() -> None:
    class Counted(nn.Module):
        calls = 0

        def forward(self, weight: Tensor) -> Tensor:
            Counted.calls += 1
            return weight * 2

    for cell in (SRUCell(4, 4), SRUCell(3, 4)):
        nn.utils.parametrize.register_parametrization(cell, "weight", Counted())
        Counted.calls = 0
        cell(torch.randn(5, 2, cell.input_size))
        assert Counted.calls == 1


def test_a_step_calls_a_cell_that_is_more_than_one() -> None:
    rnn, x = SRU(4, 4), torch.randn(2, 4)
    with torch.no_grad():
        plain, _ = rnn.step(x)
        rnn.rnn_lst[1].register_forward_hook(lambda module, inputs, out: (out[0] * 2, out[1]))
        torch.testing.assert_close(rnn.step(x)[0], plain * 2)


def test_states_as_those_of_nn_lstm() -> None:
    torch.manual_seed(0)
    for bidirectional in (False, True):
        rnn = SRU(4, 6, 3, bidirectional=bidirectional)
        like = SRU(4, 6, 3, bidirectional=bidirectional, nn_rnn_compatible_return=True)
        like.load_state_dict(rnn.state_dict())
        x = torch.randn(5, 2, 4)
        _, expected = nn.LSTM(4, 6, 3, bidirectional=bidirectional)(x)
        _, c = like(x)
        assert c.shape == expected[1].shape
        torch.testing.assert_close(c[0], rnn(x)[1][0, :, :6])
        torch.testing.assert_close(like(x, c)[0], rnn(x, rnn(x)[1])[0])


def test_a_cell_takes_one_step_or_many() -> None:
    """h and c have one shape there, which upstream's had only on a GPU."""
    torch.manual_seed(0)
    cell = SRUCell(4, 6)
    x = torch.randn(5, 2, 4)
    h, c = cell(x)
    assert h.shape == (5, 2, 6)
    first, state = cell(x[0])
    assert first.shape == state.shape == (2, 6)
    torch.testing.assert_close(first, h[0])
    torch.testing.assert_close(cell(x[1:], state)[1], c)


def test_a_bidirectional_layer_is_two_layers(backend: Backend) -> None:
    torch.manual_seed(0)
    cell = SRUCell(4, 3, bidirectional=True, has_skip_term=False).to(backend.device)
    x = torch.randn(7, 2, 4, device=backend.device)
    h, c = cell(x)
    for direction in (0, 1):
        one = SRUCell(4, 3, has_skip_term=False).to(backend.device)
        half = slice(3 * direction, 3 * direction + 3)
        with torch.no_grad():
            one.weight.copy_(cell.weight[:, 9 * direction : 9 * direction + 9])
            one.weight_c.copy_(cell.weight_c.view(2, 6)[:, half].flatten())
            one.bias.copy_(cell.bias.view(2, 6)[:, half].flatten())
        out, last = one(x.flip(0) if direction else x)
        torch.testing.assert_close(out.flip(0) if direction else out, h[..., half])
        torch.testing.assert_close(last, c[:, half])


class Product(nn.Module):
    """A custom_m, with or without a V."""

    def __init__(self, inputs: int, k: int, outputs: int, with_v: bool) -> None:
        super().__init__()
        self.u, self.v = nn.Linear(inputs, k * outputs), nn.Linear(inputs, 2 * outputs) if with_v else None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.u(x) if self.v is None else (self.u(x), self.v(x))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("with_v", [False, True])
def test_custom_products(with_v: bool, bidirectional: bool) -> None:
    """Against the loop; upstream's bidirectional V is wrong on the CPU."""
    torch.manual_seed(0)
    out = 12 if bidirectional else 6
    with pytest.warns(UserWarning, match="Product has no reset_parameters"):
        cell = SRUCell(4, 6, bidirectional=bidirectional, custom_m=Product(4, 4, out, with_v))
    x = torch.randn(5, 2, 4)
    h, c = cell(x)
    u = cell.custom_m.u(x).unflatten(2, (out, 4))
    v = cell.weight_c.view(2, out).t().expand(5, 2, out, 2)
    if with_v:
        v = cell.custom_m.v(x).unflatten(2, (out, 2)) + cell.weight_c.view(out, 2)
    b_f, b_r = cell.bias.view(2, out)
    for direction in range(1 + bidirectional):
        half = slice(6 * direction, 6 * direction + 6)
        state = torch.zeros(2, 6)
        for t in range(5)[:: -1 if direction else 1]:
            w, q = u[t, :, half], v[t, :, half]
            f = torch.sigmoid(w[..., 1] + q[..., 0] * state + b_f[half])
            r = torch.sigmoid(w[..., 2] + q[..., 1] * state + b_r[half])
            state = f * state + (1 - f) * w[..., 0]
            torch.testing.assert_close(h[t, :, half], w[..., 3] + (state - w[..., 3]) * r)
        torch.testing.assert_close(c[:, half], state)
    assert all(g.isfinite().all() for g in gradients(cell, h, c))


def test_modules_are_found_where_upstream_has_them() -> None:
    for name in sru.modules.__all__:
        assert getattr(sru, name) is getattr(sru.modules, name)


def test_custom_products_of_a_stack() -> None:
    one = nn.Linear(6, 18)
    copied = SRU(6, 6, 3, custom_m=one)
    assert len({id(cell.custom_m) for cell in copied.rnn_lst} | {id(one)}) == 4
    given = [nn.Linear(6, 18) for _ in range(3)]
    assert [cell.custom_m for cell in SRU(6, 6, 3, custom_m=given).rnn_lst] == given


def test_projections_by_layer() -> None:
    rnn = SRU(4, 8, 3, projection_size=[0, 3, 2])
    assert [cell.projection_size for cell in rnn.rnn_lst] == [0, 3, 2]
    assert rnn.rnn_lst[1].weight_proj.shape == (8, 3)
    assert rnn(torch.randn(5, 2, 4))[0].shape == (5, 2, 8)


def test_dropout_is_one_mask_for_all_steps() -> None:
    """Zeroed channels are the highway alone; the others are scaled. Nothing is dropped in evaluation or in the last layer."""
    torch.manual_seed(0)
    cell = SRUCell(40, 40, dropout=0.5, rescale=False)
    x = torch.randn(6, 30, 40)
    h, _ = cell(x)
    dropped = (h == x).all(0)
    assert 0.4 < dropped.float().mean() < 0.6
    whole, _ = cell.eval()(x)
    torch.testing.assert_close((h - x)[:, ~dropped], 2 * (whole - x)[:, ~dropped])
    rnn = SRU(4, 6, 2, dropout=0.3, rnn_dropout=0.2)
    assert [cell.dropout for cell in rnn.rnn_lst] == [0.3, 0.0]
    x = torch.randn(5, 2, 4)
    assert not torch.equal(rnn(x)[0], rnn(x)[0])
    with torch.no_grad():  # where upstream raises
        rnn(x)
    rnn.eval()
    assert torch.equal(rnn(x)[0], rnn(x)[0])


def test_initial_bias_and_scale() -> None:
    rnn = SRU(4, 6, highway_bias=-2.0, rescale=True)
    assert rnn.rnn_lst[0].bias[6:].tolist() == [-2.0] * 6
    torch.testing.assert_close(rnn.rnn_lst[1].scale_x, (1 + 2 * torch.tensor([-2.0]).exp()).sqrt())
    rnn.set_bias(1.0)
    assert rnn.rnn_lst[0].bias.tolist() == [0.0] * 6 + [1.0] * 6


def test_nothing_is_drawn_or_read_for_an_empty_problem(config: dict) -> None:
    rnn = SRU(**config)
    for steps, batch in ((0, 3), (5, 0)):
        x = torch.randn(steps, batch, config["input_size"], requires_grad=True)
        h, c = rnn(x)
        assert h.shape == (steps, batch, rnn.output_size)
        assert c.shape == (2, batch, rnn.output_size)
        (h.sum() + c.sum()).backward()
        assert x.grad.shape == x.shape


@pytest.mark.parametrize("bidirectional", [False, True])
def test_replicas_run_at_the_same_time(bidirectional: bool) -> None:
    """What nn.DataParallel does: replicas in threads, outputs and states joined along the batch."""
    torch.manual_seed(0)
    rnn = SRU(8, 16, 3, bidirectional=bidirectional)
    x, c0 = torch.randn(50, 4, 8), torch.randn(3, 4, rnn.output_size)
    check_replicas(rnn, [x, c0], batch=[1, 1])
    torch.testing.assert_close(nn.DataParallel(rnn, dim=1)(x, c0), rnn(x, c0))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    "options", [{"v1": True}, {}, {"input_size": 4}, {"layer_norm": True, "normalize_after": True}], ids=str
)
@pytest.mark.parametrize("batch_first", [True, False])
def test_reset_separates_packed_documents(batch_first: bool, options: dict, bidirectional: bool) -> None:
    sizes = {"input_size": 3, "hidden_size": 4, "num_layers": 2, **options}
    rnn = SRU(**sizes, batch_first=batch_first, bidirectional=bidirectional)
    check_resets(rnn, sizes["input_size"], batch_first=batch_first)


def test_reset_separates_sequences_that_end_in_padding() -> None:
    """Also for the direction that comes to the padding before it comes to the sequence."""
    rnn = SRU(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    first, second = torch.randn(1, 3, 3), torch.randn(1, 2, 3)
    pads, reset = torch.tensor([[0, 0, 1, 0, 0]]), torch.tensor([[0, 0, 0, 1, 0]]).bool()
    whole, _ = rnn(torch.cat([first, second], 1), mask_pad=pads, reset=reset)
    alone = [rnn(first, mask_pad=pads[:, :3])[0], rnn(second)[0]]
    torch.testing.assert_close(whole, torch.cat(alone, 1))
