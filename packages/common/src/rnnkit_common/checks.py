"""What the families refuse, in the same words.

`_checks.py` in a family is a link to this file, and a copy of it in its wheel. TorchScript reads it, hence its plain style.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._modes import autocast_enabled, is_free_to_read
from ._tensors import state_dtype


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Raises ValueError unless value is one of those known."""
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}")


def check_floating(name: str, x: Tensor) -> None:
    """Raises TypeError unless x is float64, float32, float16 or bfloat16."""
    known = x.dtype == torch.float32 or x.dtype == torch.float64 or x.dtype == torch.float16
    if not (known or x.dtype == torch.bfloat16):
        raise TypeError(f"{name}: expected float64, float32, float16 or bfloat16, got {x.dtype}")


def check_alike(name: str, planes: list[Tensor]) -> None:
    """Raises unless all have the shape, device and dtype of the first."""
    x = planes[0]
    for plane in planes:
        check_tensor(name, plane)
        if plane.shape != x.shape:
            raise ValueError(f"{name}: expected equal shapes, got {list(x.shape)} and {list(plane.shape)}")
        if plane.device != x.device:
            raise ValueError(f"{name}: expected one device, got {x.device} and {plane.device}")
        if plane.dtype != x.dtype:
            raise TypeError(f"{name}: expected one dtype, got {x.dtype} and {plane.dtype}")


def check_tensor(name: str, x: Tensor) -> None:
    """Raises TypeError unless x is a dense tensor."""
    if not torch.jit.is_scripting():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
        if x.layout != torch.strided or x.is_nested:
            kind = "a nested one" if x.is_nested else f"one of layout {x.layout}"
            raise TypeError(f"{name}: expected a dense tensor, got {kind}")


def check_input(x: Tensor, module: torch.nn.Module, name: str = "x") -> None:
    """Raises if the module, which is given x first, has a weight of another device or dtype, unless autocast will change that."""
    weight = module._parameters.get("weight", module._parameters.get("bias"))  # none that a parametrisation would compute
    if weight is None:
        return  # whatever the module is: it has to know
    if x.device != weight.device:
        raise ValueError(f"{name}: expected device {weight.device}, got {x.device}")
    if not x.is_floating_point() or (x.dtype != weight.dtype and not autocast_enabled(x.device)):
        raise TypeError(f"{name}: expected {weight.dtype}, got {x.dtype}")


def check_state(h: Tensor, x: Tensor, shape: list[int], name: str = "h") -> Tensor:
    """h in the dtype of states, expanded to `shape`."""
    check_tensor(name, h)
    wanted = state_dtype(x)
    if h.dtype == wanted and h.shape == torch.Size(shape) and h.device == x.device:
        return h
    if h.dtype != x.dtype and h.dtype != wanted:
        accepted = f"{wanted}" if wanted == x.dtype else f"{x.dtype} or {wanted}"
        raise TypeError(f"{name}: expected {accepted}, got {h.dtype}")
    if h.device != x.device:
        raise ValueError(f"{name}: expected device {x.device}, got {h.device}")
    fits = h.dim() <= len(shape)
    if fits:
        for i in range(h.dim()):
            size = h.shape[h.dim() - 1 - i]
            fits = fits and (size == 1 or size == shape[len(shape) - 1 - i])
    if not fits:
        raise ValueError(f"{name}: expected a shape that expands to {shape}, got {list(h.shape)}")
    return h.to(wanted).expand(shape)


def check_integers(name: str, x: Tensor, shape: list[int], like: Tensor) -> Tensor:
    """x, of integers, as contiguous int64 on the device of `like`; it may come from the CPU."""
    check_tensor(name, x)
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers, got {x.dtype}")
    if list(x.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {list(x.shape)}")
    if x.device != like.device and x.device.type != "cpu":
        raise ValueError(f"{name}: expected device cpu or {like.device}, got {x.device}")
    return x.to(device=like.device, dtype=torch.int64).contiguous()


def check_lengths(lengths: Tensor, x: Tensor, batch: int, steps: int) -> Tensor:
    """lengths as int64 on x's device. They may come from the CPU, or as a list; values are checked where reading them is free."""
    if not torch.jit.is_scripting():
        if isinstance(lengths, (list, tuple)):
            lengths = torch.tensor(lengths)
    checked = check_integers("lengths", lengths, [batch], x)
    if not torch.jit.is_scripting():
        if is_free_to_read(lengths) and batch > 0:
            low, high = int(lengths.min()), int(lengths.max())
            if low < 0 or high > steps:
                raise ValueError(f"lengths: expected values within 0..{steps} (T), got {low}..{high}")
    return checked


def check_reset(reset: Tensor, x: Tensor, batch_first: bool = True) -> Tensor:
    """reset, (B, T), or (T, B), as a contiguous (B, T) tensor of bool, for sequences x (B, T, ...)."""
    check_tensor("reset", reset)
    if reset.dtype != torch.bool:
        raise TypeError(f"reset: expected bool, got {reset.dtype}")
    shape = [x.shape[0], x.shape[1]] if batch_first else [x.shape[1], x.shape[0]]
    if list(reset.shape) != shape:
        order = "(B, T)" if batch_first else "(T, B)"
        raise ValueError(f"reset: expected shape {shape} {order}, got {list(reset.shape)}")
    if reset.device != x.device:
        raise ValueError(f"reset: expected device {x.device}, got {reset.device}")
    return (reset if batch_first else reset.transpose(0, 1)).contiguous()


def check_planes(inputs: list[Tensor], count: int) -> int:
    """D of `count` planes in tensors (B, T, k * D), which parameters, of fewer dimensions, may follow; raises unless they fit."""
    if len(inputs) == 0:
        raise ValueError("inputs: expected the planes, got an empty list")
    x = inputs[0]
    check_tensor("inputs", x)
    check_floating("inputs", x)
    if x.dim() != 3:
        raise ValueError(f"inputs: expected planes of shape (B, T, k * D), got {list(x.shape)}")
    width = 0
    for t in inputs:
        check_tensor("inputs", t)
        if t.device != x.device:
            raise ValueError(f"inputs: expected one device, got {x.device} and {t.device}")
        if t.dim() == 3:
            if t.dtype != x.dtype:
                raise TypeError(f"inputs: expected planes of one dtype, got {x.dtype} and {t.dtype}")
            if t.shape[0] != x.shape[0] or t.shape[1] != x.shape[1]:
                raise ValueError(f"inputs: expected planes of one B and T, got {list(x.shape)} and {list(t.shape)}")
            width += t.shape[2]
    channels = width // count
    for t in inputs:
        if width % count != 0 or (t.dim() == 3 and channels > 0 and t.shape[2] % channels != 0):
            raise ValueError(f"inputs: expected (B, T, k * D) with {count} planes in all, got {width} features")
    return channels
