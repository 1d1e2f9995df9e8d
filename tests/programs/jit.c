/* Runs code that it makes itself, and tells its names as runtimes with a JIT do: in /tmp/perf-PID.map.
 *
 *   jit SECONDS [late]     late: writes the map at its end, not at its beginning
 *
 * 70 % of the CPU time in `jit:seventy`, 30 % in `jit:thirty`, which keep a frame pointer. Without `late` the map is removed
 * at the end, so that nothing of it is left when the program has ended.
 * True stacks:  main; run; jit:seventy   and   main; run; jit:thirty.
 */
#include "common.h"

#include <sys/mman.h>

/* push %rbp; mov %rsp, %rbp; 1: dec %edi; jnz 1b; pop %rbp; ret */
static const unsigned char spin[] = { 0x55, 0x48, 0x89, 0xe5, 0xff, 0xcf, 0x75, 0xfc, 0x5d, 0xc3 };

typedef void (*function)(int turns);

KEEP uint64_t run(function work_in, uint64_t ns)
{
	uint64_t begin = thread_ns(), now;

	do {
		work_in(100000);
		now = thread_ns();
	} while (now < begin + ns);
	return now - begin;
}

static int write_map(const char *path, const unsigned char *code)
{
	FILE *map = fopen(path, "w");

	if (!map)
		return -1;
	fprintf(map, "%lx %zx jit:seventy\n%lx %zx jit:thirty\n", (unsigned long)code, sizeof(spin),
		(unsigned long)code + 64, sizeof(spin));
	return fclose(map);
}

int main(int argc, char **argv)
{
	int is_late = argc > 2 && !strcmp(argv[2], "late");
	uint64_t seventy = 0, thirty = 0;
	unsigned char *code;
	char path[64];
	struct run run_for;

	code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (code == MAP_FAILED)
		return 1;
	memcpy(code, spin, sizeof(spin));
	memcpy(code + 64, spin, sizeof(spin));
	if (mprotect(code, 4096, PROT_READ | PROT_EXEC))
		return 1;
	snprintf(path, sizeof(path), "/tmp/perf-%d.map", getpid());
	if (!is_late && write_map(path, code))
		return 1;
	run_for = start(argc, argv);
	while (running(&run_for)) {
		uint64_t ns = round_ns();

		seventy += run((function)(uintptr_t)code, ns * 7 / 10);
		thirty += run((function)(uintptr_t)(code + 64), ns * 3 / 10);
	}
	if (is_late ? write_map(path, code) : unlink(path))
		return 1;
	truth("jit:seventy", seventy, seventy + thirty);
	truth("jit:thirty", thirty, seventy + thirty);
	return finish(&run_for);
}
