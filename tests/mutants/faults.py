"""Faults to plant in the sources, one at a time: `nox -s mutants` tells which of them the tests find.

A fault is one or more edits of one file, each a text that stands there exactly once and what takes its place. What has to be
compiled again follows from the file's folder. A fault is looked for in the tests of its family; of what all families share, in
those of the families named.
"""

from __future__ import annotations

import dataclasses

COMMON = "packages/common/src/rnnkit_common"
CPU, CUDA = f"{COMMON}/include/rnnkit/cpu", f"{COMMON}/include/rnnkit/cuda"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One planted fault."""

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    families: tuple[str, ...] = ()  # whose tests have to find it; default: the file's

    @property
    def suites(self) -> tuple[str, ...]:
        """The folders of tests."""
        return self.families or (self.file.split("/")[1],)


def fault(name: str, file: str, *edits: str, families: str = "") -> Fault:
    """`edits`: old, new, old, new, ..."""
    pairs = tuple(zip(edits[::2], edits[1::2], strict=True))
    return Fault(name, file, pairs, tuple(families.split()))


_CPU_SCAN = f"{CPU}/scan.h"
_CUDA_FORWARD, _CUDA_BACKWARD, _CUDA_TILE, _CUDA_EXCHANGE, _CUDA_PLANES = (
    f"{CUDA}/scan_{n}.h" for n in ("forward", "backward", "tile", "exchange", "planes")
)
_TENSORS = f"{COMMON}/include/rnnkit/scan_tensors.h"
_SCAN_OPS = f"{COMMON}/include/rnnkit/scan_ops.h"
_CHECKS, _MODES, _LAYOUTS, _DISTRIBUTED = (f"{COMMON}/{name}.py" for name in ("checks", "modes", "tensors", "distributed"))
_LAYER, _LAYERS, _DERIVATIVES = f"{COMMON}/include/rnnkit/layer.h", f"{COMMON}/layers.py", f"{COMMON}/derivatives.py"

_DIRECT, _PRODUCTS, _PRODUCT = (f"{COMMON}/include/rnnkit/{n}.h" for n in ("direct", "products", "cpu/product"))

WITHOUT_THE_DISPATCHER = [
    fault(
        "memory that is not what a tensor's values are is read",
        _DIRECT,
        "if (lent.dim() != 3 || !transposed(lent, 0, 1).is_contiguous())",
        "if (lent.dim() != 3)",
        families="mingru",
    ),
    fault(
        "a tensor of a subclass is taken for its memory",
        _DIRECT,
        "if (!Torch::get().is_plain(object) || Torch::get().read(object, &description) != 0)",
        "if (Torch::get().read(object, &description) != 0)",
        "held.get() == nullptr || !Torch::get().is_plain(held.get())",
        "held.get() == nullptr",
        families="mingru",
    ),
    fault(
        "an error of the direct way comes up in a later call",
        _DIRECT,
        "    PyErr_Clear();\n    return Object::borrow(Torch::get().none);",
        "    return Object::borrow(Torch::get().none);",
        families="mingru",
    ),
    fault(
        "a view is handed out as what it is a view of",
        _DIRECT,
        "if (same) return",
        "if (made.dim == t.dim()) return",
        families="qrnn",
    ),
    fault(
        "a small product forgets its bias where there are few rows",
        _PRODUCT,
        "p.bias != nullptr ? p.bias[c + j] : T(0)",
        "T(0)",
        families="mingru",
    ),
    fault(
        "packing leaves out the columns that are no whole four",
        _PRODUCT,
        "for (int64_t k = j < whole ? deep : 0; k < depth; ++k)",
        "for (int64_t k = deep; k < depth; ++k)",
        families="mingru",
    ),
    fault("small sums go over what was there", _PRODUCTS, "std::fill(sums.begin(), sums.end(), 0.);", "", families="sru"),
    fault(
        "a mode does not see small calls",
        _MODES,
        "return _mode_count() == 0 and _function",
        "return _function",
        families="mingru",
    ),
    fault(
        "a profile does not show small calls",
        _MODES,
        " and not _is_profiled()",
        "",
        families="mingru",
    ),
    fault(
        "a small layer's running variance is that of the batch",
        "packages/ligru/csrc/layer.h",
        "(var[c] / double(rows - 1) - running_var[c])",
        "(var[c] / double(rows) - running_var[c])",
    ),
    fault(
        "in evaluation a small layer's gradient goes through the batch's mean",
        "packages/ligru/csrc/layer.h",
        "norm.training ? T(1) / T(rows) : T(0)",
        "T(1) / T(rows)",
    ),
    fault(
        "a last state has any shape that is asked for",
        "packages/common/src/rnnkit_common/include/rnnkit/scan_ops.h",
        "into->numel() == t.batch * t.channels",
        "true",
        families="mingru",
    ),
    fault("a small loss forgets FastEmit", "packages/rnnt_loss/csrc/ops/loss.h", "acc(label_weight));", "acc(1));"),
    fault(
        "the mean of small losses has the gradient of their sum",
        "packages/rnnt_loss/csrc/ops/loss.h",
        "-weight * (way == Reduction::mean ? of_loss / acc(batch) : of_loss)",
        "-weight * of_loss",
    ),
]

SCAN_ON_THE_CPU = [
    fault(
        "the state is kept a step late",
        _CPU_SCAN,
        "if (p.carries != nullptr && s % kCarry == 0)",
        "if (p.carries != nullptr && s % kCarry == 1)",
        families="mingru",
    ),
    fault(
        "the first step of padding keeps its output",
        _CPU_SCAN,
        "for (int64_t t = tile.length; t < p.steps; ++t) std::fill_n(p.out",
        "for (int64_t t = tile.length + 1; t < p.steps; ++t) std::fill_n(p.out",
        families="mingru",
    ),
    fault(
        "gradients of padding are not written",
        _CPU_SCAN,
        "for (int64_t t = tile.length; t < p.steps; ++t) clear(tile, t);",
        "for (int64_t t = p.steps; t < p.steps; ++t) clear(tile, t);",
        families="qrnn",
    ),
    fault(
        "the last state is that of the first chunk",
        _CPU_SCAN,
        "q < group.sequences && chunk + 1 == tiling.chunks; ++q)",
        "q < group.sequences && chunk == 0; ++q)",
        families="mingru",
    ),
    fault(
        "a chunk does not see the one before it",
        _CPU_SCAN,
        "for (int64_t earlier = 0; earlier < chunk; ++earlier)",
        "for (int64_t earlier = 0; earlier + 1 < chunk; ++earlier)",
        families="mingru",
    ),
    fault(
        "a chunk's aggregate goes on over a reset",
        _CPU_SCAN,
        "        std::fill_n(total.a, tile.width, acc(0));\n",
        "",
        families="mingru",
    ),
    fault(
        "gradients cross a reset",
        _CPU_SCAN,
        "factors.a = reset ? M::set(0) : a;",
        "factors.a = a;",
        families="mingru",
    ),
    fault(
        "the gradient of the last state is ignored",
        _CPU_SCAN,
        "past[c] = p.grad_h_last == nullptr ? acc(0) : p.grad_h_last[tile.b * p.channels + tile.d + c];",
        "past[c] = acc(0);",
        families="qrnn",
    ),
    fault(
        "the gradient of h0 is that of the last chunk",
        _CPU_SCAN,
        "if (chunk == 0) std::copy_n(past,",
        "if (chunk + 1 == tiling.chunks) std::copy_n(past,",
        families="mingru",
    ),
    fault(
        "sums of parameters come from the first chunk alone",
        _CPU_SCAN,
        "sums.data() + sums_offset(task, chunk, j);",
        "sums.data() + sums_offset(task, 0, j);",
        families="sru",
    ),
    fault(
        "the gradient that the output sends to the state before is lost in a chunk's aggregate",
        _CPU_SCAN,
        "if constexpr (Kind::kOutputSeesPrevious) b += factors.to_h_prev[0];",
        "",
        families="sru",
    ),
    fault(
        "the last vector of a tile is stored whole",
        _CPU_SCAN,
        "        M::store(out + c, state, n);\n",
        "        M::store(out + c, state);\n",
        families="mingru",
    ),
    fault(
        "states are rounded to the tensors' type",
        _CPU_SCAN,
        "      M::store(h + c, state);\n      if constexpr (Kind::kOutputPlanes == 0)",
        "      scalar_t rounded[M::kLanes];\n      M::store(rounded, state);\n      M::store(h + c, M::load(rounded));\n"
        "      if constexpr (Kind::kOutputPlanes == 0)",
        families="mingru",
    ),
    fault(
        "a sequence that goes backward fetches the state of another step",
        f"{COMMON}/include/rnnkit/scan.h",
        "return reverse && s < length ? length - 1 - s : s;",
        "return reverse && s < length ? length - s : s;",
        families="qrnn",
    ),
]

VECTOR_MATHEMATICS = [
    fault(
        "exponentials go on below the smallest normal number",
        f"{CPU}/math.h",
        "kMinExp = -87.0f",
        "kMinExp = -120.0f",
        families="common",
    ),
    fault("a series is one term short", f"{CPU}/math.h", "kExpTerms = 7,", "kExpTerms = 5,", families="common"),
    fault(
        "bfloat16 is rounded away from zero at ties",
        f"{CPU}/math.h",
        "(bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16",
        "(bits + 0x8000u) >> 16",
        families="common",
    ),
    fault(
        "a NaN may become infinite in bfloat16",
        f"{CPU}/math.h",
        "U32(x == x) ? rounded : (bits >> 16) | 0x40u, U16)",
        "rounded, U16)",
        families="common",
    ),
    fault(
        "tanh loses its relative accuracy near 0",
        f"{CPU}/math.h",
        "const V m = power * expm1_r + (power - T(1));",
        "const V m = power * (expm1_r + T(1)) - T(1);",
        families="common",
    ),
    fault(
        "sin of large numbers is reduced as that of small",
        f"{CPU}/math.h",
        "kMaxSin = 8192.0f",
        "kMaxSin = 1e9f",
        families="common",
    ),
]

SCAN_ON_CUDA = [
    fault(
        "no barrier before the chunks' maps are read",
        _CUDA_EXCHANGE,
        "    store(threadIdx.y, mine);\n    __syncthreads();",
        "    store(threadIdx.y, mine);",
        families="mingru",
    ),
    fault(
        "no barrier before the blocks' maps are read",
        _CUDA_EXCHANGE,
        "if (in_cluster()) return cluster_barrier();",
        "if (in_cluster()) return;",
        families="mingru",
    ),
    fault(
        "no barrier before what enters the chunks is read",
        _CUDA_EXCHANGE,
        "    __syncthreads();\n    RNNKIT_UNROLL\n    for (int c = 0; c < channels; ++c) entering",
        "    RNNKIT_UNROLL\n    for (int c = 0; c < channels; ++c) entering",
        families="mingru",
    ),
    fault(
        "no barrier before what other blocks showed is read",
        _CUDA_EXCHANGE,
        "load_shared_global(on_board(block, i));\n    }\n    __syncthreads();",
        "load_shared_global(on_board(block, i));\n    }",
        families="mingru",
    ),
    fault("one set of buffers instead of two in turn", _CUDA_EXCHANGE, "meetings_ & 1", "meetings_ & 0", families="mingru"),
    fault(
        "blocks that share through global memory do not wait for all",
        _CUDA_EXCHANGE,
        "meetings_ * unsigned(sharing_.blocks)",
        "meetings_ * unsigned(sharing_.blocks) - 1",
        families="mingru",
    ),
    fault(
        "a sum leaves out all blocks but the first",
        _CUDA_EXCHANGE,
        "for (int block = 1; block < sharing_.blocks; ++block)",
        "for (int block = 1; block < 1; ++block)",
        families="sru",
    ),
    fault(
        "no barrier before the chunks' sums are read",
        _CUDA_EXCHANGE,
        "    store(threadIdx.y, values);\n    __syncthreads();",
        "    store(threadIdx.y, values);",
        families="sru",
    ),
    fault(
        "steps beyond the end act on the state",
        _CUDA_FORWARD,
        "if (!none && marks.skip(i)) {",
        "if (!none && marks.pad(i)) {",
        families="mingru",
    ),
    fault(
        "a reset begins at 0",
        _CUDA_FORWARD,
        "b[c][i] += a[c][i] * p.initial;",
        "",
        families="mingru",
    ),
    fault(
        "a thread's entering state has a chunk of its block too many",
        _CUDA_EXCHANGE,
        "          *row(chunk, 2 * c) = through[c];\n          through[c] = applied(next, through[c]);",
        "          through[c] = applied(next, through[c]);\n          *row(chunk, 2 * c) = through[c];",
        families="qrnn",
    ),
    fault(
        "the adjoint's map leaves out the gradients",
        _CUDA_BACKWARD,
        "adjoint(i, c, map[c].b + grad[c][i])}",
        "adjoint(i, c, map[c].b)}",
        families="mingru",
    ),
    fault(
        "gradients of padding are not written",
        _CUDA_BACKWARD,
        "for (int j = 0; j < planes; ++j) zero_padding(p.grad_in[j]",
        "for (int j = 1; j < planes; ++j) zero_padding(p.grad_in[j]",
        families="mingru",
    ),
    fault(
        "padding of interleaved planes is taken as that of plain ones",
        _CUDA_BACKWARD,
        "zero_padding(p.grad_in[j], p, at, length, channel_stride<Kind>(j));",
        "zero_padding(p.grad_in[j], p, at, length);",
        families="sru",
    ),
    fault(
        "lengths are not checked",
        _CUDA_TILE,
        'if (length < 0 || length > p.steps) device_fail("lengths: a value is not within 0 and T");',
        "",
        families="mingru",
    ),
    fault(
        "padding changes the state of a serial scan",
        _CUDA_FORWARD,
        "h[c] = skip ? h[c] : after;",
        "h[c] = after;",
        families="sru",
    ),
    fault(
        "h0 is ignored",
        _CUDA_FORWARD,
        "load_states(state, from_offset(p.h0, int64_t(at.b) * p.channels + at.d), at.valid, p.initial);",
        "load_states(state, from_offset(p.h0, 0), 0, p.initial);",
        families="qrnn",
    ),
    fault(
        "the carry of a tile is the state that enters the block",
        _CUDA_FORWARD,
        "      if (p.carries != nullptr) store_states(p.carries + p.carry_offset(at.b, s, kCarryCuda) + at.d, h, at.valid);",
        "      if (p.carries != nullptr) store_states(p.carries + p.carry_offset(at.b, s, kCarryCuda) + at.d, state, at.valid);",
        families="mingru",
    ),
    fault(
        "a reset does not reach the gradient of the state before",
        _CUDA_BACKWARD,
        "          if (reset) a[c][i] = 0;\n",
        "",
        families="mingru",
    ),
    fault(
        "words are read where channels lie at odd places",
        _CUDA_PLANES,
        "reinterpret_cast<uintptr_t>(row.data - within) % size == 0 && ",
        "",
        families="mingru",
    ),
    fault(
        "a thread takes channels of two directions",
        _CUDA_PLANES,
        "bool packed = p.channels % channels == 0 && p.reverse_from % channels == 0;",
        "bool packed = p.channels % channels == 0;",
        families="mingru",
    ),
    fault(
        "backward goes up in memory, too, where words are read",
        _CUDA_PLANES,
        "stride = at.reverse ? 0 - step : step;",
        "stride = step;",
        families="mingru",
    ),
    fault(
        "interleaved words are one word apart from those that are read",
        _CUDA_PLANES,
        "at.b * row.batch_stride + (j - group) * kChannels",
        "at.b * row.batch_stride + (j - group)",
        families="sru",
    ),
    fault(
        "backward, a mark cuts behind its step instead of before it",
        f"{COMMON}/include/rnnkit/scan.h",
        "return before < length && reset[b * steps + before];",
        "return reset[b * steps + t];",
        families="mingru",
    ),
    fault(
        "a reset multiplies what is infinite by 0",
        f"{COMMON}/include/rnnkit/scan.h",
        "return a == 0 || h == 0 ? b : a * h + b;",
        "return a * h + b;",
        families="qrnn",
    ),
]

TENSORS_AND_DERIVATIVES = [
    fault(
        "a plane's place counts those of the tensors before",
        _TENSORS,
        "interleaved ? j - before : (j - before) * channels",
        "interleaved ? j - before : j * channels",
        families="mingru",
    ),
    fault(
        "arguments that were left out are missing in Python's kernels",
        _DERIVATIVES,
        "return lambda arguments: (*arguments, *defaults[len(arguments) :])",
        "return lambda arguments: arguments",
        families="mingru",
    ),
    fault(
        "an op that is differentiated keeps nothing unless it was asked to",
        _DERIVATIVES,
        "if not rest[-1]:",
        "if False:",
        families="mingru",
    ),
    fault(
        "h0 does not reach the kernel",
        _SCAN_OPS,
        "p.h0 = h0 ? h0->template const_data_ptr<acc>() : nullptr;",
        "p.h0 = nullptr;",
        families="qrnn",
    ),
    fault(
        "outputs do not lie as the planes do",
        _TENSORS,
        "return time_major_ ? Sizes",
        "return false ? Sizes",
        families="mingru",
    ),
    fault(
        "strides of planes are those of a contiguous tensor",
        _TENSORS,
        "return {static_cast<T*>(t.data_ptr()) + offset, t.stride(0), t.stride(1)};",
        "return {static_cast<T*>(t.data_ptr()) + offset, t.size(1) * t.size(2), t.size(2)};",
        families="mingru",
    ),
    fault(
        "second derivatives forget h0",
        f"{COMMON}/derivatives.py",
        "given = (True, grad_h_last is not None, h0 is not None)",
        "given = (True, grad_h_last is not None, False)",
        families="mingru",
    ),
    fault(
        "an expanded gradient of the last state is handed on as it is",
        f"{COMMON}/derivatives.py",
        "                grad_h_last = grad_h_last.contiguous()\n            arguments",
        "                grad_h_last = grad_h_last\n            arguments",
        families="qrnn",
    ),
    fault("lengths beyond T are let through", _CHECKS, "if low < 0 or high > steps:", "if low < 0:", families="mingru"),
    fault(
        "torch.func's transforms are not noticed",
        _MODES,
        "return forward_ad._current_level >= 0 or bool(torch._C._are_functorch_transforms_active())",
        "return forward_ad._current_level >= 0",
        families="mingru",
    ),
    fault(
        "a layer whose input is time-major takes it for batch-major in the product alone",
        _LAYER,
        "order.back(linear<Engine>(order.of(x), weight, bias, false))",
        "order.back(linear<Engine>(x, weight, bias, false))",
        families="mingru sru",
    ),
    fault(
        "a layer takes sequences by time for sequences by batch",
        _LAYER,
        "return batch_first ? sequences : transposed(sequences, 0, 1);",
        "return sequences;",
        families="mingru",
    ),
    fault(
        "the sums of two parameters change places",
        f"{COMMON}/include/rnnkit/scan.h",
        "return j < Kind::kStateSums ? 2 * j : 2 * (j - Kind::kStateSums) + 1;",
        "return j;",
        families="sru",
    ),
    fault(
        "a step of a stack begins every layer with the state of the first",
        _SCAN_OPS,
        "return view_strided(stack, {batch, channels}, {channels, 1}, i * batch * channels);",
        "return view_strided(stack, {batch, channels}, {channels, 1}, 0);",
        families="mingru",
    ),
    fault(
        "a layer's weight is given the gradient of its bias only if it has one",
        _LAYER,
        "needs.weight ? transposed_product",
        "needs.weight && needs.bias ? transposed_product",
        families="qrnn",
    ),
    fault(
        "autocast makes the products of a layer's backward",
        _LAYERS,
        "            with without_autocast(planes.device):  # which would take the products for its own\n",
        "            if True:\n",
        families="mingru",
    ),
    fault(
        "an op takes the place of a product that torch has to see",
        _MODES,
        "return not (_autocasts() or ",
        "return not (",
        families="qrnn",
    ),
    fault(
        "forward mode is not noticed",
        _MODES,
        "return forward_ad._current_level >= 0 or bool(torch._C._are_functorch_transforms_active())",
        "return bool(torch._C._are_functorch_transforms_active())",
        families="mingru",
    ),
    fault(
        "a piece of a split scan begins with the state of the next",
        _DISTRIBUTED,
        "            mine = state\n",
        "            mine = a * state + b\n",
        families="mingru",
    ),
    fault(
        "tracing is told of another number of carries",
        _DERIVATIVES,
        "return h_last.new_empty(batch, (steps + steps_per_carry - 1) // steps_per_carry * width)",
        "return h_last.new_empty(batch, (steps + 31) // 32 * width)",
        families="mingru",
    ),
    fault(
        "a gradient of h0 alone is not foreseen",
        _MODES,
        "wants = h0 is not None and h0.requires_grad",
        "wants = False",
        families="qrnn",
    ),
    fault(
        "what dropout keeps is not scaled",
        _LAYOUTS,
        "return torch.bernoulli(keep) / (1.0 - p)",
        "return torch.bernoulli(keep)",
        families="sru ligru",
    ),
    fault("a state's device is not checked", _CHECKS, "if h.device != x.device:", "if False:", families="mingru"),
]

_CELL, _MODULES = "packages/{}/csrc/cell.h", "packages/{0}/src/{0}/modules.py"
_LAYER = "packages/{0}/src/{0}/layer.py"

MINGRU = [
    fault(
        "the slope of the candidate below 0 is the candidate",
        _CELL.format("mingru"),
        "dc = M::select(v >= T(0), one(), sigmoid * complement);",
        "dc = M::select(v >= T(0), one(), sigmoid);",
    ),
    fault(
        "minLSTM's gates underflow together",
        _CELL.format("mingru"),
        "M::select(x[0] >= x[1], one(), ratio)",
        "ef",
        "M::select(x[0] >= x[1], ratio, one())",
        "ei",
    ),
    fault(
        "identity and tanh are exchanged",
        "packages/mingru/csrc/options.h",
        "enum class Activation { g, identity, tanh };",
        "enum class Activation { g, tanh, identity };",
    ),
    fault(
        "the residual is the normalised input",
        _LAYER.format("mingru"),
        "out = out + self.res_align(x)\n        if self.dropout is not None:\n            out = self.dropout(out)\n        return out, h_last.view(",
        "out = out + self.res_align(y)\n        if self.dropout is not None:\n            out = self.dropout(out)\n        return out, h_last.view(",
    ),
    fault(
        "batch_first is False by default",
        _MODULES.format("mingru"),
        "        batch_first: bool = True,",
        "        batch_first: bool = False,",
    ),
    fault(
        "both directions begin with the state of the first",
        _LAYER.format("mingru"),
        "h0 = h[direction, :, 0",
        "h0 = h[0, :, 0",
    ),
    fault(
        "padding reaches the weights' gradients",
        _MODULES.format("mingru"),
        "            x = x.masked_fill(padding, 0.0)  # NaN there must not reach the weights' gradients\n",
        "",
    ),
    fault(
        "minGRU-pytorch's rows are taken in its order",
        "packages/mingru/src/mingru/convert.py",
        '"layers.0.gate_hidden", (1, 0))',
        '"layers.0.gate_hidden", (0, 1))',
    ),
    fault(
        "a stream begins at 0",
        "packages/mingru/src/mingru/functional.py",
        "return torch.ops.rnnkit_mingru.step(planes, h, cell_name(gates), activation, start)",
        "return torch.ops.rnnkit_mingru.step(planes, h, cell_name(gates), activation, 0.0)",
    ),
    fault(
        "dropout after the last layer too",
        _MODULES.format("mingru"),
        "                    dropout=dropout if i + 1 < len(sizes) else 0.0,\n                    activation=activation,\n                    device=device,",
        "                    dropout=dropout,\n                    activation=activation,\n                    device=device,",
    ),
    fault(
        "every state dict without an alignment is one of 1.4",
        "packages/mingru/src/mingru/convert.py",
        'all(prefix + key in state_dict for key in own if not key.startswith("layers.0.res_align."))',
        'any(prefix + key in state_dict for key in own if not key.startswith("layers.0.res_align."))',
    ),
]

_FUNCTIONAL = "packages/{0}/src/{0}/functional.py"

QRNN = [
    fault(
        "a window reaches across a reset",
        _LAYER.format("qrnn"),
        "since = since | torch.cat(shifted, 1)",
        "since = since & torch.cat(shifted, 1)",
    ),
    fault(
        "inputs from before a reset are kept for the next piece",
        _LAYER.format("qrnn"),
        "kept = kept.masked_fill(self._left_behind(marks, lengths).unsqueeze(2), 0.0)",
        "kept = kept",
    ),
    fault(
        "a step in one op forgets zoneout's factor",
        "packages/qrnn/src/qrnn/modules.py",
        "if layer.window > 1 or layer.zoneout > 0.0:",
        "if layer.window > 1:",
    ),
    fault(
        "zoneout keeps half as often",
        "packages/qrnn/csrc/family.h",
        "int32_t(zoneout * (1 << 24) + 0.5)",
        "int32_t(zoneout * (1 << 23) + 0.5)",
    ),
    fault(
        "all sequences draw the same bits",
        f"{COMMON}/include/rnnkit/philox.h",
        "M::count_from(uint32_t(at.d)), U{} + uint32_t(at.b),",
        "M::count_from(uint32_t(at.d)), U{},",
        families="qrnn",
    ),
    fault("the slope of the input gate is 1", _CELL.format("qrnn"), "d[2] = b * rest;", "d[2] = b;"),
    fault(
        "the slope of the output gate is its value",
        _CELL.format("qrnn"),
        "d[0] = grad_out * c * (o * rest);",
        "d[0] = grad_out * c * o;",
    ),
    fault(
        "a window that goes backward looks back", _LAYER.format("qrnn"), "(j if self.backward else past - j)", "(past - j)"
    ),
    fault(
        "what is saved of a sequence ignores its length",
        _LAYER.format("qrnn"),
        "            if ends is not None and not self.backward:",
        "            if False:",
    ),
    fault(
        "saved inputs keep their graph",
        _LAYER.format("qrnn"),
        "self.prevX = kept.detach().clone()",
        "self.prevX = kept.clone()",
    ),
    fault(
        "zoneout does not scale outside of training",
        _FUNCTIONAL.format("qrnn"),
        "            scale = 1.0 - zoneout\n",
        "            scale = 1.0\n",
    ),
    fault("directions are joined at the top alone", _MODULES.format("qrnn"), 'if self.join == "layer" or top:', "if top:"),
    fault("fo-pooling has no output gate", _LAYER.format("qrnn"), '("fo" if output_gate else "f")', '"f"'),
]

SRU = [
    fault(
        "the mask acts on the highway's gradient otherwise",
        _CELL.format("sru"),
        "const V highway = grad_out - masked * r;",
        "const V highway = grad_out - grad_out * r;",
    ),
    fault(
        "the peephole is missing in dc/dc_prev",
        _CELL.format("sru"),
        "    if constexpr (peephole != Peephole::none) a += v_f(own, x) * d[kFirst + 1];\n",
        "",
    ),
    fault(
        "the reset gate sends nothing to the state before",
        _CELL.format("sru"),
        "to_c_prev = d[0] * v_r(own, x);",
        "to_c_prev = M::set(0);",
    ),
    fault(
        "alpha is missing in the highway's gradient",
        _CELL.format("sru"),
        "d[1] = skip == Skip::input ? highway * own.scale : highway;",
        "d[1] = highway;",
    ),
    fault("the gradient of v_r forgets c", _CELL.format("sru"), "sums[1] += grad[0] * c_prev;", "sums[1] += grad[0];"),
    fault(
        "both halves go forward",
        _SCAN_OPS,
        "return channels / 2;",
        "return channels;",
        families="sru",
    ),
    fault(
        "attention goes where the padding is",
        "packages/sru/src/sru/attention.py",
        "valid = ~pad.unsqueeze(1).unsqueeze(1)",
        "valid = pad.unsqueeze(1).unsqueeze(1)",
    ),
    fault(
        "alpha is missing in the attention",
        "packages/sru/src/sru/attention.py",
        "out = residual + self.alpha * attended",
        "out = residual + attended",
    ),
    fault(
        "states are not told apart by direction",
        "packages/sru/src/sru/states.py",
        "c.unflatten(1, [directions, c.shape[1] // directions]).transpose(0, 1)",
        "c.view(directions, c.shape[0], c.shape[1] // directions)",
    ),
    fault(
        "the product adds nothing to the gradient of x",
        "packages/sru/csrc/ops.h",
        "order.back(add_linear<Engine>(order.of(grads.inputs[1]), order.of(grads.inputs[0]), *weight))",
        "grads.inputs[1]",
    ),
    fault(
        "rescale is True by default",
        _MODULES.format("sru"),
        "        rescale: bool = False,",
        "        rescale: bool = True,",
    ),
    fault(
        "a dropped-out weight is not scaled at the start",
        "packages/sru/src/sru/cell.py",
        "            w[..., 0] *= (1 - self.dropout) ** 0.5\n",
        "",
    ),
]

LIGRU = [
    fault(
        "a reset does not reach the next product",
        "packages/ligru/csrc/cpu/forward.h",
        "const V carried = row.begins(s + 1) ? V{} : fresh;",
        "const V carried = fresh;",
    ),
    fault(
        "a gradient passes a reset",
        "packages/ligru/csrc/cuda/resident_backward.h",
        "grad_h[i] = now[i].begins ? 0.0f : grad_h[i] + reaching;",
        "grad_h[i] = grad_h[i] + reaching;",
    ),
    fault(
        "a step that begins anew multiplies the state before",
        "packages/ligru/csrc/cuda/steps.h",
        "return begins ? acc(0) : acc(step.product[r * 2 * units + j]);",
        "return acc(step.product[r * 2 * units + j]);",
    ),
    fault(
        "threads do not wait at the end of a step",
        "packages/ligru/csrc/cpu/team.h",
        "done_.load() >= n * seats_",
        "done_.load() >= (n - 1) * seats_",
    ),
    fault(
        "who sleeps is not woken",
        "packages/ligru/csrc/cpu/team.h",
        "if (asleep_.load() > 0) wake();",
        "",
    ),
    fault(
        "products are not freed of their mean",
        "packages/ligru/csrc/cpu/forward.h",
        "static_cast<acc>(from[k]) - mean[k]",
        "static_cast<acc>(from[k])",
    ),
    fault(
        "a row that has not ended is not multiplied",
        "packages/ligru/csrc/cpu/pass.h",
        "p.row(order[end - 1]).length <= s",
        "p.row(end - 1).length <= s",
    ),
    fault(
        "pairs of bfloat16 lie one after the other",
        "packages/ligru/csrc/cpu/product.h",
        "lane * kPair<T> + k % kPair<T>",
        "lane + k % kPair<T> * 2 * M::kLanes",
    ),
    fault(
        "the rounded state is a step old",
        "packages/ligru/csrc/cpu/forward.h",
        "M::store(factors[(s + 1) % 2] + r * stride + unit, carried, n)",
        "M::store(factors[s % 2] + r * stride + unit, carried, n)",
    ),
    fault(
        "a chain of few rows is left out",
        "packages/ligru/csrc/cpu/product.h",
        "for (int c = 1; c < kChains; ++c) {",
        "for (int c = 2; c < kChains; ++c) {",
    ),
    fault("eps is left out", "packages/ligru/csrc/cpu/forward.h", "/ (2 * units) + p.eps);", "/ (2 * units));"),
    fault("leaky_relu leaks ten times as much", _CELL.format("ligru"), "kLeak = T(0.01);", "kLeak = T(0.1);"),
    fault(
        "the update gate's gradient forgets the mask",
        _CELL.format("ligru"),
        "grad_z = (h - activated * mask)",
        "grad_z = (h - activated)",
    ),
    fault(
        "h0 is not what was there before the first step",
        "packages/ligru/csrc/cpu/backward.h",
        "this->load_or(p.h0, order[r] * units + unit, n, 0);",
        "V{};",
    ),
    fault(
        "the normalisation's gradient misses what is along it",
        "packages/ligru/csrc/cpu/backward.h",
        " - mean.grad - M::load(p.normal + at + j, n) * mean.along) * rstd;",
        " - mean.grad) * rstd;",
    ),
    fault(
        "only the first part of k is summed",
        "packages/ligru/csrc/cuda/product.h",
        "    for (int part = 0; part < parts(); ++part) total += sums[part * part_values() + n * outputs + m];",
        "    total += sums[n * outputs + m];",
    ),
    fault(
        "a second register of TF32 is where 16-bit numbers have it",
        "packages/ligru/csrc/cuda/product.h",
        "(from + 4 * Shape::kPair)",
        "(from + 8)",
    ),
    fault(
        "float32 is shortened to TF32 unasked",
        "packages/ligru/csrc/cuda/ligru_cuda.cu",
        "const bool tf32 = in.tf32 && ",
        "const bool tf32 = ",
    ),
    fault(
        "no barrier before a message is complete",
        "packages/ligru/csrc/cuda/resident.h",
        "    __syncthreads();  // own() is complete\n",
        "",
    ),
    fault(
        "blocks go on to the next rows without waiting",
        "packages/ligru/csrc/cuda/resident_forward.h",
        "    member.finish();\n",
        "",
    ),
    fault(
        "blocks go on to the next rows without waiting, backward",
        "packages/ligru/csrc/cuda/resident_backward.h",
        "    member.finish();\n",
        "",
    ),
    fault(
        "what no unit writes is NaN",
        "packages/ligru/csrc/cuda/resident_forward.h",
        "      member.x(1)[n * member.product.x_stride() + k] = Operand(0.0f);  // what no unit writes must not be NaN\n",
        "",
    ),
    fault(
        "lengths are not checked by a step of backward",
        "packages/ligru/csrc/cuda/steps.h",
        "  const auto row = checked_row(p, r);\n  const bool active",
        "  const auto row = p.row(r);\n  const bool active",
    ),
    fault(
        "no barrier before a sum overwrites what others read",
        "packages/ligru/csrc/cuda/steps.h",
        "  __syncthreads();  // what this memory held before has been read\n",
        "",
    ),
    fault(
        "the running variance is the biased one",
        _LAYER.format("ligru"),
        "unbiased = var * count / (count - 1).clamp(min=1)",
        "unbiased = var",
    ),
    fault(
        "the running mean is added in evaluation",
        _LAYER.format("ligru"),
        "shift = -norm.running_mean * scale",
        "shift = norm.running_mean * scale",
    ),
    fault(
        "the momentum is nn.BatchNorm1d's",
        _LAYER.format("ligru"),
        "nn.BatchNorm1d(width, momentum=0.05, ",
        "nn.BatchNorm1d(width, ",
    ),
    fault(
        "all layers begin with the first one's state",
        _MODULES.format("ligru"),
        "hx[layer * self.num_directions : (layer + 1) * self.num_directions]",
        "hx[: self.num_directions]",
    ),
    fault(
        "SpeechBrain's random masks are not dropped",
        _LAYER.format("ligru"),
        'for name in ("drop_masks", "drop_mask_te", "h_init"):',
        'for name in ("drop_mask_te", "h_init"):',
    ),
]

_RNNT = "packages/rnnt_loss/csrc"

RNNT_LOSS = [
    fault("all of the best arcs are taken", f"{_RNNT}/cpu/lattice.h", "            none_yet -= chosen;\n", ""),
    fault(
        "labels may always lead to the end", f"{_RNNT}/problem.h", "in.t1 + (arc.label && !label_end ? 0 : 1)", "in.t1 + 1"
    ),
    fault(
        "a label does not pay for not being HAT's blank",
        f"{_RNNT}/cpu/joint.h",
        "if (p.mode == Mode::hat) offset += softplus(acc(z[p.blank[0]]));",
        "",
    ),
    fault(
        "clamp ignores the size of the loss's gradient",
        f"{_RNNT}/cpu/joint.h",
        "const acc bound = p.clamp * p.reaching(b, in);",
        "const acc bound = p.clamp;",
    ),
    fault(
        "gradients of padding are not written",
        f"{_RNNT}/cpu/joint.h",
        "        std::fill_n(grad, p.columns(), scalar_t(0));\n        continue;",
        "        continue;",
    ),
    fault(
        "what underflows is not summed anew",
        f"{_RNNT}/cpu/simple.h",
        "if (!(product[s] >= Simple<scalar_t>::kLeast))",
        "if (false)",
    ),
    fault(
        "the gradient of what was summed anew is lost",
        f"{_RNNT}/cpu/simple.h",
        "return p.max_lm[b * p.rows + s] + p.max_am[b * p.frames + t] - norm > -Simple<scalar_t>::kLogLeast;",
        "return false && norm > 0;",
    ),
    fault("the slope of tanh is 1 - h", f"{_RNNT}/cpu/join.h", "(M::set(1) - h * h)", "(M::set(1) - h)"),
    fault(
        "a band may fall over time",
        f"{_RNNT}/cpu/ranges.h",
        "        least = std::min(least, begin[t]);\n",
        "        least = begin[t];\n",
    ),
    fault(
        "no barrier after a diagonal",
        f"{_RNNT}/cuda/lattice.h",
        "          steps[u] = fetch<forward>(diagonal(next), slot_);\n        }\n        __syncthreads();",
        "          steps[u] = fetch<forward>(diagonal(next), slot_);\n        }\n",
    ),
    fault(
        "no barrier before the way back",
        f"{_RNNT}/cuda/lattice.h",
        "    __syncthreads();\n    fill(0);",
        "    fill(0);",
    ),
    fault(
        "each of a node's threads has a best arc of its own",
        f"{_RNNT}/cuda/lattice.h",
        "winner = -group_most<kLanes>(-winner);",
        ";",
    ),
    fault(
        "more slots than threads: the last are left out",
        f"{_RNNT}/cuda/lattice.h",
        "for (int first = 0; first < width_; first += slots)",
        "for (int first = 0; first + slots <= width_; first += slots)",
    ),
    fault(
        "the walker comes to frames that are not there yet",
        f"{_RNNT}/cuda/lattice_shared.h",
        "wanted = highest(step + 2 * kStepsAtOnce);",
        "wanted = highest(step + kStepsAtOnce);",
    ),
    fault(
        "no barrier between the parts of the way back",
        f"{_RNNT}/cuda/lattice_shared.h",
        "      done = finished;\n      __syncthreads();\n    }\n    write(t0_, done, 0);",
        "      done = finished;\n    }\n    write(t0_, done, 0);",
    ),
    fault(
        "a neighbour's lane has another neighbour",
        f"{_RNNT}/cuda/lattice_shared.h",
        "if (other_side) result[i] = before;",
        "if (other_side) result[i] = mine;",
    ),
    fault(
        "half of the warp finds the maximum",
        f"{_RNNT}/cuda/rows.h",
        "  for (int delta = kLanes / 2; delta > 0; delta /= 2) {\n    const acc other",
        "  for (int delta = kLanes / 4; delta > 0; delta /= 2) {\n    const acc other",
    ),
    fault(
        "lanes are added up as if they had one maximum",
        f"{_RNNT}/cuda/rows.h",
        "group_total<kLanes>(sum * B::power(most - shift))",
        "group_total<kLanes>(sum)",
    ),
    fault(
        "the columns behind the last whole pack are left out",
        f"{_RNNT}/cuda/joint.h",
        "for (int i = lane; i < columns.edges(); i += kLanes)",
        "for (int i = lane; i < columns.head; i += kLanes)",
    ),
    fault(
        "the label's logit is read after it was written over",
        f"{_RNNT}/cuda/joint.h",
        "softmax_at(at_mine)",
        "softmax_at(acc(z[mine]))",
    ),
    fault(
        "a duration does not pay for the others",
        f"{_RNNT}/cpu/joint.h",
        " - total * std::exp(acc(z[j]) - norm)",
        " - 0 * total * std::exp(acc(z[j]) - norm)",
    ),
    fault(
        "smoothing leaves out the mean",
        f"{_RNNT}/cpu/joint.h",
        "offset -= p.smoothing * mean(z, p.classes)",
        "offset -= 0 * p.smoothing * mean(z, p.classes)",
    ),
    fault(
        "a called joiner is clamped by the blank alone",
        "packages/rnnt_loss/src/rnnt_loss/_joiner.py",
        "leaving = leaving + grad_blank[:, : len(options.blanks)].sum(1)",
        "leaving = grad_blank[:, : len(options.blanks)].sum(1)",
    ),
    fault(
        "the fused joint forgets its temperature",
        "packages/rnnt_loss/src/rnnt_loss/nemo.py",
        "joint.joint_net(am + lm) / temperature",
        "joint.joint_net(am + lm)",
    ),
    fault(
        "all lanes add to the same class",
        f"{_RNNT}/cuda/simple.h",
        "if (target % 32 == lane) grad[target] += p.of_both * label;",
        "grad[target] += p.of_both * label;",
    ),
    fault(
        "the middle of a sequence is half a frame off",
        "packages/rnnt_loss/src/rnnt_loss/_solving.py",
        "((end - 1) / 2 - t)",
        "(end / 2 - t)",
    ),
    fault(
        "FastEmit weighs blanks too",
        "packages/rnnt_loss/src/rnnt_loss/recursion.py",
        "(grad, blank_occupancy)",
        "(of_label, blank_occupancy)",
    ),
    fault(
        "lm alone has no norm to be differentiated",
        f"{_RNNT}/cpu/simple.h",
        "const acc alone = -p.of_lm *",
        "const acc alone = -0 * p.of_lm *",
    ),
    fault(
        "on CUDA lm alone has no norm to be differentiated",
        f"{_RNNT}/cuda/simple.h",
        "if (of_lm && p.of_lm != 0) {",
        "if (of_lm && p.of_lm > 1) {",
    ),
    fault(
        "a band is walked from frame 0, be it the sequence's or not",
        f"{_RNNT}/cuda/lattice_shared.h",
        "    latest_ = t0_;",
        "    latest_ = 0;",
    ),
    fault(
        "nodes are left out that count for something",
        "packages/rnnt_loss/src/rnnt_loss/_nodes.py",
        "torch.finfo(size.dtype).eps / (",
        "1e-3 / (",
    ),
    fault(
        "kept rows are counted over the padding",
        "packages/rnnt_loss/src/rnnt_loss/_nodes.py",
        "if self.places is None else self.places[some]",
        "",
    ),
    fault(
        "nodes are counted in the boundary's own type",
        "packages/rnnt_loss/src/rnnt_loss/_nodes.py",
        "    lengths = lengths.long()\n",
        "",
    ),
    fault(
        "on CUDA norms that are summed again lack the last class",
        f"{_RNNT}/cuda/joint.h",
        "(z, any ? classes : 0)",
        "(z, any ? classes - 1 : 0)",
    ),
    fault(
        "of a node's gradients those of its label do not count",
        "packages/rnnt_loss/src/rnnt_loss/_nodes.py",
        "    size[..., : grad_label.shape[2]] += grad_label.abs()\n",
        "",
    ),
    fault(
        "a frame with an infinite gradient keeps that alone",
        "packages/rnnt_loss/src/rnnt_loss/_nodes.py",
        ".nan_to_num_(posinf=0.0)",
        ".nan_to_num_()",
    ),
    fault(
        "parts of nodes begin a frame late",
        "packages/rnnt_loss/src/rnnt_loss/_nodes.py",
        "return int(self.ends[frame - 1]) if frame > 0 else 0",
        "return int(self.ends[frame]) if frame > 0 else 0",
    ),
    fault(
        "on CUDA hidden rows lie where all nodes' would",
        f"{_RNNT}/cuda/join.h",
        "scalar_t* const hidden = p.hidden + p.index(b, t, k) * width;",
        "scalar_t* const hidden = p.hidden + (blockIdx.x * p.rows + k) * width;",
    ),
    fault(
        "on CUDA the last pack of a joiner's gradients is left out",
        f"{_RNNT}/cuda/join.h",
        "pack < p.width / Pack<scalar_t>::kCount; pack += blockDim.x)",
        "pack + 1 < p.width / Pack<scalar_t>::kCount; pack += blockDim.x)",
    ),
    fault(
        "an async cluster waits for what the others send, not for its own",
        "packages/ligru/csrc/cuda/resident.h",
        "await(side, vectors * layout.blocks * int(sizeof(Sixteen)));",
        "await(side, vectors * (layout.blocks - 1) * int(sizeof(Sixteen)));",
    ),
    fault(
        "an async cluster waits for the same turn each time",
        "packages/ligru/csrc/cuda/resident.h",
        "    turns_ ^= 1u << of;\n",
        "",
    ),
    fault(
        "weights of a smoothed loss add up to more than 1",
        "packages/rnnt_loss/src/rnnt_loss/simple.py",
        "blank, 1 - lm_only - am_only, lm_only)",
        "blank, 1 - lm_only, lm_only)",
    ),
    fault(
        "sigma is added",
        "packages/rnnt_loss/src/rnnt_loss/durations.py",
        "arcs = (label[:, None] - sigma, blank[:, of_blanks] - sigma, [0], durations)",
        "arcs = (label[:, None] + sigma, blank[:, of_blanks] + sigma, [0], durations)",
    ),
    fault(
        "torchaudio's blank is 0 by default",
        "packages/rnnt_loss/src/rnnt_loss/torchaudio.py",
        "    target_lengths: Tensor,\n    blank: int = -1,",
        "    target_lengths: Tensor,\n    blank: int = 0,",
    ),
    fault(
        "a mean over symbols is one over sequences",
        "packages/rnnt_loss/src/rnnt_loss/_forms.py",
        "        loss = loss / symbol_lengths.to(loss.device)\n",
        "        loss = loss / 1\n",
    ),
    fault(
        "the greedy search counts symbols of the frame before",
        "packages/rnnt_loss/src/rnnt_loss/decode.py",
        "torch.where(emits & (frame == last), count + 1, 1)",
        "torch.where(emits, count + 1, 1)",
    ),
    fault(
        "a beam keeps the better of two paths instead of their sum",
        "packages/rnnt_loss/src/rnnt_loss/decode.py",
        "high + math.log1p(math.exp(low - high)) if high > -math.inf else high",
        "high",
    ),
    fault("the pruned loss begins with its whole weight", _MODULES.format("rnnt_loss"), "0.1 + 0.9 * done", "1.0"),
    fault(
        "symbols of padding are checked",
        "packages/rnnt_loss/src/rnnt_loss/_arguments.py",
        "            wrong = wrong & (s >= boundary[:, 0, None]) & (s < boundary[:, 2, None])\n",
        "            s = s\n",
    ),
]

FAULTS = [
    *WITHOUT_THE_DISPATCHER,
    *SCAN_ON_THE_CPU,
    *VECTOR_MATHEMATICS,
    *SCAN_ON_CUDA,
    *TENSORS_AND_DERIVATIVES,
    *MINGRU,
    *QRNN,
    *SRU,
    *LIGRU,
    *RNNT_LOSS,
]
