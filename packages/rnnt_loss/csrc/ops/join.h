// The ops `join_`: the joiner's hidden layer, tanh of a sum, of the nodes of a chunk.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/csrc/stable/ops.h>

#include "sequences.h"

namespace rnnkit {

template <class Problem>
void fill_join(Problem& p, const Tensor& hidden, int64_t batch, int64_t frames, int64_t symbols, const MaybeTensor& boundary,
               const MaybeTensor& begin, const Part& part) {
  p.width = hidden.size(1);
  int64_t rows = symbols + 1;
  if (begin) rows = part.places != nullptr ? part.places->size(2) : hidden.size(0) / std::max<int64_t>(1, part.frames);
  fill_sequences(p, hidden, batch, frames, symbols, rows, boundary, begin);
  fill_chunk(p, hidden, part);
}

template <class Engine>
void join_(Tensor hidden, Tensor enc, Tensor dec, MaybeTensor boundary, MaybeTensor begin, MaybeTensor places, int64_t first,
           int64_t count, int64_t row) {
  STD_TORCH_CHECK(hidden.dim() == 2 && enc.dim() == 3 && dec.dim() == 3 && (!places || places->dim() == 3),
                  "hidden, enc, dec and places: expected 2, 3, 3 and 3 dimensions");
  enc = contiguous(enc);
  dec = contiguous(dec);
  const int64_t batch = enc.size(0), frames = enc.size(1), width = enc.size(2), symbols = dec.size(1) - 1;
  check_contiguous(dec, enc, enc.scalar_type(), {batch, symbols + 1, width}, "dec");
  check_contiguous(hidden, enc, enc.scalar_type(), {hidden.size(0), width}, "hidden");
  dispatch_floating(enc.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    Join<scalar_t> p;
    fill_join(p, hidden, batch, frames, symbols, boundary, begin, {places, first, count, row});
    p.enc = enc.const_data_ptr<scalar_t>();
    p.dec = dec.const_data_ptr<scalar_t>();
    p.hidden = hidden.mutable_data_ptr<scalar_t>();
    Engine::run(p, enc);
  });
}

template <class Engine>
void join_backward_(Tensor grad_hidden, Tensor hidden, MaybeTensor boundary, MaybeTensor begin, MaybeTensor places,
                    int64_t first, int64_t count, int64_t row, Tensor grad_enc, Tensor grad_dec) {
  STD_TORCH_CHECK(hidden.dim() == 2 && grad_enc.dim() == 3 && grad_dec.dim() == 3 && (!places || places->dim() == 3),
                  "hidden, grad_enc, grad_dec and places: expected 2, 3, 3 and 3 dimensions");
  const int64_t batch = grad_enc.size(0), frames = grad_enc.size(1), width = grad_enc.size(2);
  const int64_t symbols = grad_dec.size(1) - 1, n = hidden.size(0);
  const ScalarType dtype = acc_type(hidden);
  check_contiguous(hidden, hidden, hidden.scalar_type(), {n, width}, "hidden");
  check_contiguous(grad_hidden, hidden, hidden.scalar_type(), {n, width}, "grad_hidden");
  check_contiguous(grad_enc, hidden, dtype, {batch, frames, width}, "grad_enc");
  check_contiguous(grad_dec, hidden, dtype, {batch, symbols + 1, width}, "grad_dec");
  dispatch_floating(hidden.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    JoinBackward<scalar_t> p;
    fill_join(p, hidden, batch, frames, symbols, boundary, begin, {places, first, count, row});
    p.grad_hidden = grad_hidden.const_data_ptr<scalar_t>();
    p.hidden = hidden.const_data_ptr<scalar_t>();
    p.grad_enc = grad_enc.mutable_data_ptr<acc>();
    p.grad_dec = grad_dec.mutable_data_ptr<acc>();
    Engine::run(p, hidden);
  });
}

}  // namespace rnnkit
