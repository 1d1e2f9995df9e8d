/* Processes that live 50 ms, one after the other: each is a new program image (fork, exec).
 *
 * All CPU time is in the children. True stack:  main; short_lived; short_work.
 * A profiler that needs time to learn of a process sees little of this.
 */
#include "common.h"

#include <sys/wait.h>

#define LIFE 50000000

KEEP void short_work(void) { work_until(LIFE); NO_TAIL_CALL(); }
KEEP void short_lived(void) { short_work(); NO_TAIL_CALL(); }

int main(int argc, char **argv)
{
	int children = 0, status;
	struct run run;

	if (argc == 2 && !strcmp(argv[1], "--child")) {
		die_with_parent();
		short_lived();
		return 0;
	}
	run = start(argc, argv);
	while (running(&run)) {
		pid_t pid = fork();

		if (pid == 0) {
			execl("/proc/self/exe", argv[0], "--child", (char *)NULL);
			_exit(1);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
			return 1;
		children++;
	}
	printf("children %d\n", children);
	truth("short_work", (uint64_t)children * LIFE, (uint64_t)children * LIFE);
	return finish(&run);
}
