/* Eight threads, born one after the other, each in its own function under its own name.
 *
 * Thread k is started at k/8 of the first half of the run and works until it has used (k + 1) units of CPU time;
 * 36 units are a quarter of the run time, so that one core is enough. Shares: 1/36, 2/36, ... 8/36.
 * True stack of a thread:  <thread start>; enter_thread; thread_K.
 */
#include "common.h"

#include <pthread.h>

#define NR_THREADS 8

static uint64_t unit, used[NR_THREADS];

#define BODY(k) KEEP void thread_##k(uint64_t ns) { work_until(ns); NO_TAIL_CALL(); }
BODY(0) BODY(1) BODY(2) BODY(3) BODY(4) BODY(5) BODY(6) BODY(7)

static void (*const bodies[])(uint64_t) = {
	thread_0, thread_1, thread_2, thread_3, thread_4, thread_5, thread_6, thread_7,
};

KEEP void *enter_thread(void *arg)
{
	long k = (long)arg;
	char name[16];

	snprintf(name, sizeof(name), "worker-%ld", k);
	pthread_setname_np(pthread_self(), name);
	bodies[k]((uint64_t)(k + 1) * unit);
	used[k] = thread_ns();
	return NULL;
}

int main(int argc, char **argv)
{
	struct run run = start(argc, argv);
	uint64_t length = run.wall_end - wall_ns(), total = 0;
	struct timespec pause;
	pthread_t ids[NR_THREADS];
	char name[16];

	unit = length / 4 / 36;
	pause.tv_sec = (time_t)(length / 16 / NS_PER_S);
	pause.tv_nsec = (long)(length / 16 % NS_PER_S);
	for (long k = 0; k < NR_THREADS; k++) {
		if (pthread_create(&ids[k], NULL, enter_thread, (void *)k))
			return 1;
		nanosleep(&pause, NULL);
	}
	for (int k = 0; k < NR_THREADS; k++) {
		pthread_join(ids[k], NULL);
		total += used[k];
	}
	for (int k = 0; k < NR_THREADS; k++) {
		snprintf(name, sizeof(name), "thread_%d", k);
		truth(name, used[k], total);
	}
	return finish(&run);
}
