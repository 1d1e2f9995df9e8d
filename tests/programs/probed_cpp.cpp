/* A function that is left by an exception, and libstdc++'s own USDT probes (libstdcxx:throw, libstdcxx:catch).
 *
 * Nothing happens for the first SECONDS. Then `thrower` is called 60 times, throws 40 times and returns 20 times, about
 * 0.5 ms each; `truth thrower CALLS INSIDE OUTSIDE` is about those that return, as in probed.c.
 */
#include "common.h"

#include <stdexcept>

static uint64_t inside, outside;

static void nap(long ns)
{
	struct timespec time = { 0, ns };

	nanosleep(&time, nullptr);
}

extern "C" KEEP void thrower(int throws)
{
	uint64_t before = wall_ns();

	nap(500000);
	if (throws)
		throw std::runtime_error("as asked for");
	inside += wall_ns() - before;
}

int main(int argc, char **argv)
{
	struct run run = start(argc, argv);
	int caught = 0;

	while (running(&run))
		nap(1000000);
	for (int i = 0; i < 60; i++) {
		uint64_t before = wall_ns();

		try {
			thrower(i % 3);
			outside += wall_ns() - before;
		} catch (const std::exception &) {
			caught++;
		}
	}
	printf("truth thrower %d %llu %llu\n", 60 - caught, (unsigned long long)inside, (unsigned long long)outside);
	printf("caught %d\n", caught);
	return finish(&run);
}
