// No include guard (see rnnkit/cpu/foreach_target.h).
#include <rnnkit/cpu/math.h>
#include <rnnkit/sigmoids.h>

#include "cell.h"
#include "engine.h"
