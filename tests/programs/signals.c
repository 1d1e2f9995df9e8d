/* A signal handler in the middle of a stack.
 *
 *   signals [SECONDS] [altstack]     altstack: the handler runs on its own stack (SA_ONSTACK)
 *
 * A timer interrupts the work about every 7 ms of CPU time and the handler works for 2 ms.
 * True stacks:  main; work_outer; work_inner                                           (and below it, tiny_call)
 *               main; work_outer; work_inner; <signal trampoline>; on_timer; handler_work
 */
#include "common.h"

#include <sys/time.h>

static volatile uint64_t in_handler;
static volatile unsigned sink;

KEEP void handler_work(void) { work_until(thread_ns() + 2000000); NO_TAIL_CALL(); }

KEEP void on_timer(int sig)
{
	uint64_t begin = thread_ns();

	(void)sig;
	handler_work();
	in_handler += thread_ns() - begin;
}

/* Mostly prologue and epilogue: the signal often finds the stack half built. */
KEEP unsigned tiny_call(unsigned x)
{
	__asm__ volatile("" : "+r"(x)::"rbx", "r12", "r13", "r14");
	return x + 1;
}

KEEP void work_inner(uint64_t end)
{
	do {
		for (int i = 0; i < 3000; i++)
			sink = tiny_call((unsigned)i);
	} while (thread_ns() < end);
	NO_TAIL_CALL();
}

KEEP void work_outer(const struct run *run)
{
	while (running(run))
		work_inner(thread_ns() + 10000000);
}

int main(int argc, char **argv)
{
	struct itimerval timer = { { 0, 9000 }, { 0, 9000 } };
	struct sigaction action;
	stack_t stack;
	struct run run;
	uint64_t total;

	memset(&action, 0, sizeof(action));
	action.sa_handler = on_timer;
	action.sa_flags = SA_RESTART;
	if (argc > 2 && !strcmp(argv[2], "altstack")) {
		memset(&stack, 0, sizeof(stack));
		stack.ss_size = 256 * 1024;
		stack.ss_sp = malloc(stack.ss_size);
		sigaltstack(&stack, NULL);
		action.sa_flags |= SA_ONSTACK;
	}
	sigaction(SIGPROF, &action, NULL);
	setitimer(ITIMER_PROF, &timer, NULL);
	run = start(argc, argv);
	work_outer(&run);
	memset(&timer, 0, sizeof(timer));
	setitimer(ITIMER_PROF, &timer, NULL);
	total = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - run.cpu_start;
	truth("handler_work", in_handler, total);
	truth("work_outer", total, total);	/* with what it calls: all of it */
	return finish(&run);
}
