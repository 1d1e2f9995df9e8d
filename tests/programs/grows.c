/* Makes its resident memory grow in many ways, each in a function of its own, and says by how much, as the kernel
 * counts it (RssAnon, RssFile and RssShmem of /proc/self/status, proc_pid_status(5)).
 *
 * Nothing happens for the first SECONDS, so that a recording can begin. The memory of a function is given back in a
 * function of its own, by_NAME_back. Linux 6.2 to 6.15 show these numbers without a batch of pages for each CPU.
 *
 *     truth by_NAME KIND BYTES            KIND: 0 anonymous, 1 file, 2 shared; below 0: it shrank
 */
#include "common.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define MIB (1l << 20)
#define SIZE (64 * MIB)
#define HUGE (2 * MIB)
/* the stack of the first thread may be 8 MiB */
#define STACK (6 * MIB)
#define THREADS 4

static const char *const kinds[] = { "RssAnon:", "RssFile:", "RssShmem:" };
#define NR_KINDS 3

static void resident(long *bytes)
{
	char line[256];
	FILE *file = fopen("/proc/self/status", "r");

	while (file && fgets(line, sizeof(line), file))
		for (int k = 0; k < NR_KINDS; k++)
			if (!strncmp(line, kinds[k], strlen(kinds[k])))
				bytes[k] = atol(line + strlen(kinds[k])) * 1024;
	if (!file)
		abort();
	fclose(file);
}

static void *map(long size, int flags)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (at == MAP_FAILED)
		abort();
	return at;
}

static void *map_small(long size)
{
	void *at = map(size, 0);

	if (madvise(at, size, MADV_NOHUGEPAGE))
		abort();
	return at;
}

static void touch(volatile char *at, long size)
{
	for (long i = 0; i < size; i += 4096)
		at[i] = 1;
}

static char *memory;
static int file;

/* ---- what grows ------------------------------------------------------- */

KEEP void by_mmap(void) { touch(memory = map_small(SIZE), SIZE); NO_TAIL_CALL(); }

KEEP void by_huge(void)
{
	char *at = map(SIZE + HUGE, 0);

	memory = at;
	at += -(uintptr_t)at & (HUGE - 1);
	madvise(at, SIZE, MADV_HUGEPAGE);
	touch(at, SIZE);
}

KEEP void by_populate(void) { memory = map(SIZE, MAP_POPULATE); NO_TAIL_CALL(); }

/* malloc uses brk in the first thread for what is small */
KEEP void by_malloc(void)
{
	for (long all = 0; all < SIZE; all += 1008)
		memset(malloc(1000), 1, 1000);
}

KEEP void by_brk(void) { touch(sbrk(SIZE), SIZE); NO_TAIL_CALL(); }

/* page faults inside of a system call; the page cache is nobody's */
KEEP void by_read(void)
{
	memory = map_small(SIZE);
	for (long at = 0; at < SIZE; at += MIB)
		if (pread(file, memory + at, MIB, at) != MIB)
			abort();
}

static void touch_read(const volatile char *at, long size)
{
	for (long i = 0; i < size; i += 4096)
		(void)at[i];
}

KEEP void by_file(void)
{
	memory = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, file, 0);
	touch_read(memory, SIZE);
	NO_TAIL_CALL();
}

/* the pages are there, and then there are others in their place */
KEEP void by_private_file(void)
{
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	touch(memory, SIZE);
	NO_TAIL_CALL();
}

KEEP void by_shared(void)
{
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	touch(memory, SIZE);
	NO_TAIL_CALL();
}

KEEP void by_zero_page(void) { touch_read(memory = map_small(SIZE), SIZE); NO_TAIL_CALL(); }

KEEP void by_mremap(void)
{
	touch(memory = map_small(SIZE / 2), SIZE / 2);
	memory = mremap(memory, SIZE / 2, SIZE, MREMAP_MAYMOVE);
	touch(memory + SIZE / 2, SIZE / 2);
	NO_TAIL_CALL();
}

KEEP int by_stack(long left)
{
	volatile char frame[4096];

	frame[0] = 1;
	return left > 0 ? by_stack(left - (long)sizeof(frame)) + frame[0] : 0;
}

static void *enter_thread(void *at) { touch(at, SIZE); return NULL; }

KEEP void by_threads(void)
{
	pthread_t ids[THREADS];

	memory = map_small(SIZE * THREADS);
	for (long n = 0; n < THREADS; n++)
		if (pthread_create(&ids[n], NULL, enter_thread, memory + n * SIZE))
			abort();
	for (int n = 0; n < THREADS; n++)
		pthread_join(ids[n], NULL);
}

/* Three pages and one, in turns that are in step with every number of pages that is a power of two. */
KEEP void by_three(char *at) { touch(at, 3 * 4096); NO_TAIL_CALL(); }
KEEP void by_one(char *at) { touch(at, 4096); NO_TAIL_CALL(); }

KEEP void by_turns(void)
{
	memory = map_small(SIZE);
	for (long at = 0; at < SIZE; at += 4 * 4096) {
		by_three(memory + at);
		by_one(memory + at + 3 * 4096);
	}
}

/* ---- what gives back -------------------------------------------------- */

KEEP void by_mmap_back(void) { munmap(memory, SIZE); NO_TAIL_CALL(); }
KEEP void by_huge_back(void) { munmap(memory, SIZE + HUGE); NO_TAIL_CALL(); }
KEEP void by_populate_back(void) { madvise(memory, SIZE, MADV_DONTNEED); NO_TAIL_CALL(); }
KEEP void by_brk_back(void) { if (sbrk(-SIZE) == (void *)-1) abort(); NO_TAIL_CALL(); }
KEEP void by_read_back(void) { munmap(memory, SIZE); NO_TAIL_CALL(); }
KEEP void by_private_file_back(void) { munmap(memory, SIZE); NO_TAIL_CALL(); }
KEEP void by_mremap_back(void) { munmap(memory, SIZE); NO_TAIL_CALL(); }
KEEP void by_turns_back(void) { munmap(memory, SIZE); NO_TAIL_CALL(); }
KEEP void by_file_back(void) { munmap(memory, SIZE); NO_TAIL_CALL(); }
KEEP void by_shared_back(void) { munmap(memory, SIZE); NO_TAIL_CALL(); }
KEEP void by_threads_back(void) { munmap(memory, SIZE * THREADS); NO_TAIL_CALL(); }

/* ---- the truth -------------------------------------------------------- */

static void measure(const char *name, void (*body)(void))
{
	long before[NR_KINDS], after[NR_KINDS];

	resident(before);
	body();
	resident(after);
	for (int k = 0; k < NR_KINDS; k++)
		printf("truth %s %d %ld\n", name, k, after[k] - before[k]);
	fflush(stdout);
}

static void on_stack(void) { by_stack(STACK); }

/* What was there before the fork is the parent's too: to write to it makes nothing grow. */
KEEP void by_copy(void) { touch(memory, SIZE); NO_TAIL_CALL(); }
KEEP void by_child(void) { touch(map_small(SIZE), SIZE); NO_TAIL_CALL(); }

static void on_fork(void)
{
	pid_t child = fork();

	if (!child) {
		measure("by_copy", by_copy);
		measure("by_child", by_child);
		_exit(0);
	}
	waitpid(child, NULL, 0);
}

static void make_file(void)
{
	char name[] = "/var/tmp/grows-XXXXXX";
	char *block = malloc(MIB);

	file = mkstemp(name);
	unlink(name);
	memset(block, 1, MIB);
	for (long at = 0; at < SIZE; at += MIB)
		if (write(file, block, MIB) != MIB)
			abort();
	free(block);
}

#define MEASURE(name) measure(#name, name)

int main(int argc, char **argv)
{
	struct timespec before = { argc > 1 ? atoi(argv[1]) : 2, 0 };
	struct run run;

	make_file();
	run = start(argc, argv);
	nanosleep(&before, NULL);
	measure("by_stack", on_stack);
	MEASURE(by_mmap);
	on_fork();
	MEASURE(by_mmap_back);
	MEASURE(by_huge);
	MEASURE(by_huge_back);
	MEASURE(by_populate);
	MEASURE(by_populate_back);
	MEASURE(by_brk);
	MEASURE(by_brk_back);
	MEASURE(by_malloc);
	MEASURE(by_read);
	MEASURE(by_read_back);
	MEASURE(by_file);
	MEASURE(by_file_back);
	MEASURE(by_private_file);
	MEASURE(by_private_file_back);
	MEASURE(by_shared);
	MEASURE(by_shared_back);
	MEASURE(by_zero_page);
	MEASURE(by_mremap);
	MEASURE(by_mremap_back);
	MEASURE(by_turns);
	MEASURE(by_turns_back);
	MEASURE(by_threads);
	MEASURE(by_threads_back);
	return finish(&run);
}
