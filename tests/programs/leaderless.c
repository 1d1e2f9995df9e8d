/* A process whose first thread has ended: another one lives on and is busy.
 *
 *   leaderless [SECONDS]
 *
 * `ready` is said when the first thread is gone. The true stack is  <thread start>; enter_thread; busy.
 */
#include "common.h"

#include <pthread.h>

static int given_argc;
static char **given_argv;

KEEP void busy(const struct run *run)
{
	while (running(run))
		work();
}

KEEP void *enter_thread(void *unused)
{
	struct timespec nap = { 0, 300000000 };
	struct run run;

	nanosleep(&nap, NULL);
	run = start(given_argc, given_argv);
	busy(&run);
	NO_TAIL_CALL();
	_exit(0);
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	given_argc = argc;
	given_argv = argv;
	if (pthread_create(&thread, NULL, enter_thread, NULL))
		return 1;
	pthread_exit(NULL);
}
