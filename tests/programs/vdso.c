/* Nearly all time in the vDSO: a loop of clock_gettime. (Where the clock source is not readable from user mode, the
 * vDSO enters the kernel: the same stack with a kernel part.)
 *
 * True stack:  main; vdso_loop; clock_gettime; <vDSO function>; possibly its callee.
 */
#include "common.h"

KEEP uint64_t vdso_loop(uint64_t end)
{
	uint64_t now;

	do
		now = wall_ns();
	while (now < end);
	NO_TAIL_CALL();
	return now;
}

int main(int argc, char **argv)
{
	struct run run = start(argc, argv);

	vdso_loop(run.wall_end);
	return finish(&run);
}
