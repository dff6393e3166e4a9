"""Checks that an op or a module survives torch's other ways of running it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# opcheck's own list, and the same under dynamic shapes
OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def check_op(op: Any, arguments: Sequence[Any], *, tests: Sequence[str] = OPCHECKS) -> None:
    """torch.library.opcheck with every test it has."""
    torch.library.opcheck(op, tuple(arguments), test_utils=tuple(tests))


def _outputs(result: Any) -> list[Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, Tensor)]


def _assert_equal(actual: Any, expected: Any) -> None:
    for a, e in zip(_outputs(actual), _outputs(expected), strict=True):
        torch.testing.assert_close(a, e)


def check_compile(module: nn.Module, arguments: Sequence[Any], *, backend: str = "aot_eager", dynamic: bool = False) -> None:
    """torch.compile(fullgraph=True) gives the eager outputs and gradients."""

    def run(function: Callable[..., Any]) -> tuple[Any, list[Tensor]]:
        result = function(*arguments)
        outputs = _outputs(result)
        weights = [torch.linspace(-1, 1, t.numel(), device=t.device).view(t.shape) for t in outputs]
        leaves = [t for t in (*module.parameters(), *_outputs(arguments)) if t.requires_grad]
        return result, list(torch.autograd.grad(outputs, leaves, weights))

    torch._dynamo.reset()
    _assert_equal(run(torch.compile(module, fullgraph=True, backend=backend, dynamic=dynamic)), run(module))


def check_export(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    """torch.export, saved and loaded again, gives the eager outputs."""
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, arguments), buffer)
    buffer.seek(0)
    _assert_equal(torch.export.load(buffer).module()(*arguments), module(*arguments))


def check_script(module: nn.Module, arguments: Sequence[Any]) -> Any:
    """torch.jit.script, saved and loaded again, gives the eager outputs; returns the loaded module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(module), buffer)
        buffer.seek(0)
        loaded = torch.jit.load(buffer)
    _assert_equal(loaded(*arguments), module(*arguments))
    return loaded
