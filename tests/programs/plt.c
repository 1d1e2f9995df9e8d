/* Calls through the procedure linkage table, which has one rule of its own in .eh_frame.
 *
 * Built with lazy binding, with immediate binding and with the two-part table of -fcf-protection.
 * True stacks:  main; plt_caller   (also when the sample falls into a stub: the stub is plt_caller's callee)
 *               main; plt_caller; <stub or callee_one or callee_two>.
 */
#include "common.h"

unsigned callee_one(unsigned);
unsigned callee_two(unsigned);

static volatile unsigned sink;

KEEP void plt_caller(const struct run *run)
{
	while (running(run))
		for (unsigned i = 0; i < 20000; i++)
			sink = callee_one(i) + callee_two(i);
}

int main(int argc, char **argv)
{
	struct run run = start(argc, argv);

	plt_caller(&run);
	NO_TAIL_CALL();
	return finish(&run);
}
