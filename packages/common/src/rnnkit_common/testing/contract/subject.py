"""What is checked, and how its results are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.Identity)


@dataclass
class Results:
    """Of one forward and backward pass."""

    outputs: list[Tensor]
    of_inputs: list[Tensor | None]
    of_parameters: dict[str, Tensor | None]


@dataclass
class Subject:
    """What is checked: a constructor of modules, and one of their inputs; both always draw the same numbers."""

    construct: Callable[[], nn.Module]
    draw: Callable[[], tuple[Any, ...]]
    repeated: Sequence[str] = ()  # submodules that are called several times a forward

    def make(self) -> nn.Module:
        """A module."""
        torch.manual_seed(0)
        return self.construct()

    def inputs(self, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
        """The arguments of a call; what is floating is a leaf that wants gradients."""
        torch.manual_seed(1)
        return torch.utils._pytree.tree_map(
            lambda t: t.to(dtype).requires_grad_() if isinstance(t, Tensor) and t.is_floating_point() else t, self.draw()
        )

    def run(self, module: Callable[..., Any], parameters: nn.Module | None = None) -> Results:
        """Calls it, and takes the gradients of inputs and parameters (those of another module, if it is given)."""
        inputs = self.inputs()
        outputs = tensors(module(*inputs))
        owner = module if parameters is None and isinstance(module, nn.Module) else parameters
        named = [] if owner is None else [(name, p) for name, p in owner.named_parameters() if p.requires_grad]
        leaves = [t for t in tensors(inputs) if t.requires_grad]
        grads = torch.autograd.grad(weighted(outputs), [*leaves, *(p for _, p in named)], allow_unused=True)
        of_parameters: dict[str, Tensor | None] = dict(zip([name for name, _ in named], grads[len(leaves) :], strict=True))
        return Results([t.detach() for t in outputs], list(grads[: len(leaves)]), of_parameters)


def tensors(result: Any) -> list[Tensor]:
    """All tensors of a nested structure."""
    return [t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, Tensor)]


def weighted(outputs: list[Tensor]) -> Tensor:
    """A scalar that depends on every element differently."""
    total = torch.zeros(())
    for t in outputs:
        if t.requires_grad:
            total = total + (weights(t) * t).sum()
    return total


def weights(t: Tensor) -> Tensor:
    """A different number for each element."""
    return torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view(t.shape)


def assert_same(actual: Results, expected: Results, **options: Any) -> None:
    """Outputs and gradients are close; a gradient that is None is as good as zeros."""
    torch.testing.assert_close(actual.outputs, expected.outputs, **options)
    pairs = list(zip(actual.of_inputs, expected.of_inputs, strict=True))
    pairs += [(actual.of_parameters[name], e) for name, e in expected.of_parameters.items() if name in actual.of_parameters]
    for f, e in pairs:
        if f is not None or e is not None:
            f = torch.zeros_like(e) if f is None and e is not None else f
            e = torch.zeros_like(f) if e is None and f is not None else e
            torch.testing.assert_close(f, e, **options)


def parts(module: nn.Module, *kinds: type[nn.Module]) -> list[str]:
    """Names of the submodules of some kinds, or of all but containers."""
    return [
        name
        for name, part in module.named_modules()
        if name and (isinstance(part, kinds) if kinds else not isinstance(part, CONTAINERS))
    ]


def replace(module: nn.Module, name: str, part: nn.Module) -> None:
    """Puts another submodule in the place of one."""
    parent, _, child = name.rpartition(".")
    owner = module.get_submodule(parent)
    if isinstance(owner, nn.ModuleList):
        owner[int(child)] = part
    else:
        setattr(owner, child, part)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether two calls differ while training, by the statistics that run."""
    return module.training and any(isinstance(part, BATCH_NORMS) for part in module.modules())
