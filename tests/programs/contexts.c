/* Coroutines of the C library (makecontext): each has a stack of its own, at whose end nothing was called.
 *
 *   contexts [SECONDS]
 *
 * True stacks:  main; resume; spin                                half of the time
 *               <nothing, or the C library's>; coroutine; spin     the other half
 */
#include "common.h"

#include <ucontext.h>

static ucontext_t here, there;

KEEP void spin(void) { work_until(thread_ns() + 2000000); NO_TAIL_CALL(); }

KEEP void coroutine(void)
{
	for (;;) {
		spin();
		swapcontext(&there, &here);
	}
}

KEEP void resume(void)
{
	spin();
	swapcontext(&here, &there);
}

int main(int argc, char **argv)
{
	static char stack[256 * 1024];
	struct run run;

	getcontext(&there);
	there.uc_stack.ss_sp = stack;
	there.uc_stack.ss_size = sizeof(stack);
	there.uc_link = &here;
	makecontext(&there, coroutine, 0);
	run = start(argc, argv);
	while (running(&run))
		resume();
	return finish(&run);
}
