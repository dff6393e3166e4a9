"""SRU++: its attention against the formula, masks, memory, lengths, and torch's ways of running it."""

from __future__ import annotations

import math

import pytest
import torch
from rnnkit_common.testing import check_compile, check_export, check_script
from sru import SRUpp, SRUppAttention, SRUppProjectedLinear
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence


def attention(module: SRUppAttention, x: Tensor, context: Tensor, logits_mask: Tensor) -> Tensor:
    """U of one head, for x (T, D), context (M + T, D) and a mask (T, M + T) that is added."""
    q = context @ module.linear1.weight.t()
    k, v = (q @ module.linear2.weight.t()).chunk(2, dim=-1)
    q = q[len(context) - len(x) :]
    weights = torch.softmax(q @ k.t() / math.sqrt(q.shape[-1]) + logits_mask, dim=-1)
    out = q + module.alpha * (weights @ v)
    out = out if module.layer_norm is None else module.layer_norm(out)
    return out @ module.linear3.weight.t()


@pytest.mark.parametrize("layer_norm", [False, True])
def test_attention_is_the_papers(layer_norm: bool) -> None:
    torch.manual_seed(0)
    module = SRUppAttention(5, 12, 4, rezero_init_alpha=0.7, layer_norm=layer_norm)
    x, memory = torch.randn(6, 2, 5), torch.randn(3, 2, 5)
    causal = torch.full((6, 9), -math.inf).triu(4)
    out = module(x, attn_mask=causal, memory=memory)
    for b in range(2):
        expected = attention(module, x[:, b], torch.cat([memory[:, b], x[:, b]]), causal)
        torch.testing.assert_close(out[:, b], expected)
    torch.testing.assert_close(module(x, attn_mask=causal == 0, memory=memory), out)


def test_heads_see_their_own_features() -> None:
    torch.manual_seed(0)
    module = SRUppAttention(5, 12, 4, num_heads=2, rezero_init_alpha=0.7)
    x = torch.randn(6, 1, 5)
    q = x[:, 0] @ module.linear1.weight.t()
    k, v = (q @ module.linear2.weight.t()).chunk(2, dim=-1)
    heads = [torch.softmax(q[:, s] @ k[:, s].t() / math.sqrt(2), dim=-1) @ v[:, s] for s in (slice(0, 2), slice(2, 4))]
    expected = (q + module.alpha * torch.cat(heads, dim=-1)) @ module.linear3.weight.t()
    torch.testing.assert_close(module(x)[:, 0], expected)


def test_alpha_begins_at_zero_and_learns() -> None:
    """ReZero: at first there is no attention, and its strength has a gradient."""
    torch.manual_seed(0)
    module = SRUppAttention(5, 12, 4)
    x = torch.randn(6, 2, 5)
    out = module(x)
    torch.testing.assert_close(out, module.linear3(module.linear1(x)))
    out.square().sum().backward()
    assert module.alpha.grad.abs() > 0


@pytest.fixture
def rnn() -> SRUpp:
    torch.manual_seed(0)
    rnn = SRUpp(4, 8, 4, num_layers=3, num_heads=2, attention_every_n_layers=2, layer_norm=True)
    for cell in rnn.rnn_lst:
        if isinstance(cell.custom_m, SRUppAttention):
            torch.nn.init.constant_(cell.custom_m.alpha, 0.8)
    return rnn


def test_which_layers_attend(rnn: SRUpp) -> None:
    kinds = [type(cell.custom_m) for cell in rnn.rnn_lst]
    assert kinds == [SRUppProjectedLinear, SRUppAttention, SRUppProjectedLinear]
    last = SRUpp(4, 8, 4, num_layers=3, attention_last_n_layers=2)
    assert [type(cell.custom_m) for cell in last.rnn_lst] == [SRUppProjectedLinear, SRUppAttention, SRUppAttention]
    assert rnn[1] is rnn.rnn_lst[1]


def test_lengths_are_the_sequences_alone(rnn: SRUpp) -> None:
    x, lengths = torch.randn(7, 4, 4), [7, 1, 0, 4]
    for b, n in enumerate(lengths):
        x[n:, b] = torch.nan
    h, c, _ = rnn(x, lengths=torch.tensor(lengths))
    for b, n in enumerate(lengths):
        if n > 0:
            alone, last, _ = rnn(x[:n, b : b + 1])
            torch.testing.assert_close(h[:n, b : b + 1], alone)
            torch.testing.assert_close(c[:, b : b + 1], last)
        assert not h[n:, b].any()
    (h.sin().sum() + c.sin().sum()).backward()
    assert all(p.grad.isfinite().all() for p in rnn.parameters())
    mask = torch.arange(7)[:, None] >= torch.tensor(lengths)
    torch.testing.assert_close(rnn(x, mask_pad=mask)[0], h)
    packed, last, _ = rnn(pack_sequence([x[:7, 0], x[:4, 3]]))
    torch.testing.assert_close(pad_packed_sequence(packed)[0], h[:, [0, 3]])
    torch.testing.assert_close(last, c[:, [0, 3]])


def test_a_memory_continues_a_causal_model(rnn: SRUpp) -> None:
    """Two halves, the second with the first's layer inputs as memory and its states, are the whole."""
    x = torch.randn(10, 2, 4)
    causal = torch.full((10, 10), -math.inf).triu(1)
    h, c, _ = rnn(x, attn_mask=causal)
    first, state, bank = rnn(x[:6], attn_mask=causal[:6, :6])
    second, state, _ = rnn(x[6:], state, attn_mask=causal[6:], memory=bank["saved_inputs"])
    torch.testing.assert_close((torch.cat([first, second]), state), (h, c))


def test_a_padded_memory_is_a_shorter_one(rnn: SRUpp) -> None:
    x = torch.randn(5, 2, 4)
    memory = [torch.randn(3, 2, cell.input_size) for cell in rnn.rnn_lst]
    pad = torch.tensor([[1, 1], [0, 0], [0, 0]])
    h, _, _ = rnn(x, memory=memory, memory_mask_pad=pad)
    torch.testing.assert_close(h, rnn(x, memory=[m[1:] for m in memory])[0])
    with_one = rnn(x, memory=[None, memory[1], None])[0]  # only the layer that attends uses its own
    torch.testing.assert_close(with_one, rnn(x, memory=memory)[0])


def test_batch_first_and_states_as_those_of_nn_lstm(rnn: SRUpp) -> None:
    options = {"num_layers": 3, "num_heads": 2, "attention_every_n_layers": 2, "layer_norm": True}
    other = SRUpp(4, 8, 4, **options, batch_first=True, nn_rnn_compatible_return=True)
    other.load_state_dict(rnn.state_dict())
    x, lengths = torch.randn(6, 2, 4), torch.tensor([6, 3])
    memory = [torch.randn(3, 2, cell.input_size) for cell in rnn.rnn_lst]
    pad = torch.tensor([[1, 0], [0, 0], [0, 0]])
    h, c, bank = rnn(x, memory=memory, memory_mask_pad=pad, lengths=lengths)
    swapped = [m.transpose(0, 1) for m in memory]
    h2, c2, bank2 = other(x.transpose(0, 1), memory=swapped, memory_mask_pad=pad.t(), lengths=lengths)
    torch.testing.assert_close(h2.transpose(0, 1), h)
    torch.testing.assert_close(c2, c)
    torch.testing.assert_close([t.transpose(0, 1) for t in bank2["saved_inputs"]], bank["saved_inputs"])


def test_bidirectional_and_projected_input() -> None:
    rnn = SRUpp(4, 8, 4, bidirectional=True, proj_input_to_hidden_first=True, nn_rnn_compatible_return=True)
    h, c, bank = rnn(torch.randn(5, 2, 4))
    assert h.shape == (5, 2, 16)
    assert c.shape == (4, 2, 8)
    assert bank["saved_inputs"][0].shape == (5, 2, 16)
    torch.testing.assert_close(
        rnn(torch.ones(5, 2, 4), c)[0], rnn(torch.ones(5, 2, 4), c.view(2, 2, 2, 8).transpose(1, 2).flatten(2))[0]
    )


class Causal(torch.nn.Module):
    def __init__(self, rnn: SRUpp) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.ones(x.shape[0], x.shape[0], dtype=torch.bool).tril()
        return self.rnn(x, attn_mask=mask)[:2]


@pytest.mark.slow
def test_compile_export_and_script(rnn: SRUpp) -> None:
    x, mask = torch.randn(6, 2, 4), torch.full((6, 6), -math.inf).triu(1)
    check_compile(Causal(rnn), (x,))
    check_export(rnn, (x, None, None, mask))
    loaded = check_script(rnn, (x, None, None, mask))
    memory = rnn(x)[2]["saved_inputs"]
    wide = torch.cat([torch.zeros(6, 6), mask], dim=1)
    torch.testing.assert_close(loaded(x, None, None, wide, memory)[0], rnn(x, None, None, wide, memory)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_and_autocast(rnn: SRUpp, dtype: torch.dtype) -> None:
    x, mask = torch.randn(6, 2, 4), torch.full((6, 6), -math.inf).triu(1)
    expected = rnn(x, attn_mask=mask)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(rnn(x, attn_mask=mask)[0].float(), expected, rtol=0.05, atol=0.05)
    h, c, _ = rnn.to(dtype)(x.to(dtype), attn_mask=mask)
    torch.testing.assert_close(h.float(), expected, rtol=0.05, atol=0.05)
    assert c.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
