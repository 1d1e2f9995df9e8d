/* Forks, works, and becomes another program image by exec under the same pid.
 *
 * Each child works 60 ms of CPU time in before_exec, executes this file again in another role, and works 60 ms in
 * after_exec; one child after the other. With a second argument the child executes that file instead of itself
 * (it is given the argument `--after`, so it should be another build of this program).
 * Shares: 50 % each. True stacks:  main; child; before_exec   and   main; after_exec.
 */
#include "common.h"

#include <sys/wait.h>

#define SLICE 60000000

KEEP void before_exec(void) { work_until(thread_ns() + SLICE); NO_TAIL_CALL(); }
KEEP void after_exec(void) { work_until(thread_ns() + SLICE); NO_TAIL_CALL(); }

KEEP void child(const char *other)
{
	die_with_parent();
	before_exec();
	execl(other, other, "--after", (char *)NULL);
	perror(other);
	_exit(1);
}

int main(int argc, char **argv)
{
	const char *other = argc > 2 ? argv[2] : "/proc/self/exe";
	int children = 0, status;
	struct run run;

	if (argc == 2 && !strcmp(argv[1], "--after")) {
		after_exec();
		return 0;
	}
	run = start(argc, argv);
	while (running(&run)) {
		pid_t pid = fork();

		if (pid == 0)
			child(other);
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
			return 1;
		children++;
	}
	printf("children %d\n", children);
	truth("before_exec", (uint64_t)children * SLICE, (uint64_t)children * SLICE * 2);
	truth("after_exec", (uint64_t)children * SLICE, (uint64_t)children * SLICE * 2);
	return finish(&run);
}
