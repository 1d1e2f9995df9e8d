/* Samples that are taken in the kernel: a third each of long reads, of short system calls and of page faults.
 *
 * True stacks:  main; one_round; read_zero; read; [kernel]
 *               main; one_round; short_calls; syscall; [kernel]
 *               main; one_round; touch_pages; [kernel: page fault, no call of the program's own]
 */
#include "common.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define BUFFER (256 * 1024)
#define PAGES 64

static uint64_t used[3];
static char buffer[BUFFER];
static int zero;

KEEP void read_zero(uint64_t end)
{
	do
		if (read(zero, buffer, BUFFER) != BUFFER)
			exit(1);
	while (thread_ns() < end);
}

KEEP void short_calls(uint64_t end)
{
	do
		for (int i = 0; i < 20; i++)
			syscall(SYS_getppid);
	while (thread_ns() < end);
}

KEEP void touch_pages(uint64_t end)
{
	do {
		volatile char *area = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (area == MAP_FAILED)
			exit(1);
		for (int i = 0; i < PAGES; i++)
			area[i * 4096] = 1;
		munmap((void *)area, PAGES * 4096);
	} while (thread_ns() < end);
}

KEEP void one_round(void)
{
	uint64_t begin = thread_ns(), length = round_ns(), at = begin, next;

	read_zero(begin + length / 3);
	used[0] += (next = thread_ns()) - at;
	short_calls(begin + length * 2 / 3);
	used[1] += (at = thread_ns()) - next;
	touch_pages(begin + length);
	used[2] += thread_ns() - at;
}

int main(int argc, char **argv)
{
	struct run run;
	uint64_t total;

	zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	if (zero < 0)
		return 1;
	run = start(argc, argv);
	while (running(&run))
		one_round();
	total = used[0] + used[1] + used[2];
	truth("read_zero", used[0], total);
	truth("short_calls", used[1], total);
	truth("touch_pages", used[2], total);
	return finish(&run);
}
