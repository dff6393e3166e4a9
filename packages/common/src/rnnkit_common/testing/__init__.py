"""What the tests and benchmarks of all families use: backends, hard cases, comparison with an oracle, alternating timing.

Needs the extra `rnnkit-common[testing]`.
"""

from . import scans
from .accuracy import assert_no_worse, relative_error
from .backends import Backend, backend_fixtures
from .battery import ScanTests
from .cases import CHANNELS, STEPS, poisoned_outputs, saturated, some_sanitized, strided
from .contract import CONTRACT, check_module_contract
from .fuzz import changed, check_survives
from .interop import check_compile, check_export, check_op, check_script
from .layers import check_layer, check_resets, check_what_a_layer_keeps
from .parallel import (
    check_captured_training,
    check_current_stream,
    check_device_error,
    check_distributed,
    check_replicas,
    check_split_scan,
)
from .timing import alternate, hardware, inference, keep_freed_memory, several, training_step

__all__ = [
    "CHANNELS",
    "CONTRACT",
    "STEPS",
    "Backend",
    "ScanTests",
    "alternate",
    "assert_no_worse",
    "backend_fixtures",
    "changed",
    "check_captured_training",
    "check_compile",
    "check_current_stream",
    "check_device_error",
    "check_distributed",
    "check_export",
    "check_layer",
    "check_module_contract",
    "check_op",
    "check_replicas",
    "check_resets",
    "check_script",
    "check_split_scan",
    "check_survives",
    "check_what_a_layer_keeps",
    "hardware",
    "inference",
    "keep_freed_memory",
    "poisoned_outputs",
    "relative_error",
    "saturated",
    "scans",
    "several",
    "some_sanitized",
    "strided",
    "training_step",
]
