/* A recursion that is short at each of its 20 levels, before and after the next one: with a probe on it, most of the time
 * goes into the kernel's part of the probe.
 *
 *   climbs [SECONDS]
 *
 * True stacks:  main; climb (1 to 20 times)
 */
#include "common.h"

#define LEVELS 20

static inline __attribute__((always_inline)) void short_work(void)
{
	uint64_t x = 88172645463325252ull;

	for (int i = 0; i < 300; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		__asm__ volatile("" : "+r"(x));
	}
}

KEEP int climb(int level)
{
	int sum = 0;

	short_work();
	if (level > 1)
		sum = climb(level - 1);
	short_work();
	return sum + level;
}

int main(int argc, char **argv)
{
	struct run run = start(argc, argv);
	uint64_t laps = 0;
	volatile int sink = 0;

	while (running(&run)) {
		for (int i = 0; i < 100; i++)
			sink += climb(LEVELS);
		laps += 100;
	}
	(void)sink;
	printf("calls %llu\n", (unsigned long long)laps * LEVELS);
	return finish(&run);
}
