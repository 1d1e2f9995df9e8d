/* Allocates in every way there is, each in a function of its own, and says what it allocated and what it did not free.
 *
 *     allocs [wait | now] [PERIOD]
 *     allocs churn SECONDS         allocates and frees all the time, in stacks that are known: main, churn, churn_NAME
 *     allocs children SECONDS      the same in a child process that executes nothing
 *     allocs steps                 see below
 *     allocs replaced              does the first step, and executes `allocs steps`
 *
 * With `wait` it begins when it is given a line, or the end, on its standard input. PERIOD: for which sampling period the
 * variances below are meant (1: none is left out).
 *
 *     truth by_NAME OBJECTS BYTES INUSE_OBJECTS INUSE_BYTES      and the variances of these four, and the objects and
 *                                  bytes that one allocation stands for at most
 *     use OBJECTS BYTES            of steps: what by_step() has allocated and not freed after a step; then `done`
 *     calls CALLS SECONDS          of churn: of malloc and free together, and its CPU time
 *     arena BYTES        how much more the C library says it has given out (mallinfo2; glibc only), and
 *     mine BYTES         how much more the program has
 *
 * An allocation of s bytes is kept with the probability p = 1 - exp(-s / PERIOD) and counts 1 / p times, so that the
 * variance of the sum of its objects is the sum of (1 - p) / p, that of the bytes the sum of s * s * (1 - p) / p.
 */
#include "common.h"

#include <dlfcn.h>
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <sys/wait.h>

struct tally {
	const char *name;
	uint64_t objects, bytes, inuse_objects, inuse_bytes;
	double variance[4];		/* of these */
	double most[2];			/* objects and bytes that one stands for at most */
	struct tally *next;
};

static struct tally *all;
static double period = 1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t next_random(void)
{
	static __thread uint64_t state = 0x9e3779b97f4a7c15ull;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static double variance(size_t size)
{
	double p = period > 1 ? -expm1(-(double)size / period) : 1;

	return (1 - p) / p;
}

static void came(struct tally *t, void *block, size_t size)
{
	double each = variance(size), squared = (double)size * (double)size;

	if (!block)
		abort();
	if (t->most[0] < 1 + each)
		t->most[0] = 1 + each;
	if (t->most[1] < (1 + each) * (double)size)
		t->most[1] = (1 + each) * (double)size;
	t->objects++;
	t->bytes += size;
	t->inuse_objects++;
	t->inuse_bytes += size;
	t->variance[0] += each;
	t->variance[1] += each * squared;
	t->variance[2] += each;
	t->variance[3] += each * squared;
}

static void went(struct tally *t, size_t size)
{
	double each = variance(size);

	t->inuse_objects--;
	t->inuse_bytes -= size;
	t->variance[2] -= each;
	t->variance[3] -= each * (double)size * (double)size;
}

static void publish(struct tally *t)
{
	pthread_mutex_lock(&lock);
	t->next = all;
	all = t;
	pthread_mutex_unlock(&lock);
}

#define TALLY(function) static struct tally t = { .name = #function }
/* kept, so that the compiler cannot leave an allocation out */
static void *volatile kept;

enum { MANY = 4000 };

/* Of the smallest, too few are taken for what is said of variances to tell much. */
static size_t small_size(void)
{
	size_t least = period > 1 ? 32 : 1;

	return least + next_random() % (513 - least);
}

static size_t large_size(void)
{
	return 4096 + next_random() % 65536;
}

/* ---- what allocates ----------------------------------------------------- */

/* three of four are freed */
#define LOOP(number, size_of, allocate)				\
	for (int i = 0; i < (number); i++) {			\
		size_t size = size_of();			\
		void *block = allocate;				\
								\
		came(&t, block, size);				\
		kept = block;					\
		if (i % 4) {					\
			free(block);				\
			went(&t, size);				\
		}						\
	}							\
	publish(&t)

static void *aligned_by_posix(size_t size)
{
	void *block = NULL;

	if (posix_memalign(&block, 256, size))
		abort();
	return block;
}

KEEP void by_malloc(void) { TALLY(by_malloc); LOOP(MANY, small_size, malloc(size)); }
KEEP void by_large(void) { TALLY(by_large); LOOP(MANY / 4, large_size, malloc(size)); }
KEEP void by_calloc(void) { TALLY(by_calloc); LOOP(MANY, small_size, calloc(1, size)); }
KEEP void by_large_calloc(void) { TALLY(by_large_calloc); LOOP(MANY / 8, large_size, calloc(size, 1)); }
KEEP void by_aligned_alloc(void) { TALLY(by_aligned_alloc); LOOP(MANY / 4, small_size, aligned_alloc(64, size)); }
KEEP void by_memalign(void) { TALLY(by_memalign); LOOP(MANY / 4, small_size, memalign(128, size)); }
KEEP void by_posix_memalign(void) { TALLY(by_posix_memalign); LOOP(MANY / 4, small_size, aligned_by_posix(size)); }
KEEP void by_valloc(void) { TALLY(by_valloc); LOOP(MANY / 16, small_size, valloc(size)); }
#ifdef __GLIBC__
KEEP void by_pvalloc(void) { TALLY(by_pvalloc); LOOP(MANY / 16, small_size, pvalloc(size)); }
KEEP void by_reallocarray(void) { TALLY(by_reallocarray); LOOP(MANY / 4, small_size, reallocarray(NULL, size, 1)); }
#endif

/* Each step of a chain frees what was there and allocates what is there now: in place or elsewhere. */
KEEP void by_realloc(void)
{
	TALLY(by_realloc);

	for (int chain = 0; chain < 200; chain++) {
		void *block = NULL;
		size_t was = 0;

		for (int step = 0; step < 12; step++) {
			size_t size = step % 3 == 2 ? 1 + was / 2 : was * 2 + small_size();

			block = realloc(block, size);
			if (was)
				went(&t, was);
			came(&t, block, size);
			was = size;
		}
		kept = block;
		if (chain % 2) {
			free(block);
			went(&t, was);
		}
	}
	publish(&t);
}

/* What is too large fails, and leaves what was there. */
KEEP void by_failure(void)
{
	TALLY(by_failure);
	static volatile size_t too_much = SIZE_MAX / 2 - 4096;

	for (int i = 0; i < 100; i++) {
		void *block = malloc(100);

		came(&t, block, 100);
		kept = malloc(too_much);
		if (kept || calloc(too_much, 16))
			abort();
		kept = block;
		if (realloc(kept, too_much))
			abort();
	}
	publish(&t);
}

/* Allocated in one thread, freed in others, which end before and after. */
struct handed {
	void *block[MANY];
	size_t size[MANY];
	int from, to;
};

KEEP void *by_other_thread(void *argument)
{
	TALLY(by_other_thread);
	struct handed *handed = argument;

	for (int i = 0; i < MANY; i++) {
		handed->size[i] = small_size();
		handed->block[i] = malloc(handed->size[i]);
		came(&t, handed->block[i], handed->size[i]);
		/* all but each tenth is freed by others */
		if (i % 10)
			went(&t, handed->size[i]);
	}
	publish(&t);
	return NULL;
}

KEEP void *frees(void *argument)
{
	struct handed *handed = argument;

	for (int i = handed->from; i < handed->to; i++)
		if (i % 10)
			free(handed->block[i]);
	return NULL;
}

static void hand_over(void)
{
	static struct handed handed, part[4];
	pthread_t thread[4];

	if (pthread_create(&thread[0], NULL, by_other_thread, &handed))
		abort();
	pthread_join(thread[0], NULL);
	for (int i = 0; i < 4; i++) {
		part[i] = handed;
		part[i].from = i * MANY / 4;
		part[i].to = (i + 1) * MANY / 4;
		if (pthread_create(&thread[i], NULL, frees, &part[i]))
			abort();
	}
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
}

/* Blocks that wander from thread to thread while all of them allocate: an address soon belongs to somebody else. */
static void *volatile shelf[64];

KEEP void *by_many_threads(void *argument)
{
	struct tally *t = argument;

	for (int i = 0; i < MANY; i++) {
		size_t size = 64;
		void *block = malloc(size);

		came(t, block, size);
		block = __atomic_exchange_n(&shelf[next_random() % 64], block, __ATOMIC_SEQ_CST);
		if (block) {
			free(block);
			went(t, size);
		}
	}
	return NULL;
}

static void wander(void)
{
	static struct tally each[4], t = { .name = "by_many_threads" };
	pthread_t thread[4];

	for (int i = 0; i < 4; i++)
		if (pthread_create(&thread[i], NULL, by_many_threads, &each[i]))
			abort();
	for (int i = 0; i < 4; i++) {
		pthread_join(thread[i], NULL);
		t.objects += each[i].objects;
		t.bytes += each[i].bytes;
		t.inuse_objects += each[i].inuse_objects;
		t.inuse_bytes += each[i].inuse_bytes;
		for (int v = 0; v < 4; v++)
			t.variance[v] += each[i].variance[v];
		for (int v = 0; v < 2; v++)
			t.most[v] = fmax(t.most[v], each[i].most[v]);
	}
	publish(&t);
}

#ifdef __GLIBC__
/* Not each library that replaces malloc replaces this one, and then free() cannot take it. */
static int pvalloc_is_of_malloc(void)
{
	Dl_info one, other;

	if (!dladdr((void *)malloc, &one) || !dladdr((void *)pvalloc, &other))
		return 1;
	return one.dli_fbase == other.dli_fbase;
}
#endif

/* ---- all the time ------------------------------------------------------- */

static uint64_t calls;

KEEP void churn_malloc(void) { kept = malloc(small_size()); NO_TAIL_CALL(); }
KEEP void churn_calloc(void) { kept = calloc(1, small_size()); NO_TAIL_CALL(); }
KEEP void churn_realloc(void) { kept = realloc(kept, 600); NO_TAIL_CALL(); }
KEEP void churn_aligned(void) { kept = aligned_by_posix(small_size()); NO_TAIL_CALL(); }
KEEP void churn_free(void) { free(kept); NO_TAIL_CALL(); }

KEEP void churn(double seconds)
{
	uint64_t start = thread_ns(), end = wall_ns() + (uint64_t)(seconds * NS_PER_S);

	while (wall_ns() < end) {
		for (int i = 0; i < 100; i++) {
			churn_malloc();
			churn_free();
			churn_calloc();
			churn_realloc();
			churn_free();
			churn_aligned();
			churn_free();
			calls += 7;
		}
	}
	printf("calls %llu %.4f\n", (unsigned long long)calls, (double)(thread_ns() - start) / NS_PER_S);
	fflush(stdout);
	NO_TAIL_CALL();
}

KEEP void children(double seconds)
{
	pid_t child = fork();
	int status;

	if (!child) {
		die_with_parent();
		churn(seconds);
		_exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || status)
		abort();
}

/* ---- step by step, each when it gets a line, or the end, on its standard input ---------------------- */

enum { STEP_BYTES = 1000, STEP_BLOCKS = 400 };
static void *block_of_step[STEP_BLOCKS];

/* Sees to it that of the blocks so many are there, from `from` on. */
KEEP void by_step(int from, int to, int wanted)
{
	for (int i = from; i < to; i++) {
		if (wanted && !block_of_step[i]) {
			block_of_step[i] = malloc(STEP_BYTES);
		} else if (!wanted) {
			free(block_of_step[i]);
			block_of_step[i] = NULL;
		}
	}
	NO_TAIL_CALL();
}

KEEP void by_child(void)
{
	for (int i = 0; i < 70; i++)
		kept = malloc(STEP_BYTES);
	NO_TAIL_CALL();
}

static void next_step(int objects)
{
	printf("use %d %d\ndone\n", objects, objects * STEP_BYTES);
	fflush(stdout);
	wait_for_word();
}

static void first_step(void)
{
	/* so that stdio needs no more */
	puts("ready");
	fflush(stdout);
	wait_for_word();
	by_step(0, 300, 1);
	next_step(300);
}

static void replaced(void)
{
	first_step();
	execl("/proc/self/exe", "allocs", "steps", (char *)NULL);
	abort();
}

static void steps(void)
{
	first_step();
	by_step(100, 200, 0);
	by_step(300, 400, 1);
	next_step(300);
	by_step(0, 90, 0);
	pid_t child = fork();
	int status;

	if (!child) {
		die_with_parent();
		by_child();
		_exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || status)
		abort();
	next_step(210);
	by_step(0, 300, 0);
	next_step(100);
}

/* ---- */

int main(int argc, char **argv)
{
	die_with_parent();
	if (argc > 2 && !strcmp(argv[1], "churn")) {
		puts("ready");
		fflush(stdout);
		churn(atof(argv[2]));
		return 0;
	}
	if (argc > 2 && !strcmp(argv[1], "children")) {
		puts("ready");
		fflush(stdout);
		children(atof(argv[2]));
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "replaced"))
		replaced();
	if (argc > 1 && !strcmp(argv[1], "steps")) {
		steps();
		return 0;
	}
	if (argc > 2)
		period = atof(argv[2]);
	puts("ready");
	fflush(stdout);
	if (argc > 1 && !strcmp(argv[1], "wait"))
		wait_for_word();
#ifdef __GLIBC__
	struct mallinfo2 before = mallinfo2();
#endif
	by_malloc();
	by_large();
	by_calloc();
	by_large_calloc();
	by_aligned_alloc();
	by_memalign();
	by_posix_memalign();
	by_valloc();
#ifdef __GLIBC__
	if (pvalloc_is_of_malloc())
		by_pvalloc();
	by_reallocarray();
#endif
	by_realloc();
	by_failure();
	hand_over();
	wander();
#ifdef __GLIBC__
	struct mallinfo2 after = mallinfo2();
	uint64_t mine = 0;

	for (struct tally *t = all; t; t = t->next)
		mine += t->inuse_bytes;
	printf("arena %zu\n", after.uordblks + after.hblkhd - before.uordblks - before.hblkhd);
	printf("mine %llu\n", (unsigned long long)mine);
#endif
	for (struct tally *t = all; t; t = t->next)
		printf("truth %s %llu %llu %llu %llu %.1f %.1f %.1f %.1f %.1f %.1f\n", t->name, (unsigned long long)t->objects,
		       (unsigned long long)t->bytes, (unsigned long long)t->inuse_objects,
		       (unsigned long long)t->inuse_bytes, t->variance[0], t->variance[1], t->variance[2],
		       t->variance[3], t->most[0], t->most[1]);
	return 0;
}
