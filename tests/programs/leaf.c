/* Tiny functions that are almost only prologue and epilogue, called from one parent.
 *
 * A large part of the samples falls between two pushes or pops, where the frame is half built.
 * Every true stack is  main; leaf_parent  or  main; leaf_parent; leaf_KIND  and nothing else.
 */
#include "common.h"

#include <alloca.h>

static volatile unsigned sink;

/* six pushes, six pops */
KEEP unsigned leaf_pushes(unsigned x)
{
	__asm__ volatile("" : "+r"(x)::"rbx", "r12", "r13", "r14", "r15", "memory");
	return x + 1;
}

/* sub rsp, add rsp */
KEEP unsigned leaf_big_frame(unsigned x)
{
	volatile unsigned frame[64];

	frame[x % 64] = x;
	return frame[x % 64];
}

/* pushes and a frame */
KEEP unsigned leaf_both(unsigned x)
{
	volatile unsigned frame[64];

	frame[x % 64] = x;
	__asm__ volatile("" : "+r"(x)::"rbx", "r12", "r13", "memory");
	return frame[x % 64] + x;
}

/* rbp as frame pointer, whatever the flags: the frame has a variable size */
KEEP unsigned leaf_variable(unsigned x)
{
	volatile char *frame = alloca(x % 64 + 16);

	frame[x % 16] = 1;
	return x + (unsigned)frame[x % 16];
}

/* no frame at all */
KEEP unsigned leaf_bare(unsigned x)
{
	__asm__ volatile("" : "+r"(x));
	return x + 1;
}

KEEP void leaf_parent(const struct run *run)
{
	while (running(run))
		for (unsigned i = 0; i < 20000; i++)
			sink = leaf_pushes(i) + leaf_big_frame(i) + leaf_both(i) + leaf_variable(i) + leaf_bare(i);
}

int main(int argc, char **argv)
{
	struct run run = start(argc, argv);

	leaf_parent(&run);
	NO_TAIL_CALL();
	return finish(&run);
}
