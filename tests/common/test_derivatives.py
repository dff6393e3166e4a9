"""What torch is told of an op."""

from __future__ import annotations

import pytest
import torch
from rnnkit_common.derivatives import register_shapes


def test_a_gpus_tensors_are_refused_in_plain_words_where_no_kernel_was_built() -> None:
    library = torch.library.Library("rnnkit_nothing", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: 2 * x, "CPU")
    register_shapes("rnnkit_nothing::twice", torch.empty_like)
    twice = torch.ops.rnnkit_nothing.twice.default
    with pytest.raises(NotImplementedError, match=r"^nothing: this installation has no CUDA kernels.* see the README"):
        twice.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), torch.ones(2))
    assert twice(torch.ones(2)).tolist() == [2, 2]
    assert twice(torch.ones(2, device="meta")).shape == (2,)
