// Asks operator new for more than there is, which throws, and for a little, which does not; for SECONDS.
//
//     caught NUMBER        at the end; each of them was caught
#include "common.h"

#include <new>

static void *volatile kept;
static volatile size_t too_much = SIZE_MAX / 4;

extern "C" KEEP bool by_throwing()
{
	try {
		kept = new char[too_much];
	} catch (const std::bad_alloc &) {
		return true;
	}
	return false;
}

extern "C" KEEP void by_new()
{
	int *number = new int(1);

	kept = number;
	delete number;
}

int main(int argc, char **argv)
{
	struct run run = start(argc, argv);
	unsigned long caught = 0;

	while (running(&run)) {
		caught += by_throwing();
		by_new();
	}
	printf("caught %lu\n", caught);
	return finish(&run);
}
