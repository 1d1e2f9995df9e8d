/* Threads that run for a moment and sleep for a few, over and over: whenever one looks, some run, and sleep soon after. As root
 * they come first, whatever else the machine does.
 *
 * No truth is printed: no thread can sleep longer than somebody looks.
 * True stack of a thread:  <thread start>; dozes; ...
 */
#include "common.h"

#include <pthread.h>
#include <sys/resource.h>

#define THREADS 16

KEEP void *dozes(void *arg)
{
	const struct run *run = arg;
	struct timespec nap = { 0, 2000000 };

	while (running(run)) {
		work_until(thread_ns() + 150000);
		nanosleep(&nap, NULL);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct run run = start(argc, argv);
	pthread_t threads[THREADS];

	setpriority(PRIO_PROCESS, 0, -15);
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, dozes, &run);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	return finish(&run);
}
