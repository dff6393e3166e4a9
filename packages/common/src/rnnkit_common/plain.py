"""Which submodules may be read as weights instead of being called.

A layer that knows that its nn.Linear is one can fuse it with what follows. But users hook, replace, parametrise, quantise, wrap and
shard submodules, and whoever does so expects them to be called.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ._modes import is_eager

M = TypeVar("M", bound=nn.Module)

# Hooks that compute a weight before the module is called, and nothing else.
_PARAMETRISATIONS = (BasePruningMethod, SpectralNorm, WeightNorm)


def child(module: nn.Module, name: str) -> nn.Module:
    """The submodule of this name. nn.Module's own way goes through an AttributeError, and takes as long as a small kernel."""
    return module._modules[name]  # type: ignore[return-value]


def children(module: nn.Module, name: str) -> Iterable[nn.Module]:
    """The modules in the nn.ModuleList of this name; see `child`."""
    return child(module, name)._modules.values()  # type: ignore[return-value]


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of this name, parametrised or not; see `child`."""
    known: Any = module._parameters.get(name)
    if known is None:
        known = module._buffers.get(name)
    return getattr(module, name) if known is None else known


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling the module does what `kind.forward` does with its parameters, once `computed` has made them."""
    if not isinstance(module, kind) or type(module).forward is not kind.forward:
        return False
    if torch.compiler.is_compiling():  # where a call costs nothing, but what it does has to be known
        return True
    if _is_hooked(module):
        return False
    return all(isinstance(hook, _PARAMETRISATIONS) for hook in module._forward_pre_hooks.values())


def linear_parameters(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """The weight and bias that a plain nn.Linear multiplies with, parametrised or not; None for a module that has to be called."""
    if not torch.compiler.is_compiling():
        parameters = parameters_as_they_are(module)
        if parameters is not None:
            return parameters
    if not isinstance(module, nn.Linear) or not is_plain(module, nn.Linear):
        return None
    for hook in module._forward_pre_hooks.values():
        hook(module, ())
    weight_now, bias_now = module.weight, module.bias  # once: a parametrisation computes them
    known = all(type(t) in (Tensor, nn.Parameter, type(None)) for t in (weight_now, bias_now))
    if not (known and weight_now.layout is torch.strided) and not torch.compiler.is_compiling():
        return None  # a subclass, such as a DTensor or a quantised weight, or a sparse one, has a product of its own
    return weight_now, bias_now


def fusible(linear: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """The weight and bias of a product that an op may make along with what follows; None where torch has to see the product."""
    return linear_parameters(linear) if is_eager() else None


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether x may be multiplied with the weight as they are; if not, `check_input` says why."""
    return x.dtype is weight.dtype and x.device == weight.device


def parameters_as_they_are(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """`linear_parameters`, in the shortest way: of nearly every nn.Linear; None for those that need a closer look."""
    if not is_untouched_as(module, nn.Linear):
        return None
    parameters: dict[str, Any] = module._parameters
    weight: Any = parameters.get("weight")
    bias: Any = parameters.get("bias", module)
    known = type(weight) is nn.Parameter and (bias is None or type(bias) is nn.Parameter)
    return (weight, bias) if known and weight.layout is torch.strided else None


def stack_parameters(
    linears: Iterable[nn.Module], width: int, x: Tensor, h: Tensor | None
) -> tuple[list[Tensor], list[Tensor]] | None:
    """The weights and biases of products of one width, for an op that makes them one after the other, without gradients, from x and
    states h; None where they have to be called one by one."""
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    for linear in linears:
        parameters = parameters_as_they_are(linear)
        if parameters is None or len(parameters[0]) != width or not fits(x, parameters[0]):
            return None
        weights.append(parameters[0])
        if parameters[1] is not None:
            biases.append(parameters[1])
    if len(biases) not in (0, len(weights)):
        return None
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, h, *weights, *biases)):
        return None
    return weights, biases


def is_untouched_as(module: nn.Module, kind: type[M]) -> TypeGuard[M]:
    """Whether the module is of just this class, and `is_untouched`."""
    return type(module) is kind and is_untouched(module)


def is_untouched(module: nn.Module) -> bool:
    """Whether calling the module does what its class's forward does, and nothing else."""
    return not (module._forward_pre_hooks or _is_hooked(module))


def _is_hooked(module: nn.Module) -> bool:
    """Whether a call of the module does more than its forward, not counting what is done before it."""
    hooks = module._forward_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks) or "forward" in module.__dict__ or nn_module._has_any_global_hook()
