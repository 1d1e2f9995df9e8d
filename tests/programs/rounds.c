/* The same again and again, in three functions: new pages, a nap, and bytes through a pipe.
 *
 *     rounds ROUNDS                begins when it is given a line, or the end, on its standard input
 *
 *     truth touch 0 COUNT          minor page faults in touch(), by getrusage(2)
 *     truth rest 0 SECONDS         time in rest() less CPU time of the thread
 *     truth pass 0 BYTES           what write(2) and read(2) gave in pass()
 */
#include "common.h"

#include <sys/mman.h>
#include <sys/resource.h>

#define PAGES 16
#define NAP 4000000
#define BYTES 100

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_minflt;
}

KEEP void touch(char *memory)
{
	for (long page = 0; page < PAGES; page++)
		memory[page * 4096] = 1;
	NO_TAIL_CALL();
}

KEEP void rest(void)
{
	struct timespec time = { 0, NAP };

	nanosleep(&time, NULL);
	NO_TAIL_CALL();
}

KEEP long pass(const int *ends)
{
	char bytes[BYTES] = { 0 };

	return write(ends[1], bytes, BYTES) + read(ends[0], bytes, BYTES);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 500, ends[2];
	long touched = 0, passed = 0;
	uint64_t rested = 0;
	struct run run;

	if (pipe(ends))
		return 1;
	run = start(argc, argv);
	wait_for_word();
	for (int round = 0; round < rounds; round++) {
		char *memory = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		uint64_t wall, cpu;
		long was;

		if (memory == MAP_FAILED || madvise(memory, PAGES * 4096, MADV_NOHUGEPAGE))
			return 1;
		was = faults();
		touch(memory);
		touched += faults() - was;
		munmap(memory, PAGES * 4096);
		wall = wall_ns();
		cpu = thread_ns();
		rest();
		rested += wall_ns() - wall - (thread_ns() - cpu);
		passed += pass(ends);
	}
	printf("truth touch 0 %ld\n", touched);
	printf("truth rest 0 %.6f\n", (double)rested / NS_PER_S);
	printf("truth pass 0 %ld\n", passed);
	return finish(&run);
}
