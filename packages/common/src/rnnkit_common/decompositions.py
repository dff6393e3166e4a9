"""The families' ops in torch's own operations, for programs that go where our library is not.

`_decompositions.py` in a family is a link to this file, and a copy of it in its wheel. torch.onnx.export finds them in torch's own
table; `ExportedProgram.run_decompositions` is given them.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

from ._derivatives import complete
from ._recurrence import loops_as_one_op

_OF_THIS_PACKAGE: dict[OpOverload, Callable[..., Any]] = {}

# By this name torch.onnx and fake tensors find the table. The compiler's own name for it stays without ours: where CI is set, it refuses
# to call an op that it knows a decomposition of.
torch._decomp.decomposition_table = ChainMap[Any, Any](torch._decomp.decomposition_table, _OF_THIS_PACKAGE)  # type: ignore[assignment]


def decompositions() -> dict[OpOverload, Callable[..., Any]]:
    """What this package's ops consist of, for `ExportedProgram.run_decompositions`: after it, a program has none of them.

    Loops over time become torch's higher-order op `scan`, of any number of steps; all that can be computed for all steps at once is.
    torch.onnx.export(dynamo=True) takes them by itself. They are for inference: they are not differentiated.

    Returns:
        op -> function, as torch.export.default_decompositions() has them: give `run_decompositions` both.
    """
    return dict(_OF_THIS_PACKAGE)


def decompose(name: str, function: Callable[..., Any]) -> None:
    """Tells torch what an op consists of.

    Args:
        name: of the op, with its namespace.
        function: takes all of its arguments, and returns what it returns; of what only backward needs, anything.
    """
    namespace, short = name.split("::")
    op = getattr(getattr(torch.ops, namespace), short).default
    with_defaults = complete(op)

    def decomposed(*arguments: Any, **named: Any) -> Any:
        names = [argument.name for argument in op._schema.arguments][len(arguments) :]
        given = (*arguments, *(named[name] for name in names if name in named))
        with loops_as_one_op():
            return function(*with_defaults(given))

    _OF_THIS_PACKAGE[op] = decomposed
    torch._decomp.meta_table[op] = decomposed  # and fake tensors keep to the shapes that the op was registered with
