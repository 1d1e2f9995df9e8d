/* A deep recursion, busy at its bottom.
 *
 *   deep [SECONDS] [FRAMES]      frames of `descend`, default 900
 *
 * True stack:  main; descend (FRAMES times); deep_leaf.
 */
#include "common.h"

static struct run run;

KEEP int deep_leaf(void)
{
	do
		work_until(thread_ns() + 20000000);
	while (running(&run));
	return 1;
}

KEEP int descend(int frames)
{
	int sum = frames > 1 ? descend(frames - 1) : deep_leaf();

	NO_TAIL_CALL();
	return sum + frames;
}

int main(int argc, char **argv)
{
	volatile int sink;

	run = start(argc, argv);
	sink = descend(argc > 2 ? atoi(argv[2]) : 900);
	(void)sink;
	return finish(&run);
}
