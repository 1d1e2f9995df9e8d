/* Touches new memory page by page, gives its CPU away, goes from CPU to CPU, and reads pages of a file through a mapping,
 * in functions of their own; then says how often, by the kernel's own count (getrusage(2)).
 *
 *     faults SECONDS [FILE]
 *
 * Nothing happens for the first SECONDS, so that a recording can begin. Of FILE, which may be a block device, the first
 * 200 pages are thrown out of the page cache and read again.
 *
 *     truth touch 0 COUNT                 minor page faults in touch()
 *     truth yield 0 COUNT                 context switches in yield()
 *     truth move 0 COUNT                  moves to another CPU in move(); 0: there is one only
 *     truth fetch 0 COUNT                 major page faults in fetch()
 */
#include "common.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define PAGES 5000
#define NAPS 300
#define MOVES 50
#define FETCHED 200

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

static void go_to(int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		abort();
}

/* From a CPU, where the thread must stay, to another one and back. */
KEEP void move(int from, int to)
{
	for (int lap = 0; lap < MOVES; lap++)
		go_to(lap % 2 ? from : to);
}

/* Two CPUs that it may use; false: there is one only. */
static int two_cpus(int cpus[2])
{
	cpu_set_t allowed;
	int found = 0;

	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		abort();
	for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++)
		if (CPU_ISSET(cpu, &allowed))
			cpus[found++] = cpu;
	return found == 2;
}

KEEP void fetch(const volatile char *pages)
{
	for (long page = 0; page < FETCHED; page++)
		(void)pages[page * 4096];
	NO_TAIL_CALL();
}

static const char *map_uncached(const char *name)
{
	int file = open(name, O_RDONLY | O_CLOEXEC);
	char *at = mmap(NULL, FETCHED * 4096, PROT_READ, MAP_SHARED, file, 0);

	/* what lies around a page is not to be read with it */
	if (file < 0 || at == MAP_FAILED || fsync(file) || posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) ||
	    madvise(at, FETCHED * 4096, MADV_RANDOM))
		abort();
	return at;
}

int main(int argc, char **argv)
{
	struct timespec before = { argc > 1 ? atoi(argv[1]) : 2, 0 };
	const char *pages = argc > 2 ? map_uncached(argv[2]) : NULL;
	struct run run = start(argc, argv);
	struct rusage begin, middle, end;
	char *memory = mmap(NULL, PAGES * 4096L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int cpus[2], has_two;

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
	has_two = two_cpus(cpus);
	if (has_two) {
		go_to(cpus[0]);
		move(cpus[0], cpus[1]);
	}
	printf("truth move 0 %d\n", has_two ? MOVES : 0);
	if (pages) {
		begin = usage();
		fetch(pages);
		end = usage();
		printf("truth fetch 0 %ld\n", end.ru_majflt - begin.ru_majflt);
	}
	return finish(&run);
}
