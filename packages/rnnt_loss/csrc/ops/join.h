// The ops `join_`: the joiner's hidden layer, tanh of a sum. Hidden is [count, rows, H], of the frames from `first` on,
// counted over the batch, and of the first rows of each. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/csrc/stable/ops.h>

#include "sequences.h"

namespace rnnkit {

template <class Problem>
void fill_join(Problem& p, const Tensor& hidden, int64_t batch, int64_t frames, int64_t symbols, const MaybeTensor& boundary,
               const MaybeTensor& begin, int64_t first) {
  p.count = hidden.size(0);
  p.first = first;
  p.width = hidden.size(2);
  STD_TORCH_CHECK(first >= 0 && first <= batch * frames - p.count, "first: out of range");
  const int64_t rows = begin ? hidden.size(1) : symbols + 1;
  STD_TORCH_CHECK(hidden.size(1) <= rows, "hidden: more rows than S + 1");
  fill_sequences(p, hidden, batch, frames, symbols, rows, boundary, begin);
  p.rows = hidden.size(1);
}

template <class Engine>
void join_(Tensor hidden, Tensor enc, Tensor dec, MaybeTensor boundary, MaybeTensor begin, int64_t first) {
  STD_TORCH_CHECK(hidden.dim() == 3 && enc.dim() == 3 && dec.dim() == 3, "hidden, enc and dec: expected 3 dimensions");
  enc = contiguous(enc);
  dec = contiguous(dec);
  const int64_t batch = enc.size(0), frames = enc.size(1), width = enc.size(2), symbols = dec.size(1) - 1;
  check_contiguous(dec, enc, enc.scalar_type(), {batch, symbols + 1, width}, "dec");
  check_contiguous(hidden, enc, enc.scalar_type(), {hidden.size(0), hidden.size(1), width}, "hidden");
  dispatch_floating(enc.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    Join<scalar_t> p;
    fill_join(p, hidden, batch, frames, symbols, boundary, begin, first);
    p.enc = enc.const_data_ptr<scalar_t>();
    p.dec = dec.const_data_ptr<scalar_t>();
    p.hidden = hidden.mutable_data_ptr<scalar_t>();
    Engine::run(p, enc);
  });
}

template <class Engine>
void join_backward_(Tensor grad_hidden, Tensor hidden, MaybeTensor boundary, MaybeTensor begin, int64_t first,
                    Tensor grad_enc, Tensor grad_dec) {
  STD_TORCH_CHECK(hidden.dim() == 3 && grad_enc.dim() == 3 && grad_dec.dim() == 3, "hidden: expected 3 dimensions");
  const int64_t batch = grad_enc.size(0), frames = grad_enc.size(1), width = grad_enc.size(2), rows = hidden.size(1);
  const int64_t symbols = grad_dec.size(1) - 1, count = hidden.size(0);
  const ScalarType dtype = acc_type(hidden);
  check_contiguous(hidden, hidden, hidden.scalar_type(), {count, rows, width}, "hidden");
  check_contiguous(grad_hidden, hidden, hidden.scalar_type(), {count, rows, width}, "grad_hidden");
  check_contiguous(grad_enc, hidden, dtype, {batch, frames, width}, "grad_enc");
  check_contiguous(grad_dec, hidden, dtype, {batch, symbols + 1, width}, "grad_dec");
  dispatch_floating(hidden.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    JoinBackward<scalar_t> p;
    fill_join(p, hidden, batch, frames, symbols, boundary, begin, first);
    p.grad_hidden = grad_hidden.const_data_ptr<scalar_t>();
    p.hidden = hidden.const_data_ptr<scalar_t>();
    p.grad_enc = grad_enc.mutable_data_ptr<acc>();
    p.grad_dec = grad_dec.mutable_data_ptr<acc>();
    Engine::run(p, hidden);
  });
}

}  // namespace rnnkit
