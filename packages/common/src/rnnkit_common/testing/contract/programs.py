"""What torch makes of a module: copies, checkpoints, scripts, graphs, functions, derivatives."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from ..interop import check_compile, check_export, check_script
from .subject import Subject, assert_same, has_batch_norm, tensors, weighted, weights


def checkpointed(s: Subject) -> None:
    """Non-reentrant checkpointing, which unpacks each saved tensor once."""
    module = s.make()
    assert_same(s.run(lambda *x: checkpoint(module, *x, use_reentrant=False), module), s.run(s.make()))


def selectively_checkpointed(s: Subject) -> None:
    """Selective checkpointing, with products and our ops saved, and with all others."""
    for heavy in (True, False):
        module = s.make()

        def policy(context: Any, op: Any, *arguments: Any, heavy: bool = heavy, **options: Any) -> CheckpointPolicy:
            saved = ("mm" in str(op) or "rnnkit" in str(op)) == heavy and not op._schema.is_mutable
            return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE

        def call(*x: Any, module: nn.Module = module, policy: Any = policy) -> Any:
            contexts = functools.partial(create_selective_checkpoint_contexts, policy)
            return checkpoint(module, *x, use_reentrant=False, context_fn=contexts)

        assert_same(s.run(call, module), s.run(s.make()))


def saved_elsewhere(s: Subject) -> None:
    """save_on_cpu, and hooks of saved tensors that pack them into something else."""
    expected = s.run(s.make())
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: (t.clone(), t.requires_grad), lambda packed: packed[0])
    for context in (torch.autograd.graph.save_on_cpu(), hooks):
        module = s.make()
        with context:
            assert_same(s.run(module), expected)


def copied(s: Subject) -> None:
    """deepcopy, pickle, and state_dict: saved, loaded with weights_only, strictly, and assigned."""
    module = s.make()
    expected = s.run(module)
    module = s.make()  # batch norm has counted a batch
    assert_same(s.run(copy.deepcopy(module)), expected)
    assert_same(s.run(pickle.loads(pickle.dumps(module))), expected)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    for assign in (False, True):
        buffer.seek(0)
        other = s.make()
        with torch.no_grad():
            for p in other.parameters():
                p.add_(1)
        other.load_state_dict(torch.load(buffer, weights_only=True), strict=True, assign=assign)
        assert_same(s.run(other), expected)


def without_a_device(s: Subject) -> None:
    """On the meta device and with fake tensors, a module has the shapes of its outputs; it works once it has memory and weights."""
    expected, state = s.run(s.make()), s.make().state_dict()
    with torch.device("meta"):
        module = s.make()
    inputs = torch.utils._pytree.tree_map(lambda t: t.detach().to("meta") if isinstance(t, Tensor) else t, s.inputs())
    shapes = [t.shape for t in tensors(module(*inputs))]
    assert shapes == [t.shape for t in expected.outputs]
    mode = FakeTensorMode()
    fakes = torch.utils._pytree.tree_map(lambda t: mode.from_tensor(t) if isinstance(t, Tensor) else t, s.inputs())
    with mode:
        assert [t.shape for t in tensors(s.make()(*fakes))] == shapes
    module = module.to_empty(device="cpu")
    module.load_state_dict(state)
    assert_same(s.run(module.train(s.make().training)), expected)


def scripted(s: Subject) -> None:
    """torch.jit.script, saved and loaded, with gradients."""
    loaded = check_script(s.make(), s.inputs())
    module = s.make()
    loaded.load_state_dict(module.state_dict())
    assert_same(s.run(loaded), s.run(module))


def traced(s: Subject) -> None:
    """torch.jit.trace with gradients on gives a function that serves with and without them."""
    module = s.make()
    names = list(inspect.signature(module.forward).parameters)
    given = dict(zip(names, s.inputs(), strict=False))
    given = {name: value for name, value in given.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(module, example_kwarg_inputs=given, check_trace=not has_batch_norm(module))

    def call(*inputs: Any) -> Any:
        by_name = dict(zip(names, inputs, strict=False))
        return program(**{name: value for name, value in by_name.items() if value is not None})

    expected = s.run(s.make())
    assert_same(s.run(call, module), expected)
    with torch.no_grad():
        torch.testing.assert_close(tensors(call(*s.inputs())), expected.outputs)


def exported(s: Subject) -> None:
    """torch.export, saved and loaded."""
    check_export(s.make().eval(), s.inputs())


def compiled(s: Subject) -> None:
    """torch.compile in one graph, with gradients."""
    module = s.make()
    check_compile(module, s.inputs())


def functional(s: Subject) -> None:
    """functional_call under grad and vmap: gradients of several samples at once are those of one after the other."""
    module = s.make().eval()
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    first = torch.utils._pytree.tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, s.inputs())
    leaves, spec = torch.utils._pytree.tree_flatten(first)
    varied = [i for i, t in enumerate(leaves) if isinstance(t, Tensor) and t.is_floating_point()]

    def loss(parameters: dict[str, Tensor], given: list[Tensor]) -> Tensor:
        filled = list(leaves)
        for i, t in zip(varied, given, strict=True):
            filled[i] = t
        inputs = torch.utils._pytree.tree_unflatten(filled, spec)
        return sum(t.square().sum() for t in tensors(torch.func.functional_call(module, parameters, inputs)))  # type: ignore[return-value]

    gradient = torch.func.grad(loss, argnums=(0, 1))
    samples = [torch.stack([leaves[i], 0.5 * leaves[i] + 0.1, -leaves[i]]) for i in varied]
    together = torch.func.vmap(gradient, in_dims=(None, 0))(parameters, samples)
    alone = [gradient(parameters, [t[i] for t in samples]) for i in range(3)]
    for i, sample in enumerate(alone):
        torch.testing.assert_close(torch.utils._pytree.tree_map(lambda t, i=i: t[i], together), sample, rtol=1e-4, atol=1e-5)


def in_forward_mode(s: Subject) -> None:
    """Tangents of dual numbers are what gradients say, for inputs and parameters, whether or not those want gradients."""
    module = s.make().eval()
    inputs = s.inputs()
    leaves = [t for t in (*tensors(inputs), *module.parameters()) if t.requires_grad]
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(t.shape, generator=generator) for t in leaves]
    grads = torch.autograd.grad(weighted(tensors(module(*inputs))), leaves, allow_unused=True)
    expected = sum(float((g * v).sum()) for g, v in zip(grads, direction, strict=True) if g is not None)
    given = dict(zip(map(id, leaves), direction, strict=True))

    def dual(t: Any, wanted: bool) -> Any:
        return forward_ad.make_dual(t.detach().requires_grad_(wanted), given[id(t)]) if id(t) in given else t

    for wanted in (True, False):
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            parameters = {name: dual(p, wanted) for name, p in module.named_parameters()}
            arguments = torch.utils._pytree.tree_map(lambda t, wanted=wanted: dual(t, wanted), inputs)
            outputs = tensors(torch.func.functional_call(module, parameters, arguments))
            pairs = [forward_ad.unpack_dual(t) for t in outputs if t.is_floating_point()]
            slope = sum(float((weights(t) * tangent).detach().sum()) for t, tangent in pairs if tangent is not None)
        assert slope == pytest.approx(expected, rel=1e-4, abs=1e-4)


def gradients_in_batches(s: Subject) -> None:
    """torch.autograd.grad with several gradients of the outputs at once, as jacobian(vectorize=True) takes them."""
    module, inputs = s.make(), s.inputs()
    leaves = [t for t in (*tensors(inputs), *module.parameters()) if t.requires_grad]
    outputs = [t for t in tensors(module(*inputs)) if t.requires_grad]
    generator = torch.Generator().manual_seed(0)
    seeds = [torch.randn(3, *t.shape, generator=generator) for t in outputs]
    options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}

    def take(seeds: list[Tensor], **more: bool) -> list[Tensor | None]:
        return [*torch.autograd.grad(outputs, leaves, seeds, **options, **more)]

    together = torch.func.vmap(lambda *seeds: take(list(seeds)))(*seeds)
    for grads in (take(seeds, is_grads_batched=True), together):
        for i in range(3):
            expected = take([seed[i] for seed in seeds])
            torch.testing.assert_close([None if f is None else f[i] for f in grads], expected)


def results_of_its_own(s: Subject) -> None:
    """Outputs are contiguous, whatever the order of the input in memory, and may be changed in place; states are no views, as truncated
    BPTT detaches them in place."""
    for turned in (False, True):
        module = s.make()
        x, *others = s.inputs()
        if turned and x.dim() == 3:
            x = x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
        for context in (contextlib.nullcontext(), torch.no_grad()):
            with context:
                out, *states = tensors(module(x, *others))
                assert out.is_contiguous()
                out.mul_(2)
                for t in states:
                    assert t.is_contiguous()
                    t.detach_()
                    assert not t.requires_grad


def differentiated_twice(s: Subject) -> None:
    """Second derivatives along one direction are differences of first ones; what has none says so in words."""
    module = s.make().double().eval()
    inputs = s.inputs(torch.float64)
    leaves = [t for t in torch.utils._pytree.tree_leaves(inputs) if isinstance(t, Tensor) and t.requires_grad]
    leaves += [p for p in module.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(0)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, dtype=torch.float64, generator=generator)

    weights = [draw(t).requires_grad_() for t in tensors(module(*inputs)) if t.requires_grad]
    variables, probes = [*leaves, *weights], [draw(t) for t in leaves]
    direction = [draw(t) for t in variables]

    def first(create_graph: bool) -> list[Tensor]:
        outputs = [t for t in tensors(module(*inputs)) if t.requires_grad]
        grads = torch.autograd.grad(outputs, leaves, weights, create_graph=create_graph, allow_unused=True)
        return [(v * g).sum() for v, g in zip(probes, grads, strict=True) if g is not None]

    def slope(value: Tensor) -> float:
        grads = torch.autograd.grad(value, variables, retain_graph=True, allow_unused=True)
        return sum(float((v * g).sum()) for v, g in zip(direction, grads, strict=True) if g is not None)

    def moved(by: float) -> float:
        with torch.no_grad():
            for t, v in zip(variables, direction, strict=True):
                t.add_(v, alpha=by)
        return float(sum(first(create_graph=False)))

    attention: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    try:
        slope(torch.stack(first(create_graph=True)).sum())
    except RuntimeError as error:  # torch's fast attention has first derivatives only, and says so
        if "attention" not in str(error):
            raise
        attention = sdpa_kernel(SDPBackend.MATH)
    with attention:
        parts = first(create_graph=True)
        torch.testing.assert_close(parts, first(create_graph=False))
        exact = slope(torch.stack(parts).sum())
        # every second one: then the gradients of the others are undefined
        halves = [slope(torch.stack(half).sum()) for half in (parts[::2], parts[1::2]) if half]
        assert sum(halves) == pytest.approx(exact, rel=1e-9, abs=1e-9)
        step = 1e-6
        ahead = moved(step)
        behind = moved(-2 * step)
    assert exact == pytest.approx((ahead - behind) / (2 * step), rel=1e-5, abs=1e-5)


def called_twice(s: Subject) -> None:
    """Two calls before one backward; and calls without gradients, whose outputs are the same."""
    expected = s.run(s.make())
    module = s.make()
    results = s.run(lambda *x: [*tensors(module(*x)), *tensors(module(*x))][: len(expected.outputs)], module)
    assert_same(results, expected)
    for context in (torch.no_grad(), torch.inference_mode()):
        module = s.make()
        with context:
            torch.testing.assert_close(tensors(module(*s.inputs())), expected.outputs)
    if hasattr(module, "num_layers") and "Cell" not in type(module).__name__:
        module.flatten_parameters()  # type: ignore[operator]  # code that was written for nn.LSTM calls it


class Onlooker(TorchDispatchMode):
    """Sees each op, and does nothing about it."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return op(*args, **(kwargs or {}))


def watched(s: Subject) -> None:
    """Where a mode sees each op, small calls go another way: results, gradients and buffers stay, in training and evaluation, and so do
    they where only backward, or only forward, is watched."""
    for training in (True, False):
        modules = [s.make().train(training) for _ in range(4)]
        with Onlooker():  # type: ignore[no-untyped-call]
            expected = s.run(modules[0])
        assert_same(s.run(modules[1]), expected)

        def call(*x: Any, module: nn.Module = modules[2]) -> Any:
            with Onlooker():  # type: ignore[no-untyped-call]
                return module(*x)

        assert_same(s.run(call, modules[2]), expected)
        inputs = s.inputs()
        total = weighted(tensors(modules[3](*inputs)))
        leaves = [t for t in tensors(inputs) if t.requires_grad]
        with Onlooker():  # type: ignore[no-untyped-call]
            torch.testing.assert_close(list(torch.autograd.grad(total, leaves, allow_unused=True)), expected.of_inputs)
        for module in modules[1:]:
            torch.testing.assert_close(dict(module.named_buffers()), dict(modules[0].named_buffers()))


def with_odd_strides(s: Subject) -> None:
    """Dimensions of size 1, whose strides torch leaves as they come: of a convolution's output that was turned, or of one step."""
    x, *others = s.inputs()
    if x.dim() != 3 or others:
        return
    for dim in (0, 1):
        plain = x.detach().narrow(dim, 0, 1).clone(memory_format=torch.contiguous_format)
        odd = plain.as_strided(plain.shape, [3 if i == dim else stride for i, stride in enumerate(plain.stride())])
        results = []
        for given in (odd, plain):
            module = s.make().eval()
            outputs = tensors(module(given))
            parameters = [p for p in module.parameters() if p.requires_grad]
            results.append((outputs, torch.autograd.grad(weighted(outputs), parameters, allow_unused=True)))
        torch.testing.assert_close(*results)


def on_a_small_stack(s: Subject) -> None:
    """A thread with 256 KB, as pools of threads have; nn.LSTM needs less."""
    expected, results = s.run(s.make()), []
    before = threading.stack_size(256 << 10)
    try:
        thread = threading.Thread(target=lambda: results.append(s.run(s.make())))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert_same(results[0], expected)


def differentiated_by_threads(s: Subject) -> None:
    """Several threads take gradients of one graph at once."""
    module, inputs = s.make(), s.inputs()
    leaves = [t for t in (*tensors(inputs), *module.parameters()) if t.requires_grad]
    total = weighted(tensors(module(*inputs)))

    def take(_: int) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)

    expected = take(0)
    with ThreadPoolExecutor(6) as pool:
        for grads in pool.map(take, range(24)):
            torch.testing.assert_close(grads, expected)


def under_autocast(s: Subject) -> None:
    """CPU autocast in bfloat16: outputs are nearly the same, gradients have the parameters' dtype."""
    expected = s.run(s.make())
    module = s.make()
    with torch.autocast("cpu", torch.bfloat16):
        results = s.run(module)
    for t, e in zip(results.outputs, expected.outputs, strict=True):
        if e.is_floating_point():
            assert float((t.float() - e).abs().max()) <= 0.1 * float(e.abs().max()) + 0.02
    assert all(g is None or g.dtype == torch.float32 for g in results.of_parameters.values())
