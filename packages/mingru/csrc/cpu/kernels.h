// No include guard (see rnnkit/cpu/foreach_target.h).
#include <rnnkit/cpu/math.h>
#include <rnnkit/cpu/scan.h>

#include "cell.h"

namespace rnnkit::RNNKIT_TARGET {

template <int gates, Activation activation, class scalar_t>
void forward(const ScanForward<scalar_t, gates + 1>& p) {
  run_scan(Forward<Cell<Math<acc_t<scalar_t>>, gates, activation>, scalar_t>(p));
}

template <int gates, Activation activation, class scalar_t>
void backward(const ScanBackward<scalar_t, gates + 1>& p) {
  run_scan(Backward<Cell<Math<acc_t<scalar_t>>, gates, activation>, scalar_t>(p));
}

}  // namespace rnnkit::RNNKIT_TARGET
