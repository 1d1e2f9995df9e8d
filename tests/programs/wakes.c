/* Threads that wait, and who wakes them: a thread that posts a semaphore, one that writes to a pipe, a timer.
 *
 * They begin when the program is given a line, or the end, on its standard input, and wait ROUNDS times, for about 10 ms each
 * time. The truth, in seconds, is time by the clock on the wall less CPU time of the thread.
 * True stacks of those who wake:  <thread start>; poster; post_it; ...    <thread start>; writer; write_it; ...
 */
#include "common.h"

#include <pthread.h>
#include <semaphore.h>

#define ROUNDS 40

static int to_pipe[2];
static sem_t posted;
static pthread_barrier_t begin;

static void nap(void)
{
	struct timespec time = { 0, 10000000 };

	nanosleep(&time, NULL);
}

#define LAPS for (int lap = 0; lap < ROUNDS; lap++)

KEEP void by_post(void) { LAPS while (sem_wait(&posted)); NO_TAIL_CALL(); }
KEEP void by_write(void) { char c; LAPS if (read(to_pipe[0], &c, 1) != 1) abort(); NO_TAIL_CALL(); }
KEEP void by_timer(void) { LAPS nap(); NO_TAIL_CALL(); }

KEEP void post_it(void) { if (sem_post(&posted)) abort(); NO_TAIL_CALL(); }
KEEP void write_it(void) { if (write(to_pipe[1], "x", 1) != 1) abort(); NO_TAIL_CALL(); }

KEEP void *poster(void *unused)
{
	pthread_barrier_wait(&begin);
	LAPS { nap(); post_it(); }
	return unused;
}

KEEP void *writer(void *unused)
{
	pthread_barrier_wait(&begin);
	LAPS { nap(); write_it(); }
	return unused;
}

static const struct {
	const char *name;
	void (*body)(void);
} kinds[] = { { "by_post", by_post }, { "by_write", by_write }, { "by_timer", by_timer } };
#define NR_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static uint64_t waited[NR_KINDS];

KEEP void *enter_thread(void *arg)
{
	size_t kind = (size_t)arg;
	uint64_t wall, cpu;

	pthread_barrier_wait(&begin);
	wall = wall_ns();
	cpu = thread_ns();
	kinds[kind].body();
	waited[kind] = wall_ns() - wall - (thread_ns() - cpu);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t ids[NR_KINDS + 2];
	struct run run;

	if (pipe(to_pipe))
		return 1;
	sem_init(&posted, 0, 0);
	pthread_barrier_init(&begin, NULL, NR_KINDS + 3);
	for (size_t k = 0; k < NR_KINDS; k++)
		if (pthread_create(&ids[k], NULL, enter_thread, (void *)k))
			return 1;
	if (pthread_create(&ids[NR_KINDS], NULL, poster, NULL) || pthread_create(&ids[NR_KINDS + 1], NULL, writer, NULL))
		return 1;
	pthread_setname_np(ids[NR_KINDS], "poster");
	pthread_setname_np(ids[NR_KINDS + 1], "writer");
	run = start(argc, argv);
	wait_for_word();
	pthread_barrier_wait(&begin);
	for (size_t k = 0; k < NR_KINDS + 2; k++)
		pthread_join(ids[k], NULL);
	for (size_t k = 0; k < NR_KINDS; k++)
		printf("truth %s 0 %.6f\n", kinds[k].name, (double)waited[k] / NS_PER_S);
	return finish(&run);
}
