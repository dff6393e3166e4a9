"""Checks of modules that leave Python: as ONNX, as core ATen, and as compiled packages that a C++ program runs."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

RUNNER = Path(__file__).with_name("run_package.cpp")


class Step(nn.Module):
    """A module's `step`, as a module: what is exported for a stream."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: Any) -> Any:
        """(out, state)."""
        return self.module.step(*arguments)  # type: ignore[operator]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


@torch.no_grad()
def check_onnx(module: nn.Module, arguments: tuple[Any, ...], dynamic_shapes: Any, *others: tuple[Any, ...]) -> Any:
    """torch.onnx.export, with nothing set, gives the module's numbers in onnxruntime: for the example and for other sizes.

    Args:
        module: in evaluation.
        arguments: the example.
        dynamic_shapes: as torch.onnx.export takes them.
        others: more arguments, of other sizes.

    Returns:
        The graph's nodes by type, with how many there are.
    """
    import onnxruntime  # type: ignore[import-not-found,unused-ignore]

    module.eval()
    program = torch.onnx.export(module, arguments, dynamo=True, dynamic_shapes=dynamic_shapes, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [put.name for put in session.get_inputs()]
    for given in (arguments, *others):
        inputs = {name: t.numpy() for name, t in zip(names, _tensors(given), strict=True)}
        for actual, expected in zip(session.run(None, inputs), _tensors(module(*given)), strict=True):
            torch.testing.assert_close(torch.from_numpy(actual), expected, atol=1e-5, rtol=1e-5)
    kinds = [node.op_type for node in program.model.graph]
    return {kind: kinds.count(kind) for kind in kinds}


@torch.no_grad()
def check_decomposes(module: nn.Module, arguments: tuple[Any, ...], dynamic_shapes: Any, table: dict[Any, Any]) -> None:
    """After `run_decompositions` with a package's, a program has nothing but core ATen and `scan`, and the same numbers."""
    program = torch.export.export(module.eval(), arguments, dynamic_shapes=dynamic_shapes)
    program = program.run_decompositions({**torch.export.default_decompositions(), **table})
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    ops = [target for target in targets if isinstance(target, torch._ops.OpOverload)]
    assertions = torch.ops.aten._assert_tensor_metadata.default  # torch.export's own, of dtypes
    assert not [op for op in ops if torch.Tag.core not in op.tags and op != assertions and "aten.sym_" not in str(op)]
    program = program.run_decompositions()  # again, as other exporters do
    higher = {target for target in targets if isinstance(target, torch._ops.HigherOrderOperator)}
    assert higher <= {torch.ops.higher_order.scan}
    for actual, expected in zip(_tensors(program.module()(*arguments)), _tensors(module(*arguments)), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def check_runs_without_python(module: nn.Module, arguments: tuple[Tensor, ...], library: str, folder: Path) -> None:
    """A C++ program (run_package.cpp) that loads our library with dlopen gets the module's numbers: of a package that
    AOTInductor compiled, and of TorchScript, scripted and traced.

    Args:
        module: in evaluation.
        arguments: its inputs.
        library: the path of the compiled extension.
        folder: an empty one.
    """
    expected = _tensors(module.eval()(*arguments))
    _script(_Holder(list(arguments))).save(folder / "inputs.pt")
    _script(module).save(folder / "script.pt")
    _script(module, arguments).save(folder / "trace.pt")
    program = torch.export.export(module, arguments)
    torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "model.pt2"))
    for model in ("script.pt", "trace.pt", "model.pt2"):
        paths = [folder / name for name in (model, "inputs.pt", "outputs.pt")]
        subprocess.run([_runner(), library, *paths], check=True)
        outputs = torch.load(folder / "outputs.pt", weights_only=False)  # a list, which C++ pickles by a function
        for actual, wanted in zip(outputs, expected, strict=True):
            torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=1e-5)


def _script(module: nn.Module, example: tuple[Tensor, ...] | None = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module) if example is None else torch.jit.trace(module, example)


class _Holder(nn.Module):
    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        for i, tensor in enumerate(tensors):
            self.register_buffer(f"input_{i}", tensor)


def _runner() -> Path:
    """The compiled program, which is the same for all families."""
    from torch.utils import cpp_extension

    digest = hashlib.sha256(f"{RUNNER.read_text()} {torch.__file__} {torch.__version__}".encode()).hexdigest()
    executable = Path(tempfile.gettempdir()) / f"rnnkit-run-package-{digest[:12]}"
    if not executable.exists():
        libraries = cpp_extension.library_paths()
        flags = [f"-I{path}" for path in cpp_extension.include_paths()] + [f"-L{path}" for path in libraries]
        flags += [f"-Wl,-rpath,{path}" for path in libraries]
        flags += ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10", "-ldl"]
        with tempfile.TemporaryDirectory(dir=executable.parent) as folder:
            made = Path(folder) / "run_package"
            subprocess.run(["c++", "-std=c++20", "-O0", RUNNER, "-o", made, *flags], check=True)
            made.rename(executable)  # at once: several processes test
    return executable
