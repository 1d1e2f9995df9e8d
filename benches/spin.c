/* A CPU-bound program that measures its own speed, for benches/slowdown.py.
 *
 *   spin DEPTH SECONDS       works below DEPTH frames of recursion
 *
 * One line for every slot of 100 ms of its own CPU time: when the slot began and ended (CLOCK_MONOTONIC,
 * nanoseconds) and how many units of work it did in it. Interrupts, page faults and whatever runs in them count as
 * time of this thread, so a profiler's work in the target shows as fewer units for each slot.
 */
#include "../tests/programs/common.h"

static struct run run;

KEEP uint64_t spin_slot(void)
{
	uint64_t units = 0, end = thread_ns() + 100000000;

	do {
		work();
		units++;
	} while (thread_ns() < end);
	return units;
}

KEEP int descend(int depth)
{
	if (depth > 0) {
		int sum = descend(depth - 1);

		NO_TAIL_CALL();
		return sum + 1;
	}
	while (running(&run)) {
		uint64_t begin = wall_ns(), cpu = thread_ns(), units = spin_slot();

		/* units for each CPU second: a slot may end a little late */
		printf("%llu %llu %.1f\n", (unsigned long long)begin, (unsigned long long)wall_ns(),
		       (double)units * NS_PER_S / (double)(thread_ns() - cpu));
		fflush(stdout);
	}
	return 0;
}

int main(int argc, char **argv)
{
	char *seconds[] = { argv[0], argc > 2 ? argv[2] : (char *)"10" };

	run = start(2, seconds);
	descend(argc > 1 ? atoi(argv[1]) : 10);
	return 0;
}
