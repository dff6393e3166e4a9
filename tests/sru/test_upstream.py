"""Moving over: the first README's example, and what sru 2.6.0, the first version and 3.0.0-dev computed with their parameters.

data/*.pt hold their state dicts, inputs and outputs, on the CPU, in float32, with all biases drawn at random.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import sru
import torch
from torch import Tensor, nn

DATA = Path(__file__).parent / "data"
RELEASED = torch.load(DATA / "sru-2.6.0.pt")
FIRST = torch.load(DATA / "sru-first.pt")
DEVELOPED = torch.load(DATA / "sru-3.0.0-dev.pt")


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("use_tanh", "use_relu"), [(1, 0), (0, 1)])
def test_the_example_of_the_first_readme(use_tanh: int, use_relu: int) -> None:
    from sru import SRU, SRUCell  # noqa: F401
    from torch.autograd import Variable

    x = Variable(torch.FloatTensor(20, 32, 128).normal_())
    input_size, hidden_size = 128, 128
    rnn = SRU(
        input_size,
        hidden_size,
        num_layers=2,
        dropout=0.0,
        rnn_dropout=0.0,
        use_tanh=use_tanh,
        use_relu=use_relu,
        bidirectional=False,
    )
    output_states, c_states = rnn(x)
    assert output_states.shape == (20, 32, 128)
    assert c_states.shape == (2, 32, 128)
    plain = SRU(input_size, hidden_size)
    plain.load_state_dict(rnn.state_dict())
    assert not torch.allclose(output_states, plain(x)[0])  # the activation is really there
    assert torch.equal(c_states[0], plain(x)[1][0])  # and acts on h only


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_version(name: str) -> None:
    """Keys, shapes and initial values bit for bit; outputs, states and gradients from loaded parameters."""
    saved = RELEASED[name]
    torch.manual_seed(7)
    rnn = sru.SRU(**saved["config"])
    assert list(rnn.state_dict()) == list(saved["initial"])
    for key, value in rnn.state_dict().items():
        assert torch.equal(value, saved["initial"][key]), key

    rnn.load_state_dict(saved["state"])
    rnn.eval()
    x, c0 = saved["x"].clone().requires_grad_(), saved["c0"].clone().requires_grad_()
    mask = saved["mask_pad"]
    h, c = rnn(x, c0, mask)
    valid = mask == 0
    if name == "norm-after":  # there, upstream leaves the bias of the last layer norm in the padding, and learns from it
        assert_same(h[valid], saved["h"][valid])
        assert_same(c, saved["c"])
        return
    assert_same(h, saved["h"])
    assert_same(c, saved["c"])
    (h.sin().sum() + c.sin().sum()).backward()
    torch.testing.assert_close(x.grad, saved["grad_x"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(c0.grad, saved["grad_c0"], rtol=1e-5, atol=1e-5)
    for key, parameter in rnn.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, saved["grads"][key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FIRST)
def test_the_first_version(name: str) -> None:
    saved = FIRST[name]
    rnn = sru.SRU(v1=True, **saved["config"])
    rnn.load_state_dict(saved["state"])
    h, c = rnn(saved["x"])
    assert_same(h, saved["h"])
    assert_same(c, saved["c"])


def test_the_first_version_has_no_v() -> None:
    rnn = sru.SRU(4, 4, v1=True)
    assert not any(cell.weight_c.requires_grad or cell.weight_c.any() for cell in rnn.rnn_lst)
    with pytest.raises(ValueError, match=r"rnn_lst\.0\.weight_c: expected zeros for a model with v1=True"):
        rnn.load_state_dict(sru.SRU(4, 4).state_dict())


@pytest.mark.parametrize("name", DEVELOPED)
def test_the_development_version(name: str) -> None:
    """Its nn.Linear are transposed; its SRU++ attends to a memory, with a causal mask and padding."""
    saved = DEVELOPED[name]
    rnn = getattr(sru, saved["kind"])(**saved["config"]).eval()
    rnn.load_state_dict(saved["state"])
    if saved["kind"] == "SRU":
        h, c = rnn(saved["x"])
        assert_same(h, saved["h"])
    else:
        arguments = [saved[key] for key in ("mask_pad", "attn_mask", "memory")]
        h, c, bank = rnn(saved["x"], None, *arguments)
        valid = saved["mask_pad"] == 0
        assert_same(h[valid], saved["h"][valid])
        for a, e in zip(bank["saved_inputs"], saved["saved"], strict=True):
            assert_same(a[valid], e[valid])
    assert_same(c, saved["c"])
    again = getattr(sru, saved["kind"])(**saved["config"])
    again.load_state_dict(rnn.state_dict())


def test_a_projection_as_wide_as_the_input() -> None:
    """3.0.0-dev factorises there, 2.6.0 does not: the states of both load, and give what they gave."""
    cell = sru.SRUCell(2, 3, n_proj=2)
    assert cell.weight_proj is not None
    first, second = torch.randn(2, 2), torch.randn(12, 2)
    own = {k: v for k, v in cell.state_dict().items() if not k.startswith("weight") or k == "weight_c"}
    cell.load_state_dict({**own, "transform_module.0.weight": first, "transform_module.1.weight": second})
    x = torch.randn(5, 3, 2)
    torch.testing.assert_close(cell.compute_U(x), x @ first.t() @ second.t())
    cell.load_state_dict({**own, "weight": second.t()})
    torch.testing.assert_close(cell.compute_U(x), x @ second.t())


def test_the_product_by_its_later_name() -> None:
    """`transform_module` of 3.0.0-dev: nn.Linear's weight, with gradients; two where there are two; or the module given."""
    x = torch.randn(5, 3, 4)
    cell = sru.SRUCell(4, 6)
    torch.testing.assert_close(cell.transform_module(x), nn.functional.linear(x, cell.transform_module.weight))
    cell.transform_module.weight.sum().backward()
    assert torch.equal(cell.weight.grad, torch.ones_like(cell.weight))
    factorised = sru.SRUCell(4, 6, n_proj=2)
    first, second = factorised.transform_module[0], factorised.transform_module[1]
    torch.testing.assert_close(second(first(x)), factorised.transform_module(x))
    module = nn.Linear(4, 24)
    assert sru.SRUCell(4, 6, custom_m=module).transform_module is module
    assert "transform_module" not in dict(cell.named_modules())


def test_a_model_pickled_whole_by_an_earlier_version() -> None:
    """Which has not the attributes that came later."""
    rnn = sru.SRU(4, 6, use_tanh=True)
    x = torch.randn(5, 2, 4)
    expected = rnn(x)
    del rnn.nn_rnn_compatible_return, rnn.input_to_hidden, rnn.batch_first, rnn.num_directions
    for cell in rnn.rnn_lst:
        del cell.custom_m, cell.batch_first, cell.normalize_after, cell.amp_recurrence_fp16, cell.weight_c_init
    rnn.make_backward_compatible()
    torch.testing.assert_close(rnn(x), expected)
