/* Works in early_work() until it gets SIGUSR1, and in late_work() from then on: `late` is said in between. */
#include "common.h"

static volatile sig_atomic_t turned;

static void turn(int signal)
{
	(void)signal;
	turned = 1;
}

KEEP void early_work(void) { work(); NO_TAIL_CALL(); }
KEEP void late_work(void) { work(); NO_TAIL_CALL(); }

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = turn };
	struct run run;

	sigaction(SIGUSR1, &action, NULL);
	run = start(argc, argv);
	while (running(&run) && !turned)
		early_work();
	puts("late");
	fflush(stdout);
	while (running(&run))
		late_work();
	return finish(&run);
}
