/* What plt.c calls in another library. */
#include "common.h"

KEEP unsigned callee_one(unsigned x) { return x + 1; }
KEEP unsigned callee_two(unsigned x) { return x + 2; }
