/* Threads that wait, each for something else, in its own function under its own name.
 *
 * Nothing happens for the first SECONDS, so that a recording can begin. Then each thread waits ROUNDS times, for
 * about 10 ms each time. The truth, in seconds, is what the kernel's clocks say: time by the clock on the wall minus
 * CPU time of the thread. Of by_queue, where two threads share one CPU, it is the time that the scheduler says that
 * they waited for it (/proc/thread-self/schedstat, second number, Documentation/scheduler/sched-stats.rst).
 * True stack of a thread:  <thread start>; enter_thread; by_KIND; ...
 */
#include "common.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define ROUNDS 40

static int to_pipe[2], to_socket[2];
static sem_t posted;
static pthread_barrier_t begin;

static void nap(long ns)
{
	struct timespec time = { 0, ns };

	nanosleep(&time, NULL);
}

#define LAPS for (int lap = 0; lap < ROUNDS; lap++)

KEEP void by_sleep(void) { LAPS nap(10000000); NO_TAIL_CALL(); }
KEEP void by_pipe(void) { char c; LAPS if (read(to_pipe[0], &c, 1) != 1) abort(); NO_TAIL_CALL(); }
KEEP void by_socket(void) { char c; LAPS if (recv(to_socket[0], &c, 1, 0) != 1) abort(); NO_TAIL_CALL(); }
KEEP void by_poll(void) { LAPS poll(NULL, 0, 10); NO_TAIL_CALL(); }

KEEP void by_epoll(void)
{
	struct epoll_event event;
	int epoll = epoll_create1(0);

	LAPS epoll_wait(epoll, &event, 1, 10);
	close(epoll);
}

KEEP void by_futex(void) { LAPS while (sem_wait(&posted)); NO_TAIL_CALL(); }

KEEP void by_child(void)
{
	LAPS {
		pid_t child = vfork();

		if (!child) {
			execl("/bin/sleep", "sleep", "0.01", NULL);
			_exit(1);
		}
		waitpid(child, NULL, 0);
	}
}

KEEP void by_disk(void)
{
	char name[] = "/var/tmp/waits-XXXXXX", block[4096] = { 1 };
	int file = mkstemp(name);

	unlink(name);
	LAPS if (write(file, block, sizeof(block)) < 0 || fsync(file)) abort();
	close(file);
}

KEEP void by_queue(void)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(0, &one);
	sched_setaffinity(0, sizeof(one), &one);
	work_until(thread_ns() + 300000000);
	NO_TAIL_CALL();
}

static const struct {
	const char *name;
	void (*body)(void);
} kinds[] = {
	{ "by_sleep", by_sleep }, { "by_pipe", by_pipe }, { "by_socket", by_socket }, { "by_poll", by_poll },
	{ "by_epoll", by_epoll }, { "by_futex", by_futex }, { "by_child", by_child }, { "by_disk", by_disk },
	{ "by_queue", by_queue }, { "by_queue", by_queue },
};
#define NR_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static uint64_t waited[NR_KINDS];

static uint64_t queued_ns(void)
{
	unsigned long long ran = 0, queued = 0;
	FILE *file = fopen("/proc/thread-self/schedstat", "r");

	if (!file || fscanf(file, "%llu %llu", &ran, &queued) != 2)
		abort();
	fclose(file);
	return queued;
}

KEEP void *enter_thread(void *arg)
{
	size_t kind = (size_t)arg;
	uint64_t wall, cpu, queued;

	pthread_barrier_wait(&begin);
	queued = queued_ns();
	wall = wall_ns();
	cpu = thread_ns();
	kinds[kind].body();
	waited[kind] = kinds[kind].body == by_queue ? queued_ns() - queued
						     : wall_ns() - wall - (thread_ns() - cpu);
	return NULL;
}

/* Gives those that wait for it what they wait for. */
static void *feed(void *unused)
{
	(void)unused;
	for (;;) {
		nap(10000000);
		if (write(to_pipe[1], "x", 1) != 1 || write(to_socket[1], "x", 1) != 1 || sem_post(&posted))
			abort();
	}
}

int main(int argc, char **argv)
{
	struct timespec before = { argc > 1 ? atoi(argv[1]) : 2, 0 };
	pthread_t ids[NR_KINDS], feeder;
	struct run run;

	if (pipe(to_pipe) || socketpair(AF_UNIX, SOCK_STREAM, 0, to_socket))
		return 1;
	sem_init(&posted, 0, 0);
	pthread_barrier_init(&begin, NULL, NR_KINDS + 1);
	for (size_t k = 0; k < NR_KINDS; k++)
		if (pthread_create(&ids[k], NULL, enter_thread, (void *)k))
			return 1;
	run = start(argc, argv);
	nanosleep(&before, NULL);
	pthread_barrier_wait(&begin);
	pthread_create(&feeder, NULL, feed, NULL);
	for (size_t k = 0; k < NR_KINDS; k++)
		pthread_join(ids[k], NULL);
	for (size_t k = 0; k < NR_KINDS; k++)
		printf("truth %s 0 %.6f\n", kinds[k].name, (double)waited[k] / NS_PER_S);
	return finish(&run);
}
