// No include guard (see rnnkit/cpu/foreach_target.h).
#include <rnnkit/cpu/math.h>

#include "joint.h"
#include "lattice.h"
#include "simple.h"
