/* Frames that do not lie at a fixed distance from the stack pointer.
 *
 * True stack:  main; vla_frame; drap_frame; avx_frame; realign_leaf.
 *   vla_frame    array of variable length: rbp as base
 *   drap_frame   stack realigned to 64 bytes while arguments on the old stack are still needed: gcc keeps the old
 *                stack pointer (DRAP, in r10) in the frame, and the CFA is a DWARF expression that loads it
 *   avx_frame    stack realigned to 32 bytes for a vector
 */
#include "common.h"

#include <alloca.h>

static struct run run;

KEEP int realign_leaf(int x)
{
	do
		work_until(thread_ns() + 20000000);
	while (running(&run));
	return x;
}

typedef float vector __attribute__((vector_size(32)));

KEEP __attribute__((target("avx"))) int avx_frame(int x)
{
	volatile vector v = { (float)x };
	int y = realign_leaf(x);

	return y + (int)v[0];
}

KEEP int drap_frame(long a, long b, long c, long d, long e, long f, long on_stack, int n)
{
	_Alignas(64) volatile char aligned[64];
	volatile char *more = alloca((size_t)n + 16);
	int y;

	aligned[n % 64] = (char)a;
	more[n] = (char)b;
	y = avx_frame(n);
	return y + aligned[n % 64] + more[n] + (int)(c + d + e + f + on_stack);
}

KEEP int vla_frame(int n)
{
	volatile char vla[n + 1];
	int y;

	vla[n] = 1;
	y = drap_frame(1, 2, 3, 4, 5, 6, 7, n);
	return y + vla[n];
}

int main(int argc, char **argv)
{
	volatile int sink;

	run = start(argc, argv);
	sink = vla_frame(argc + 20);
	(void)sink;
	return finish(&run);
}
