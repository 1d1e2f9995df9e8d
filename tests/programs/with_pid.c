/* Runs a command under a pid of one's choice, so that a pid can be used twice within a recording.
 *
 *   with_pid PID COMMAND [ARGUMENT...]     waits for the command; its status is ours
 *   with_pid PID - SECONDS                 no exec: the child works so long in no_exec_work
 *
 * True stack without exec:  main; no_exec_child; no_exec_work.
 * Needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, and clone3 with set_tid (Linux 5.5). Exit status 3: cannot.
 */
#include "common.h"

#include <errno.h>
#include <linux/sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>

KEEP void no_exec_work(uint64_t ns) { work_until(thread_ns() + ns); NO_TAIL_CALL(); }
KEEP void no_exec_child(uint64_t ns) { no_exec_work(ns); NO_TAIL_CALL(); }

/* Like fork. A pid is free only after its process was waited for, and a bit later: tries for a second. */
static pid_t fork_as(pid_t pid)
{
	struct clone_args args = {
		.exit_signal = SIGCHLD,
		.set_tid = (uintptr_t)&pid,
		.set_tid_size = 1,
	};
	uint64_t end = wall_ns() + NS_PER_S;
	long child;

	do
		child = syscall(SYS_clone3, &args, sizeof(args));
	while (child < 0 && errno == EEXIST && wall_ns() < end);
	return (pid_t)child;
}

int main(int argc, char **argv)
{
	int status;
	pid_t child;

	if (argc < 3 || (!strcmp(argv[2], "-") && argc != 4)) {
		fputs("usage: with_pid PID COMMAND [ARGUMENT...] | with_pid PID - SECONDS\n", stderr);
		return 2;
	}
	die_with_parent();
	child = fork_as(atoi(argv[1]));
	if (child < 0) {
		fprintf(stderr, "with_pid: %s: %s\n", argv[1], strerror(errno));
		return 3;
	}
	if (!child) {
		die_with_parent();
		if (!strcmp(argv[2], "-")) {
			no_exec_child((uint64_t)(atof(argv[3]) * NS_PER_S));
			_exit(0);
		}
		execvp(argv[2], argv + 2);
		fprintf(stderr, "with_pid: %s: %s\n", argv[2], strerror(errno));
		_exit(3);
	}
	if (waitpid(child, &status, 0) != child)
		return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
