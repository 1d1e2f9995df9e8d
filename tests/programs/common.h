/* What the C and C++ programs with known truth share.
 *
 *   PROGRAM [SECONDS] [more]     run for SECONDS of wall time (default 10)
 *
 * Standard output:
 *   ready                        the steady state begins now
 *   truth NAME SHARE SECONDS     at the end: how much CPU time NAME (with what it calls) really used
 *   cpu SECONDS                  at the end: CPU time of the whole process since `ready`
 *
 * The truth comes from the kernel's CPU clock of the thread, not from any profiler.
 *
 * A program dies with the thread that started it, so a failing test leaves nothing behind. A program
 * that is started by something which ends at once (a shell in the background) wants KEEP=1.
 */
#ifndef COMMON_H
#define COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* A function that stays one function under its own name: not inlined, not cloned. */
#if defined(__clang__)
#define KEEP __attribute__((noinline))
#else
#define KEEP __attribute__((noinline, noclone, noipa))
#endif

/* Stands after a call, so that the compiler cannot turn the call into a jump. */
#define NO_TAIL_CALL() __asm__ volatile("" ::: "memory")

#define NS_PER_S 1000000000ull

static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static inline uint64_t thread_ns(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static inline uint64_t wall_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/*
 * Some 50 microseconds of arithmetic, always in the caller's own code. The clock is read in between, which is a
 * system call: it takes a microsecond while somebody else records those.
 */
static inline __attribute__((always_inline)) void work(void)
{
	uint64_t x = 88172645463325252ull;

	for (int i = 0; i < 20000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		__asm__ volatile("" : "+r"(x));
	}
}

/* Works until this thread has used `end` nanoseconds of CPU. */
static inline __attribute__((always_inline)) void work_until(uint64_t end)
{
	do
		work();
	while (thread_ns() < end);
}

struct run {
	uint64_t wall_end;
	uint64_t cpu_start;	/* of the process */
};

static inline void die_with_parent(void)
{
	pid_t parent = getppid();

	if (getenv("KEEP"))
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)	/* it died in between */
		_exit(1);
}

/* Reads the run time and says `ready`. */
static inline struct run start(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 10;
	struct run run;

	die_with_parent();
	run.wall_end = wall_ns() + (uint64_t)(seconds * NS_PER_S);
	run.cpu_start = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	puts("ready");
	fflush(stdout);
	return run;
}

/* Until whoever started the program writes something to its standard input, or closes it. */
static inline void wait_for_word(void)
{
	char word;

	while (read(0, &word, 1) < 0)
		;
}

static inline int running(const struct run *run)
{
	return wall_ns() < run->wall_end;
}

static inline void truth(const char *name, uint64_t ns, uint64_t total)
{
	printf("truth %s %.4f %.4f\n", name, total ? (double)ns / (double)total : 0,
	       (double)ns / NS_PER_S);
}

static inline int finish(const struct run *run)
{
	printf("cpu %.4f\n", (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - run->cpu_start) / NS_PER_S);
	return 0;
}

/* Lengths of rounds: 7 to 13 ms, irregular, so that no sampling period can stay in step with them. */
static inline uint64_t round_ns(void)
{
	static uint64_t state = 0x9e3779b97f4a7c15ull;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return 7000000 + state % 6000000;
}

#endif
