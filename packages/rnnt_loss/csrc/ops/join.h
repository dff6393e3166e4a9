// The ops `join`: the joiner's hidden layer, tanh of a sum.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/csrc/stable/ops.h>

#include "sequences.h"

namespace rnnkit {

// Of `count` frames from `first` on, counted over the batch: [count, rows, H].
template <class Engine>
Tensor join(Tensor enc, Tensor dec, MaybeTensor boundary, MaybeTensor begin, int64_t rows, int64_t first, int64_t count) {
  STD_TORCH_CHECK(enc.dim() == 3 && dec.dim() == 3, "enc and dec: expected 3 dimensions");
  enc = contiguous(enc);
  dec = contiguous(dec);
  const int64_t batch = enc.size(0), frames = enc.size(1), width = enc.size(2), symbols = dec.size(1) - 1;
  check_contiguous(dec, enc, enc.scalar_type(), {batch, symbols + 1, width}, "dec");
  STD_TORCH_CHECK(count >= 0 && first >= 0 && first <= batch * frames - count, "first and count: out of range");
  Tensor hidden = empty(enc, {count, rows, width});
  dispatch_floating(enc.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    Join<scalar_t> p;
    fill_sequences(p, enc, batch, frames, symbols, rows, boundary, begin);
    p.width = width;
    p.first = first;
    p.count = count;
    p.enc = enc.const_data_ptr<scalar_t>();
    p.dec = dec.const_data_ptr<scalar_t>();
    p.hidden = hidden.mutable_data_ptr<scalar_t>();
    Engine::run(p, enc);
  });
  return hidden;
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
  STD_TORCH_CHECK(first >= 0 && first <= batch * frames - count, "first: out of range");
  dispatch_floating(hidden.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    JoinBackward<scalar_t> p;
    fill_sequences(p, hidden, batch, frames, symbols, rows, boundary, begin);
    p.width = width;
    p.first = first;
    p.count = count;
    p.grad_hidden = grad_hidden.const_data_ptr<scalar_t>();
    p.hidden = hidden.const_data_ptr<scalar_t>();
    p.grad_enc = grad_enc.mutable_data_ptr<acc>();
    p.grad_dec = grad_dec.mutable_data_ptr<acc>();
    Engine::run(p, hidden);
  });
}

}  // namespace rnnkit
