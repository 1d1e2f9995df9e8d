/* Functions that the compiler inlines, at lines that a test finds by the comments behind them.
 *
 *   inlined [SECONDS]
 *
 * The true stacks, about half of the time each; [i] is inlined:
 *   main; outer; middle [i]; inner [i]; work_until [i]; work [i]
 *   main; outer; middle [i]; caller [i]; inlined_leaf; work_until [i]; work [i]
 * `work_until` and `work` are in another file, common.h.
 */
#include "common.h"

#define INLINED static inline __attribute__((always_inline))

static struct run run;

KEEP void inlined_leaf(uint64_t ns)
{
	work_until(thread_ns() + ns);	/* line: inlined_leaf */
	NO_TAIL_CALL();
}

INLINED void inner(uint64_t ns)
{
	work_until(thread_ns() + ns);	/* line: inner */
}

INLINED void caller(uint64_t ns)
{
	inlined_leaf(ns);	/* line: caller */
	NO_TAIL_CALL();
}

INLINED void middle(void)
{
	inner(round_ns());	/* line: middle calls inner */
	caller(round_ns());	/* line: middle calls caller */
}

KEEP void outer(void)
{
	do
		middle();	/* line: outer */
	while (running(&run));
}

int main(int argc, char **argv)
{
	run = start(argc, argv);
	outer();	/* line: main */
	return finish(&run);
}
