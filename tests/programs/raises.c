/* Sends itself a signal again and again: most of its time is the kernel's, which delivers it and comes back from its handler.
 *
 *   raises [SECONDS]
 *
 * True stacks:  main; send; raise; ...
 *               main; send; raise; ...; <signal trampoline>; and the handler, or rt_sigreturn in the kernel
 */
#include "common.h"

static volatile unsigned signals;

KEEP void on_signal(int sig)
{
	(void)sig;
	signals++;
}

KEEP void send(const struct run *run)
{
	while (running(run))
		for (int i = 0; i < 1000; i++)
			raise(SIGUSR1);
}

int main(int argc, char **argv)
{
	struct run run;

	signal(SIGUSR1, on_signal);
	run = start(argc, argv);
	send(&run);
	return finish(&run);
}
