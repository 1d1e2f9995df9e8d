/* Gives itself other names, each from when it is told to (a line of standard input).
 *
 *   renames SECONDS        first it is called `renames`, then `wanted-name`, then `other-name`
 *
 * Works in a function for each name: of CPU time at least 1.5 s in the second one, and 0.3 s in the third.
 * True stacks:  main; before_name, main; with_name, main; after_name.
 */
#include "common.h"

#include <poll.h>

#define WITH_NAME 1500000000ull
#define AFTER_NAME 300000000ull

/* Works until it is told to go on, but for so long at least. */
static inline __attribute__((always_inline)) void work_until_told(const struct run *run, uint64_t least)
{
	struct pollfd told = { .fd = 0, .events = POLLIN };
	uint64_t begin = thread_ns();

	while (running(run)) {
		work();
		if (thread_ns() - begin >= least && poll(&told, 1, 0) > 0)
			break;
	}
}

KEEP void before_name(const struct run *run) { work_until_told(run, 0); NO_TAIL_CALL(); }
KEEP void with_name(const struct run *run) { work_until_told(run, WITH_NAME); NO_TAIL_CALL(); }
KEEP void after_name(const struct run *run) { work_until_told(run, AFTER_NAME); NO_TAIL_CALL(); }

int main(int argc, char **argv)
{
	struct run run = start(argc, argv);

	before_name(&run);
	wait_for_word();
	prctl(PR_SET_NAME, "wanted-name");
	puts("named");
	fflush(stdout);
	with_name(&run);
	wait_for_word();
	prctl(PR_SET_NAME, "other-name");
	puts("renamed");
	fflush(stdout);
	after_name(&run);
	puts("done");
	fflush(stdout);
	return finish(&run);
}
