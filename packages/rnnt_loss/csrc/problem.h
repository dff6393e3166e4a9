// What the kernels compute, free of tensors and of any one backend.
//
// The lattice of a sequence has the nodes (t, s): t frames are consumed and s symbols emitted. A blank of duration d leads
// from (t, s) to (t + d, s), a label of duration d to (t + d, s + 1); plain RNN-T has blanks of 1 and labels of 0. Paths
// lead from (t0, s0) to (t1, s1), the sequence's bounds. A band keeps, of each frame, `rows` nodes from `begin` on.
// Everything that is made for nodes, or for the arcs that leave them, is [B, T, rows], rows counted from the band's begin:
// node (t, s) is in row k = s - begin. What lies outside of the bounds is never read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/types.h>

#include <cstdint>

namespace rnnkit {

constexpr int kMaxArcs = 16;   // kinds of arcs that leave a node
constexpr int kMaxBlanks = 8;  // blank symbols

struct Bounds {
  int64_t s0, t0, s1, t1;

  RNNKIT_HOST_DEVICE bool fit(int64_t symbols, int64_t frames) const {
    return 0 <= s0 && s0 <= s1 && s1 <= symbols && 0 <= t0 && t0 <= t1 && t1 <= frames;
  }

  // Whether the node is one of the sequence's, before its last frame.
  RNNKIT_HOST_DEVICE bool has(int64_t t, int64_t s) const { return t >= t0 && t < t1 && s >= s0 && s <= s1; }
};

struct Sequences {
  int64_t batch, frames, symbols, rows;
  const int64_t* boundary;  // [B, 4]: s0, t0, s1, t1; null: all of it
  const int64_t* begin;     // [B, T]; null: 0, and rows is symbols + 1

  RNNKIT_HOST_DEVICE Bounds bounds(int64_t b) const {
    if (boundary == nullptr) return {0, 0, symbols, frames};
    const int64_t* const at = boundary + 4 * b;
    return {at[0], at[1], at[2], at[3]};
  }

  // Values that no sequence has are all one, far away, lest sums with them overflow.
  RNNKIT_HOST_DEVICE int64_t first_row(int64_t b, int64_t t) const {
    constexpr int64_t kFarAway = int64_t(1) << 40;
    const int64_t row = begin == nullptr ? 0 : begin[b * frames + t];
    return -kFarAway < row && row < kFarAway ? row : kFarAway;
  }

  // The symbol count of the first node at frame t, also at the last, t1, which has no rows in memory: there the end is the
  // only node that matters.
  RNNKIT_HOST_DEVICE int64_t first_node(int64_t b, int64_t t, const Bounds& in) const {
    if (begin == nullptr) return 0;
    if (t < in.t1) return first_row(b, t);
    const int64_t before = in.t1 > in.t0 ? first_row(b, in.t1 - 1) : in.s0, last = in.s1 - rows + 1;
    return before > last ? before : last;
  }
};

// A tensor [B, T, rows] with any strides.
template <class T>
struct Nodes {
  T* data;
  int64_t batch, frame, row;

  RNNKIT_HOST_DEVICE T& at(int64_t b, int64_t t, int64_t k) const { return data[b * batch + t * frame + k * row]; }
};

// A tensor [B, planes, T, rows] with any strides.
template <class T>
struct Planes {
  T* data;
  int64_t batch, plane, frame, row;

  RNNKIT_HOST_DEVICE T& at(int64_t b, int64_t i, int64_t t, int64_t k) const {
    return data[b * batch + i * plane + t * frame + k * row];
  }
};

struct Arc {
  int duration;
  bool label;

  RNNKIT_HOST_DEVICE int symbols() const { return label ? 1 : 0; }
  RNNKIT_HOST_DEVICE int diagonals() const { return duration + symbols(); }  // by which t + s grows
};

// Scores are log-probabilities. Occupancies are the probabilities that a path takes an arc, given the sequence; with
// viterbi, 1 on the best path and 0 elsewhere, and the score is that path's.
template <class scalar_t>
struct Lattice : Sequences {
  int arcs;
  int max_diagonals;  // of the arcs
  Arc kinds[kMaxArcs];
  Nodes<const scalar_t> scores[kMaxArcs];
  Nodes<scalar_t> occupancies[kMaxArcs];
  bool keeps;                        // whether they are wanted
  int64_t label_frames, label_rows;  // of the labels' tensors: T or T + 1, S or the band's rows
  bool label_end;                    // whether a label may lead to frame t1
  bool viterbi;
  scalar_t* score;  // [B]

  RNNKIT_HOST_DEVICE int64_t frames_of(const Arc& arc) const { return arc.label ? label_frames : frames; }
  RNNKIT_HOST_DEVICE int64_t rows_of(const Arc& arc) const { return arc.label ? label_rows : rows; }

  // Whether the arc leaves node (t, s), which the lattice has, for another that it may have.
  RNNKIT_HOST_DEVICE bool leaves(const Arc& arc, int64_t t, int64_t s, const Bounds& in) const {
    if (t >= frames_of(arc) || (arc.label && s >= in.s1)) return false;
    return t + arc.duration < in.t1 + (arc.label && !label_end ? 0 : 1);
  }
};

// How the scores of a node's arcs come from its logits z, over the classes v:
//   softmax     label z_y - N, blanks z_blank - N, with N = log sum_v e^(z_v); smoothed, each is (1 - e) times that and e
//               times the mean of all classes
//   hat         label z_y - N + log(1 - sigmoid(z_blank)), blank log sigmoid(z_blank), with N over all but the blank, which
//               no label can be
//   log_probs   label z_y, blanks z_blank
// Columns after those of the classes are of durations, which have a log-softmax of their own.
enum class Mode { softmax, hat, log_probs };

// Which nodes have a row in tensors [n, width]: of frames first..first + count - 1, counted over the batch, all of them in
// order, or those that have a place.
struct Chunk : Sequences {
  int64_t first, count;
  const int64_t* places;  // [B, T, rows]: the node's row, counted from `row`; null: all have one
  int64_t row, n;

  // The node's row; outside of 0..n - 1 it has none.
  RNNKIT_HOST_DEVICE int64_t index(int64_t b, int64_t t, int64_t k) const {
    const int64_t node = (b * frames + t) * rows + k;
    return places == nullptr ? node - first * rows : int64_t(uint64_t(places[node]) - uint64_t(row));
  }
  RNNKIT_HOST_DEVICE bool has_row(int64_t b, int64_t t, int64_t k) const {
    return places == nullptr || uint64_t(index(b, t, k)) < uint64_t(n);
  }
};

// Strides of logits, in elements; where a node's lie, see `place`.
struct Layout {
  int64_t batch, frame, row;
};

template <class scalar_t>
struct Joint : Chunk {
  using acc = acc_t<scalar_t>;
  Mode mode;
  int64_t classes, durations;  // columns
  const int64_t* targets;      // [B, S]
  int blanks;
  int64_t blank[kMaxBlanks];
  acc smoothing;
  const int64_t* offsets;  // [B], the node (t0, s0) of each sequence in packed logits, of n nodes; null: not packed
  Layout layout;           // of the logits
  acc* norm;               // [B, T, rows]: N

  RNNKIT_HOST_DEVICE int64_t columns() const { return classes + durations; }

  RNNKIT_HOST_DEVICE bool packed_fits(int64_t b, const Bounds& in) const {
    const int64_t end = offsets[b] + (in.t1 - in.t0) * (in.s1 - in.s0 + 1);
    return offsets[b] >= 0 && (b > 0 || offsets[b] == 0) && end == (b + 1 < batch ? offsets[b + 1] : n);
  }

  // Where the columns of a node lie; packed logits have (t1 - t0) (s1 - s0 + 1) nodes a sequence.
  RNNKIT_HOST_DEVICE int64_t place(const Layout& of, int64_t b, int64_t t, int64_t k, const Bounds& in) const {
    if (offsets != nullptr) return (offsets[b] + (t - in.t0) * (in.s1 - in.s0 + 1) + k - in.s0) * of.row;
    if (places != nullptr) return index(b, t, k) * of.row;
    return b * of.batch + t * of.frame + k * of.row - first * of.frame;
  }
};

template <class scalar_t>
struct JointForward : Joint<scalar_t> {
  using acc = acc_t<scalar_t>;
  const scalar_t* logits;
  Nodes<acc> label;
  Planes<acc> blank_scores;  // after the blanks' those of the durations
  int64_t label_rows;
};

template <class scalar_t>
struct JointBackward : Joint<scalar_t> {
  using acc = acc_t<scalar_t>;
  const scalar_t* logits;  // grad may be the same memory
  scalar_t* grad;
  Layout grad_layout;
  Nodes<const acc> grad_label;
  Planes<const acc> grad_blank;  // after the blanks' those of the durations
  int64_t label_rows;
  acc clamp;         // of each class's gradient, before it is scaled by that of the sequence's score; 0: none
  acc label_weight;  // by which those of the labels have been multiplied
  bool anew;         // whether the logits are not those that `norm` is of, to the last bit: then theirs is summed again

  // That gradient's size: all of it leaves the first node.
  RNNKIT_HOST_DEVICE acc reaching(int64_t b, const Bounds& in) const {
    if (in.t0 >= in.t1) return 0;
    const int64_t k = in.s0 - this->first_row(b, in.t0);
    if (k < 0 || k >= this->rows) return 0;
    acc sum = k < label_rows ? grad_label.at(b, in.t0, k) / label_weight : acc(0);
    for (int j = 0; j < this->blanks; ++j) sum += grad_blank.at(b, j, in.t0, k);
    return sum < 0 ? -sum : sum;
  }
};

// Scores of the joiner lm + am: N(t, s) = log sum_v e^(lm(s, v) + am(t, v)), of which one matrix product of exponentials
// makes all; where that is too small to be exact, it is summed anew. Its log-probabilities have the weight of_both, beside
// those of lm alone, log_softmax(lm), with the weight of_lm.
template <class scalar_t>
struct Simple : Sequences {
  using acc = acc_t<scalar_t>;
  int64_t classes, blank;
  acc of_both, of_lm;
  const int64_t* targets;
  const scalar_t *lm, *am;    // [B, S + 1, C], [B, T, C]
  acc *exp_lm, *exp_am;       // the same, e^(x - max); 0 in the padding
  acc *max_lm, *max_am;       // [B, S + 1], [B, T]
  acc* norm_lm;               // [B, S + 1]: log sum_v e^lm; 0 in the padding
  acc* product;               // [B, T, S + 1]: of the exponentials; in backward, the weights of its gradient
  acc* norm;                  // [B, T, S + 1]
  acc *label, *blank_scores;  // [B, T, S], [B, T, S + 1]
  Nodes<const acc> grad_label, grad_blank;
  acc *grad_lm_acc, *grad_am_acc;  // the products with the weights, and the gradients where scalar_t is acc
  scalar_t *grad_lm, *grad_am;

  // Below this, what has underflowed in the exponentials could be missed.
  static constexpr acc kLeast = sizeof(acc) == 4 ? acc(1e-28) : acc(1e-280);
  static constexpr acc kLogLeast = sizeof(acc) == 4 ? acc(-64.472382603833) : acc(-644.72382603833);

  // Of a class whose logits and norms are given; what has no weight may be infinite.
  RNNKIT_HOST_DEVICE acc score(acc z_lm, acc z_am, acc both_norm, acc lm_norm) const {
    const acc both = of_both == 0 ? acc(0) : of_both * (z_lm + z_am - both_norm);
    return of_lm == 0 ? both : both + of_lm * (z_lm - lm_norm);
  }
};

template <class scalar_t>
struct Join : Chunk {  // hidden = tanh(enc + dec)
  int64_t width;
  const scalar_t *enc, *dec;  // [B, T, H], [B, S + 1, H]
  scalar_t* hidden;           // [n, H]
};

template <class scalar_t>
struct JoinBackward : Chunk {
  using acc = acc_t<scalar_t>;
  int64_t width;
  const scalar_t *grad_hidden, *hidden;  // [n, H]
  acc *grad_enc, *grad_dec;              // [B, T, H], [B, S + 1, H]: added to
};

template <class scalar_t>
struct Ranges : Sequences {            // rows: S + 1; Kuang et al., section 3.2
  Nodes<const scalar_t> label, blank;  // occupancies
  int64_t s_range, max_step;
  int64_t* out;  // [B, T]
};

}  // namespace rnnkit
