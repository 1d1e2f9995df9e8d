/* One source, two libraries (see dlopen.c): -DALPHA or not. Both have the same size and so the same place in
 * memory, but other code with other frames at the same offsets: rows of the one do not fit the other. */
#include "common.h"

#ifdef ALPHA
#define OUTER alpha_outer
#define INNER alpha_inner
#define FRAME 24
#else
#define OUTER beta_outer
#define INNER beta_inner
#define FRAME 1208
#endif

KEEP void INNER(uint64_t ns)
{
#ifdef ALPHA
	/* other pushes than in beta */
	__asm__ volatile("" ::: "rbx", "r12", "r13", "r14", "r15");
#endif
	work_until(thread_ns() + ns);
	NO_TAIL_CALL();
}

KEEP void OUTER(uint64_t ns)
{
	volatile char frame[FRAME];

	frame[0] = 1;
	INNER(ns);
	frame[FRAME - 1] = frame[0];
}
