/* Touches new memory page by page, and gives its CPU away, in functions of their own; then says how often, by the
 * kernel's own count (getrusage(2)).
 *
 * Nothing happens for the first SECONDS, so that a recording can begin.
 *
 *     truth touch 0 COUNT                 minor page faults in touch()
 *     truth yield 0 COUNT                 context switches in yield()
 */
#include "common.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define PAGES 5000
#define NAPS 300

static struct rusage usage(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage;
}

KEEP void touch(char *memory)
{
	for (long page = 0; page < PAGES; page++)
		memory[page * 4096] = 1;
	NO_TAIL_CALL();
}

KEEP void yield(void)
{
	struct timespec moment = { 0, 100000 };

	for (int lap = 0; lap < NAPS; lap++)
		nanosleep(&moment, NULL);
}

int main(int argc, char **argv)
{
	struct timespec before = { argc > 1 ? atoi(argv[1]) : 2, 0 };
	struct run run = start(argc, argv);
	struct rusage begin, middle, end;
	char *memory = mmap(NULL, PAGES * 4096L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED || madvise(memory, PAGES * 4096L, MADV_NOHUGEPAGE))
		return 1;
	nanosleep(&before, NULL);
	begin = usage();
	touch(memory);
	middle = usage();
	yield();
	end = usage();
	printf("truth touch 0 %ld\n", middle.ru_minflt - begin.ru_minflt);
	printf("truth yield 0 %ld\n",
	       end.ru_nvcsw - middle.ru_nvcsw + end.ru_nivcsw - middle.ru_nivcsw);
	return finish(&run);
}
