"""Calls of an op with arguments that it was not made for: whatever comes, the answer is a result or an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.complex64)
INTEGERS = (-(2**63), -1, 0, 1, 2, 3, 7, 2**40, 2**63 - 1)  # as a size, small, or beyond any memory


def check_survives(op: Callable[..., Any], arguments: Sequence[Any], unread: Sequence[int] = ()) -> None:
    """Calls op with `arguments`, which are right, and then with each of them changed in many ways, alone and in pairs.

    An access beyond memory is found by the address sanitizer, under which such tests run, or ends the process.

    Args:
        op: of torch.ops.
        arguments: as op takes them.
        unread: positions of those that op has for the sake of its derivatives, and never looks at.

    Raises:
        AssertionError: op looks at a tensor, or a list, and takes whatever comes in its place; or an error is one that torch
            asks to report.
    """
    op(*_copied(arguments))
    changes = [(i, wrong) for i, value in enumerate(arguments) for wrong in variations(value)]
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(len(changes), (len(changes) // 2, 2), generator=generator).tolist()
    checked = {change[0] for change in changes if _refuses(op, arguments, [change])}
    for i, value in enumerate(arguments):
        assert i in checked or i in unread or not isinstance(value, (Tensor, list)), f"argument {i} may be anything"
    for chosen in pairs:
        _refuses(op, arguments, [changes[j] for j in chosen])


def _refuses(op: Callable[..., Any], arguments: Sequence[Any], changes: list[tuple[int, Any]]) -> bool:
    given = _copied(arguments)
    for i, wrong in changes:
        given[i] = wrong
    try:
        op(*given)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if "report a bug" in str(error):
            raise AssertionError(f"with {changes}: {error}") from error
        return True
    return False


def _copied(arguments: Sequence[Any]) -> list[Any]:
    """The same, for ops that write to what they are given."""
    return torch.utils._pytree.tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, list(arguments))


def changed(module: nn.Module, path: str, value: Any) -> nn.Module:
    """The module, once an attribute of it, or of a submodule, has become another: as "layers.0.activation"."""
    *where, name = path.rsplit(".", 1)
    setattr(module.get_submodule(where[0] if where else ""), name, value)
    return module


def variations(value: Any) -> Iterator[Any]:
    """Values of the same kind, most of them wrong."""
    if isinstance(value, Tensor):
        yield from _tensors(value)
    elif value is None:
        yield from (torch.zeros(()), torch.zeros(3), torch.ones(2, 2, dtype=torch.int64), torch.empty(0))
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from INTEGERS
    elif isinstance(value, float):
        yield from (float("nan"), float("inf"), -1.0, 0.0, 1e300)
    elif isinstance(value, str):
        yield from ("", value.upper(), value + "\0", "x" * 1000)
    else:
        yield from ([], value[:-1], [*value, value[-1]], value[::-1])
        for i, element in enumerate(value):
            for wrong in variations(element):
                yield [*value[:i], wrong, *value[i + 1 :]]


def _tensors(t: Tensor) -> Iterator[Tensor]:
    for dtype in DTYPES:
        if dtype != t.dtype:
            yield t.to(dtype)
    for dim in range(t.dim()):
        yield t.narrow(dim, 0, t.shape[dim] // 2)
        yield t.narrow(dim, 0, 0)
        yield torch.cat([t, t], dim)
        yield t.narrow(dim, 0, min(1, t.shape[dim])).expand_as(t) if t.shape[dim] > 0 else t
    yield from (t.unsqueeze(0), t.flatten(), t.new_zeros(()), t.mT if t.dim() > 1 else t, t.to("meta"))
    yield t.repeat_interleave(2, -1)[..., ::2] if t.dim() > 0 else t  # strides of 2
    if not t.dtype.is_floating_point and t.dtype != torch.bool:
        for value in (-(2**63), -1, 1, 2**31, 2**63 - 1):
            yield torch.full_like(t, value)
