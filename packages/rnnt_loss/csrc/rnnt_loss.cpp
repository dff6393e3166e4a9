// Op schemas. Shapes and meanings: src/rnnt_loss/_ops.py.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>

RNNKIT_LIBRARY(m) {
  m.def(
      "lattice(Tensor label, Tensor blank, int[] label_durations=[0], int[] blank_durations=[1], "
      "Tensor? boundary=None, Tensor? begin=None, bool label_end=False, bool viterbi=False, bool occupancies=True, "
      "float label_weight=1.) -> (Tensor score, Tensor label_occupancy, "
      "Tensor blank_occupancy)");

  m.def(
      "joint_scores(Tensor logits, Tensor symbols, Tensor? boundary=None, Tensor? begin=None, Tensor? offsets=None, "
      "int packed_frames=0, int[] blanks=[0], str kind='softmax', int durations=0, float smoothing=0., float clamp=0., "
      "float label_weight=1., bool reuse=False) -> (Tensor label, Tensor blank, Tensor norm)");
  m.def(
      "joint_scores_(Tensor logits, Tensor symbols, Tensor(a!) label, Tensor(b!) blank, Tensor(c!) norm, "
      "Tensor? boundary, Tensor? begin, Tensor? places, int first, int frames, int row, int[] blanks=[0], "
      "str kind='softmax', int durations=0, float smoothing=0.) -> ()");
  m.def(
      "joint_scores_backward(Tensor grad_label, Tensor grad_blank, Tensor logits, Tensor symbols, Tensor norm, "
      "Tensor? boundary=None, Tensor? begin=None, Tensor? offsets=None, int[] blanks=[0], str kind='softmax', "
      "int durations=0, float smoothing=0., float clamp=0., float label_weight=1.) -> Tensor");
  m.def(
      "joint_scores_backward_(Tensor grad_label, Tensor grad_blank, Tensor(a!) logits, Tensor symbols, Tensor norm, "
      "Tensor? boundary=None, Tensor? begin=None, Tensor? offsets=None, Tensor? places=None, int first=0, int frames=0, "
      "int row=0, int[] blanks=[0], str kind='softmax', int durations=0, float smoothing=0., float clamp=0., "
      "float label_weight=1., bool anew=False) -> ()");

  m.def(
      "simple_scores(Tensor lm, Tensor am, Tensor symbols, Tensor? boundary, int blank, float of_both=1., "
      "float of_lm=0.) -> (Tensor label, Tensor blank, Tensor norm, Tensor exp_lm, Tensor exp_am, Tensor max_lm, "
      "Tensor max_am, Tensor norm_lm)");
  m.def(
      "simple_scores_backward(Tensor grad_label, Tensor grad_blank, Tensor lm, Tensor am, Tensor symbols, Tensor norm, "
      "Tensor exp_lm, Tensor exp_am, Tensor max_lm, Tensor max_am, Tensor norm_lm, Tensor? boundary, int blank, "
      "float of_both=1., float of_lm=0.) -> Tensor[]");

  m.def(
      "join_(Tensor(a!) hidden, Tensor enc, Tensor dec, Tensor? boundary, Tensor? begin, Tensor? places, int first, "
      "int frames, int row) -> ()");
  m.def(
      "join_backward_(Tensor grad_hidden, Tensor hidden, Tensor? boundary, Tensor? begin, Tensor? places, int first, "
      "int frames, int row, Tensor(a!) grad_enc, Tensor(b!) grad_dec) -> ()");

  m.def(
      "prune_ranges(Tensor label_occupancy, Tensor blank_occupancy, Tensor boundary, int s_range, int max_step) -> Tensor");
}
