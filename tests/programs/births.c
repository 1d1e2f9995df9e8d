/* A thread after another: each is born, does nothing, and has ended before the next one is born.
 *
 * Says at the end how many there were (`births N`).
 * True stacks: main with what creates and joins; a thread's start with `do_nothing`.
 */
#include "common.h"

#include <pthread.h>

KEEP void *do_nothing(void *arg)
{
	return arg;
}

int main(int argc, char **argv)
{
	struct run run = start(argc, argv);
	unsigned long births = 0;
	pthread_t id;

	for (; running(&run); births++)
		if (pthread_create(&id, NULL, do_nothing, NULL) || pthread_join(id, NULL))
			return 1;
	printf("births %lu\n", births);
	return finish(&run);
}
