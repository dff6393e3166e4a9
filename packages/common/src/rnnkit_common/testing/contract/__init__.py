"""The contract of every module: torch's own tools do to it what they do to nn.LSTM, nn.Linear and nn.BatchNorm1d.

@pytest.mark.parametrize("check", CONTRACT)
def test_module_contract(check: str) -> None:
    check_module_contract(lambda: SRU(8, 8), lambda: (torch.randn(9, 2, 8),), check)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from . import programs, submodules
from .subject import Subject

CONTRACT: dict[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (
        programs.checkpointed,
        programs.selectively_checkpointed,
        programs.saved_elsewhere,
        submodules.hooked,
        submodules.replaced,
        submodules.frozen,
        submodules.parametrised,
        submodules.quantised,
        submodules.wrapped,
        submodules.sharded,
        programs.copied,
        programs.without_a_device,
        programs.scripted,
        programs.traced,
        programs.exported,
        programs.compiled,
        programs.functional,
        programs.in_forward_mode,
        programs.gradients_in_batches,
        programs.results_of_its_own,
        programs.differentiated_twice,
        programs.called_twice,
        programs.watched,
        programs.with_odd_strides,
        programs.on_a_small_stack,
        programs.differentiated_by_threads,
        programs.under_autocast,
    )
}


def check_module_contract(
    make: Callable[[], nn.Module],
    inputs: Callable[[], tuple[Any, ...]],
    check: str | None = None,
    *,
    repeated: Sequence[str] = (),
) -> None:
    """Checks one thing, or all, that users of nn.LSTM and nn.Linear do with a module.

    Args:
        make: a new module at each call, without dropout.
        inputs: the arguments of a call to it.
        check: a key of CONTRACT; None: every one.
        repeated: names of submodules that are called several times a forward, once someone looks: at each step of a
            recurrence, or in each part of a lattice.

    Raises:
        AssertionError: what torch does to the module changes its results, or the module misses it.
    """
    for name in CONTRACT if check is None else [check]:
        CONTRACT[name](Subject(make, inputs, repeated))
