"""How torch runs at the moment: autocast, gradients, transforms.

`_modes.py` in a family is a link to this file, and a copy of it in its wheel. TorchScript reads it, hence its plain style.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn import Parameter

# By names of their own: on the way of every call, looking them up takes as long as asking.
_autocasts = torch._C._is_any_autocast_enabled
_is_traced = torch._C._is_tracing
_is_transformed = torch._C._are_functorch_transforms_active
_mode_count = torch._C._len_torch_dispatch_stack
_function_mode_count = torch._C._len_torch_function_stack
_is_profiled = torch._C._autograd._profiler_enabled


def autocast_enabled(device: torch.device) -> bool:
    """Whether autocast changes dtypes on this device; some, such as meta, know none."""
    if not torch.jit.is_scripting():
        # the shortest way to nearly every answer
        if not torch.compiler.is_compiling() and not torch._C._is_any_autocast_enabled():
            return False
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which ops keep the dtypes of their inputs."""
    return torch.autocast(device.type, enabled=False) if autocast_enabled(device) else nullcontext()


def wants_gradients(planes: list[Tensor], h0: Optional[Tensor]) -> bool:
    """Whether a backward pass may follow, so that forward has to keep what it needs."""
    wants = False
    if not torch.jit.is_scripting():
        if torch.jit.is_tracing():  # a trace has to serve both
            return True
    if torch.is_grad_enabled():
        wants = h0 is not None and h0.requires_grad
        for plane in planes:
            wants = wants or plane.requires_grad
    return wants


def needs_plain_torch() -> bool:
    """Whether derivatives are taken that ops do not have: by a transform of torch.func, or in forward mode. Plain PyTorch has them."""
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or bool(torch._C._are_functorch_transforms_active())


def is_eager() -> bool:
    """Whether an op does just what its call says: no graph is made of it, no derivative transformed, no dtype changed."""
    if is_compiling():
        return False
    return not (_autocasts() or _is_traced() or _is_transformed() or forward_ad._current_level >= 0)


def is_unwatched() -> bool:
    """Whether nothing wants to see each op that is called: no mode, no profiler."""
    return _mode_count() == 0 and _function_mode_count() == 0 and not _is_profiled()


def allows_tf32() -> bool:
    """Whether products of float32 on a GPU may be made of TF32, as a user has chosen in one of torch's ways; a graph keeps it."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


# What torch.compiler.assume_constant_result does; but that imports torch._dynamo, which takes seconds.
allows_tf32._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_free_to_read(x: Tensor) -> bool:
    """Whether looking at x's values is free, and possible: no graph is being made, and it is a plain tensor on the CPU."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or needs_plain_torch():
        return False
    return x.device.type == "cpu" and type(x) in (Tensor, Parameter)  # a FakeTensor, for one, has no values
