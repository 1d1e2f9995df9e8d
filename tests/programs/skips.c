/* A chain of calls of which only main and outer keep a frame pointer; unwind information is nowhere.
 *
 *   skips [SECONDS]
 *
 * The true stack is  main; outer; middle; inner; leaf,  and in a second thread  enter_thread; middle; inner; leaf.
 * In leaf the frame pointer is that of outer, or (in the thread) 0: a walk by it misses middle and inner.
 */
#include "common.h"

#include <pthread.h>

#define WITH_FRAME_POINTER __attribute__((optimize("no-omit-frame-pointer")))

static struct run run;

KEEP void leaf(void)
{
	/* no call: its own code is what is sampled */
	for (int i = 0; i < 50; i++)
		work();
}

KEEP void inner(void) { leaf(); NO_TAIL_CALL(); }
KEEP void middle(void) { inner(); NO_TAIL_CALL(); }
KEEP WITH_FRAME_POINTER void outer(void) { middle(); NO_TAIL_CALL(); }

KEEP void *enter_thread(void *unused)
{
	while (running(&run))
		middle();
	return unused;
}

WITH_FRAME_POINTER int main(int argc, char **argv)
{
	pthread_t thread;

	run = start(argc, argv);
	if (pthread_create(&thread, NULL, enter_thread, NULL))
		return 1;
	while (running(&run))
		outer();
	pthread_join(thread, NULL);
	return 0;
}
