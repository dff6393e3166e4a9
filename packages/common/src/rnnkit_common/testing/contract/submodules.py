"""What users do to submodules: hook, replace, parametrise, freeze, quantise, wrap and shard them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from .subject import BATCH_NORMS, Results, Subject, assert_same, parts, replace, tensors, weighted


def hooked(s: Subject) -> None:
    """Forward, forward pre and full backward hooks of each submodule are called once a forward."""
    expected = s.run(s.make())
    for name in parts(s.make()):
        module, calls = s.make(), dict.fromkeys(("before", "after", "backward"), 0)

        def count(kind: str, calls: dict[str, int] = calls) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                calls[kind] += 1

            return hook

        part = module.get_submodule(name)
        part.register_forward_pre_hook(count("before"))
        part.register_forward_hook(count("after"))
        part.register_full_backward_hook(count("backward"))
        assert_same(s.run(module), expected)
        again = not set(name.split(".")).isdisjoint(s.repeated)
        assert all(n == 1 or (n > 1 and again) for n in calls.values()), f"{name}: {calls}"


class Adapter(nn.Module):
    """What peft puts in the place of a Linear: the old one, still with a weight to be read, and something that learns."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.learns = nn.Parameter(torch.zeros(()))

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The base's output, and a share of it that is 0 at first."""
        y: Tensor = self.base(x)
        return y + self.learns * y.square()


def replaced(s: Subject) -> None:
    """Any Linear, LayerNorm or BatchNorm that is replaced is called, while training and not: what it adds gets a gradient."""
    expected, still = s.run(s.make()), s.run(s.make().eval())
    for name in parts(s.make(), nn.Linear, nn.LayerNorm, *BATCH_NORMS):
        for training in (True, False):
            module = s.make()
            replace(module, name, Adapter(module.get_submodule(name)))
            results = s.run(module.train(module.training and training))
            assert_same(results, expected if training else still)
            learned = results.of_parameters[f"{name}.learns"]
            assert learned is not None, f"{name} is not called"
            assert learned != 0, f"{name} is not called"


def frozen(s: Subject) -> None:
    """A submodule without gradients leaves those of the others as they were."""
    expected = s.run(s.make())
    for name in parts(s.make()):
        module = s.make()
        module.get_submodule(name).requires_grad_(False)
        if any(p.requires_grad for p in module.parameters()) or expected.of_inputs:
            assert_same(s.run(module), expected)


PARAMETRISATIONS: dict[str, Callable[[nn.Module], Any]] = {
    "weight_norm": lambda m: nn.utils.weight_norm(m),
    "parametrizations.weight_norm": lambda m: parametrizations.weight_norm(m),
    "spectral_norm": lambda m: nn.utils.spectral_norm(m),
    "parametrizations.spectral_norm": lambda m: parametrizations.spectral_norm(m),
    "parametrizations.orthogonal": lambda m: parametrizations.orthogonal(m),
    "prune": lambda m: prune.l1_unstructured(m, "weight", 0.4),
}


def parametrised(s: Subject) -> None:
    """Weights that are computed, in torch's old and new ways, are computed anew at each call, and their sources learn."""
    for name in parts(s.make(), nn.Linear):
        for kind, parametrise in PARAMETRISATIONS.items():
            module = s.make()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                parametrise(module.get_submodule(name))
            module.eval()
            before = s.run(module)
            grads = [g for parameter, g in before.of_parameters.items() if parameter.startswith(f"{name}.")]
            assert any(g is not None and bool((g != 0).any()) for g in grads), f"{kind} of {name} gets no gradient"
            with torch.no_grad():
                for p in module.get_submodule(name).parameters():
                    p.mul_(1.5).add_(0.1 * torch.linspace(-1, 1, p.numel()).view(p.shape))
            after = s.run(module)
            plain, linear = s.make().eval(), module.get_submodule(name)
            with torch.no_grad():
                plain.get_submodule(name).weight.copy_(linear.weight)  # type: ignore[arg-type, operator]
                if linear.bias is not None:
                    plain.get_submodule(name).bias.copy_(linear.bias)  # type: ignore[arg-type, operator]
            torch.testing.assert_close(
                after.outputs, s.run(plain).outputs, msg=f"{kind} of {name}: outputs of older weights"
            )


def quantised(s: Subject) -> None:
    """quantize_dynamic replaces the Linears, and the outputs are nearly what they were."""
    module = s.make().eval()
    if not parts(module, nn.Linear):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        for actual, expected in zip(tensors(changed(*s.inputs())), tensors(module(*s.inputs())), strict=True):
            if expected.is_floating_point():
                assert float((actual - expected).abs().max()) <= 0.1 * float(expected.abs().max()) + 0.02


def wrapped(s: Subject) -> None:
    """checkpoint_wrapper around any submodule."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    expected = s.run(s.make())
    for name in parts(s.make()):
        module = s.make()
        replace(module, name, checkpoint_wrapper(module.get_submodule(name)))
        results = s.run(module)
        names = {key.replace("_checkpoint_wrapped_module.", ""): grad for key, grad in results.of_parameters.items()}
        assert_same(Results(results.outputs, results.of_inputs, names), expected)


@contextmanager
def process_group() -> Iterator[Any]:
    """A group of this process alone."""
    from torch.distributed.device_mesh import init_device_mesh

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        torch.distributed.destroy_process_group()


def sharded(s: Subject) -> None:
    """fully_shard of each layer and of the whole, and DistributedDataParallel."""
    from torch.distributed.fsdp import fully_shard

    expected = s.run(s.make())
    if not expected.of_parameters:
        return
    with process_group() as mesh:
        module = s.make()
        for child in module.children():
            for layer in child if isinstance(child, nn.ModuleList) else [child]:
                if any(True for _ in layer.parameters()):
                    fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
        inputs = s.inputs()
        weighted(tensors(module(*inputs))).backward()
        grads: dict[str, Any] = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        grads = {name: grad.full_tensor() for name, grad in grads.items()}
        assert_same(Results(expected.outputs, [t.grad for t in tensors(inputs) if t.requires_grad], grads), expected)
        plain = s.make()
        parallel = nn.parallel.DistributedDataParallel(plain, find_unused_parameters=True)
        weighted(tensors(parallel(*s.inputs()))).backward()
        assert_same(
            Results(expected.outputs, expected.of_inputs, {n: p.grad for n, p in plain.named_parameters()}), expected
        )
