/* Known I/O by io_uring, without its library: writes to a file, reads of it, and reads of a pipe that wait.
 *
 * Nothing happens for the first SECONDS, so that a recording can begin. Sums of the results that the ring gives:
 *
 *     truth NAME OP KIND BYTES OPS ERRORS AGAIN
 *     time by_pipe 0 SECONDS          by the clock, from before each submission to its completion
 *
 * Ends with 77 where there is no io_uring.
 */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define LAPS 50
#define ENTRIES 4

static int ring;
static struct io_uring_params params;
static unsigned *sq_tail, *sq_array, *cq_head, *cq_tail, sq_mask, cq_mask;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;
static char data[8192];
static int to_pipe[2];

static void *map(size_t size, off_t what)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, what);

	if (at == MAP_FAILED)
		abort();
	return at;
}

static int set_up(void)
{
	char *sq, *cq;

	ring = (int)syscall(SYS_io_uring_setup, ENTRIES, &params);
	if (ring < 0)
		return -1;
	sq = map(params.sq_off.array + params.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
	cq = map(params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
	sqes = map(params.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	sq_tail = (unsigned *)(sq + params.sq_off.tail);
	sq_array = (unsigned *)(sq + params.sq_off.array);
	sq_mask = *(unsigned *)(sq + params.sq_off.ring_mask);
	cq_head = (unsigned *)(cq + params.cq_off.head);
	cq_tail = (unsigned *)(cq + params.cq_off.tail);
	cq_mask = *(unsigned *)(cq + params.cq_off.ring_mask);
	cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
	return 0;
}

/* One request, waited for; gives its result. */
static inline __attribute__((always_inline)) long request(int opcode, int fd, void *buffer, unsigned len,
							  uint64_t offset)
{
	unsigned tail = *sq_tail, head = *cq_head;
	struct io_uring_sqe *sqe = &sqes[tail & sq_mask];
	long result;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = (uint8_t)opcode;
	sqe->fd = fd;
	sqe->addr = (uintptr_t)buffer;
	sqe->len = len;
	sqe->off = offset;
	sq_array[tail & sq_mask] = tail & sq_mask;
	__atomic_store_n(sq_tail, tail + 1, __ATOMIC_RELEASE);
	while (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		if (errno != EINTR)
			abort();
	while (__atomic_load_n(cq_tail, __ATOMIC_ACQUIRE) == head)
		;
	result = cqes[head & cq_mask].res;
	__atomic_store_n(cq_head, head + 1, __ATOMIC_RELEASE);
	return result;
}

struct tally {
	long bytes, ops, errors;
};

static void add(struct tally *to, long result)
{
	to->ops++;
	if (result < 0)
		to->errors++;
	else
		to->bytes += result;
}

static void say(const char *name, const char *op, const char *kind, struct tally t)
{
	printf("truth %s %s %s %ld %ld %ld 0\n", name, op, kind, t.bytes, t.ops, t.errors);
}

KEEP void by_file(void)
{
	struct tally r = {}, w = {}, s = {};
	char name[] = "/var/tmp/uring-XXXXXX";
	int file = mkstemp(name);

	unlink(name);
	for (int lap = 0; lap < LAPS; lap++) {
		add(&w, request(IORING_OP_WRITE, file, data, 5000, 0));
		add(&r, request(IORING_OP_READ, file, data, sizeof(data), 1000));	/* 4000 */
	}
	add(&s, request(IORING_OP_FSYNC, file, NULL, 0, 0));
	say("by_file", "write", "file", w);
	say("by_file", "read", "file", r);
	say("by_file", "sync", "file", s);
}

KEEP void by_failing(void)
{
	struct tally w = {};

	for (int lap = 0; lap < LAPS; lap++)
		add(&w, request(IORING_OP_WRITE, to_pipe[0], data, 10, 0));	/* it is for reading */
	say("by_failing", "write", "pipe", w);
}

KEEP void by_pipe(void)
{
	struct tally r = {};
	uint64_t time = 0;

	for (int lap = 0; lap < LAPS; lap++) {
		uint64_t start = wall_ns();

		add(&r, request(IORING_OP_READ, to_pipe[0], data, 1, 0));	/* no more: each write ends one read */
		time += wall_ns() - start;
	}
	say("by_pipe", "read", "pipe", r);
	printf("time by_pipe 0 %.6f\n", (double)time / NS_PER_S);
}

static void *feed(void *unused)
{
	struct timespec nap = { 0, 10000000 };

	(void)unused;
	for (int lap = 0; lap < LAPS; lap++) {
		nanosleep(&nap, NULL);
		if (write(to_pipe[1], "x", 1) != 1)
			abort();
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct timespec before = { argc > 1 ? atoi(argv[1]) : 2, 0 };
	pthread_t feeder;
	struct run run;

	if (pipe(to_pipe))
		return 1;
	if (set_up())
		return 77;
	setvbuf(stdout, malloc(65536), _IOFBF, 65536);
	run = start(argc, argv);
	nanosleep(&before, NULL);
	by_file();
	by_failing();
	if (pthread_create(&feeder, NULL, feed, NULL))
		return 1;
	by_pipe();
	pthread_join(feeder, NULL);
	return finish(&run);
}
