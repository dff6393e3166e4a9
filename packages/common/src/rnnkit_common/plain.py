"""Which submodules may be read as weights instead of being called.

A layer that knows that its nn.Linear is one can fuse it with what follows. But users hook, replace, parametrise, quantise, wrap and
shard submodules, and whoever does so expects them to be called.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ._modes import autocast_enabled, needs_plain_torch

# Hooks that compute a weight before the module is called, and nothing else.
_PARAMETRISATIONS = (BasePruningMethod, SpectralNorm, WeightNorm)


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling the module does what `kind.forward` does with its parameters, once `computed` has made them."""
    if not isinstance(module, kind) or type(module).forward is not kind.forward:
        return False
    if torch.compiler.is_compiling():  # where a call costs nothing, but what it does has to be known
        return True
    if _hooked(module):
        return False
    return all(isinstance(hook, _PARAMETRISATIONS) for hook in module._forward_pre_hooks.values())


def linear_parameters(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """The weight and bias that a plain nn.Linear multiplies with, parametrised or not; None for a module that has to be called."""
    if (
        type(module) is nn.Linear
        and not torch.compiler.is_compiling()
        and not _hooked(module)
        and not module._forward_pre_hooks
    ):
        parameters: dict[str, Any] = module._parameters  # the shortest way to nearly every layer's
        weight, bias = parameters.get("weight"), parameters.get("bias", module)
        if type(weight) is nn.Parameter and (bias is None or type(bias) is nn.Parameter) and weight.layout is torch.strided:
            return weight, bias
    if not isinstance(module, nn.Linear) or not is_plain(module, nn.Linear):
        return None
    for hook in module._forward_pre_hooks.values():
        hook(module, ())
    weight_now, bias_now = module.weight, module.bias  # once: a parametrisation computes them
    known = all(type(t) in (Tensor, nn.Parameter, type(None)) for t in (weight_now, bias_now))
    if not (known and weight_now.layout is torch.strided) and not torch.compiler.is_compiling():
        return None  # a subclass, such as a DTensor or a quantised weight, or a sparse one, has a product of its own
    return weight_now, bias_now


def fusible(linear: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None] | None:
    """The weight and bias of a product of x that an op may make along with what follows; None where torch has to see the product:
    where it makes a graph, transforms derivatives, or changes dtypes."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or needs_plain_torch() or autocast_enabled(x.device):
        return None
    return linear_parameters(linear)


def _hooked(module: nn.Module) -> bool:
    hooks = module._forward_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks) or "forward" in module.__dict__ or nn_module._has_any_global_hook()
