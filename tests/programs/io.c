/* Known I/O on files, pipes, and tcp, udp and unix sockets, by several threads, each in its own function.
 *
 * Nothing happens for the first SECONDS, so that a recording can begin; but one thread waits in a read from before the
 * recording, until SECONDS have passed. Then each thread does its I/O. What it did is the sum of the results of its own
 * calls:
 *
 *     truth NAME OP KIND BYTES OPS ERRORS AGAIN
 *     time by_wait 0 SECONDS          by the clock around reads that wait
 *     process RCHAR WCHAR             /proc/self/io: from then to the end, without process_counts()
 *     before SECONDS                  how long ago the read ended that waited from before the recording
 *
 * What goes through the kernel's read and write paths, sendfile and copy_file_range is in /proc/self/io. So tcp and udp
 * sockets are only sent to and received from here, and all others are only read and written.
 *
 * A thread with two kinds of operation or of file has two lines.
 * True stack of a thread:  <thread start>; enter_thread; by_NAME; ...
 */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define LAPS 50

static pthread_barrier_t begin;
static int wait_pipe[2], before_pipe[2];
static uint64_t before_ended;

struct tally {
	long bytes, ops, errors, again;
};

/* Adds the result of a call, and gives it back. */
static long add(struct tally *to, long result)
{
	to->ops++;
	if (result >= 0)
		to->bytes += result;
	else if (errno == EAGAIN || errno == EINTR)
		to->again++;
	else
		to->errors++;
	return result;
}

static void must(long result)
{
	if (result < 0) {
		perror("io");
		abort();
	}
}

static void say(const char *name, const char *op, const char *kind, struct tally t)
{
	printf("truth %s %s %s %ld %ld %ld %ld\n", name, op, kind, t.bytes, t.ops, t.errors, t.again);
}

static int new_file(void)
{
	char name[] = "/var/tmp/io-XXXXXX";
	int file = mkstemp(name);

	must(file);
	unlink(name);
	return file;
}

static void tcp_pair(int ends[2])
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(to);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	must(bind(listener, (struct sockaddr *)&to, len));
	must(listen(listener, 1));
	must(getsockname(listener, (struct sockaddr *)&to, &len));
	ends[0] = socket(AF_INET, SOCK_STREAM, 0);
	must(connect(ends[0], (struct sockaddr *)&to, len));
	ends[1] = accept(listener, NULL, NULL);
	must(ends[1]);
	close(listener);
}

static void udp_pair(int ends[2])
{
	struct sockaddr_in at[2] = { { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(at[0]);

	at[1] = at[0];
	for (int end = 0; end < 2; end++) {
		ends[end] = socket(AF_INET, SOCK_DGRAM, 0);
		must(bind(ends[end], (struct sockaddr *)&at[end], len));
		must(getsockname(ends[end], (struct sockaddr *)&at[end], &len));
	}
	must(connect(ends[0], (struct sockaddr *)&at[1], len));
	must(connect(ends[1], (struct sockaddr *)&at[0], len));
}

static char data[65536];

static struct iovec two_parts[2] = { { data, 1000 }, { data + 1000, 234 } };

KEEP void by_file(void)
{
	struct tally r = {}, w = {}, s = {};
	int file = new_file();

	for (int lap = 0; lap < LAPS; lap++) {
		add(&w, write(file, data, 4000));
		add(&w, pwrite(file, data, 3000, 100));
		add(&w, writev(file, two_parts, 2));
		add(&w, pwritev(file, two_parts, 2, 7));
		add(&w, pwritev2(file, two_parts, 2, 9, 0));
		add(&r, pread(file, data, 500, 0));
		add(&r, preadv(file, two_parts, 2, 0));
		add(&r, preadv2(file, two_parts, 2, 0, 0));
		lseek(file, -100, SEEK_END);
		add(&r, read(file, data, 4096));	/* 100 */
		add(&r, readv(file, two_parts, 2));	/* nothing: the end */
	}
	add(&s, fdatasync(file));
	add(&s, fsync(file));
	add(&s, sync_file_range(file, 0, 0, SYNC_FILE_RANGE_WRITE));
	say("by_file", "read", "file", r);
	say("by_file", "write", "file", w);
	say("by_file", "sync", "file", s);
	close(file);
}

KEEP void by_pipe(void)
{
	struct tally r = {}, w = {}, c = {}, f = {};
	int one[2], two[2], file = new_file();

	must(pipe(one));
	must(pipe(two));
	for (int lap = 0; lap < LAPS; lap++) {
		add(&w, write(one[1], data, 777));
		add(&c, tee(one[0], two[1], 65536, 0));
		add(&c, splice(one[0], NULL, two[1], NULL, 65536, 0));
		add(&r, read(two[0], data, 1000));
		add(&r, read(two[0], data, 1000));
		add(&w, write(one[1], data, 321));
		add(&f, splice(one[0], NULL, file, NULL, 65536, 0));
	}
	say("by_pipe", "read", "pipe", r);
	say("by_pipe", "write", "pipe", w);
	say("by_pipe", "copy", "pipe", c);
	say("by_pipe", "copy", "file", f);
	close(file);
}

KEEP void by_tcp(void)
{
	struct tally r = {}, w = {}, c = {};
	struct msghdr message = { .msg_iov = two_parts, .msg_iovlen = 2 };
	int ends[2], file = new_file();
	off_t at;

	tcp_pair(ends);
	must(write(file, data, 5000));
	for (int lap = 0; lap < LAPS; lap++) {
		add(&w, send(ends[0], data, 1000, 0));
		add(&w, sendmsg(ends[0], &message, 0));
		at = 0;
		add(&c, sendfile(ends[0], file, &at, 5000));
		for (long left = 1000 + 1234 + 5000; left;)
			left -= add(&r, recv(ends[1], data, sizeof(data), 0));
		add(&r, recv(ends[1], data, 10, MSG_DONTWAIT));	/* nothing yet: EAGAIN */
	}
	say("by_tcp", "read", "tcp", r);
	say("by_tcp", "write", "tcp", w);
	say("by_tcp", "copy", "tcp", c);
	close(file);
}

/* Several messages in one call, whose result is their number; 300 in one of them. */
KEEP void by_udp(void)
{
	static struct mmsghdr many[300];
	static struct iovec parts[300];
	struct msghdr message = { .msg_iov = two_parts, .msg_iovlen = 2 };
	struct tally r = {}, w = {};
	int ends[2], size = 1 << 20;

	udp_pair(ends);
	setsockopt(ends[1], SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	for (int lap = 0; lap < LAPS; lap++) {
		int wanted = lap ? 3 : 300;
		long bytes = 0, got;

		for (int i = 0; i < wanted; i++) {
			parts[i] = (struct iovec){ data, 10 + i };
			many[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1 };
		}
		got = sendmmsg(ends[0], many, wanted, 0);
		must(got);
		for (int i = 0; i < got; i++)
			bytes += many[i].msg_len;
		add(&w, bytes);
		for (int i = 0; i < wanted; i++)
			parts[i].iov_len = 2000;
		bytes = 0;
		got = recvmmsg(ends[1], many, wanted, MSG_WAITFORONE, NULL);
		must(got);
		for (int i = 0; i < got; i++)
			bytes += many[i].msg_len;
		add(&r, bytes);
		add(&w, sendto(ends[0], data, 99, 0, NULL, 0));
		add(&r, recvfrom(ends[1], data, 1000, 0, NULL, NULL));
		add(&w, sendto(ends[0], data, 55, 0, NULL, 0));
		add(&r, recvmsg(ends[1], &message, 0));
	}
	say("by_udp", "read", "udp", r);
	say("by_udp", "write", "udp", w);
}

KEEP void by_unix(void)
{
	struct tally r = {}, w = {};
	int ends[2];

	must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	for (int lap = 0; lap < LAPS; lap++) {
		add(&w, writev(ends[0], two_parts, 2));
		add(&w, write(ends[0], data, 100));
		add(&r, readv(ends[1], two_parts, 2));
		add(&r, read(ends[1], data, 1000));
	}
	say("by_unix", "read", "unix", r);
	say("by_unix", "write", "unix", w);
}

/* From file to file, memory to file, a device, and what is none of these. */
KEEP void by_others(void)
{
	struct tally c = {}, m = {}, d = {}, e = {};
	int from = new_file(), to = new_file(), zero = open("/dev/zero", O_RDONLY), counter = eventfd(0, 0);
	uint64_t one = 1;
	char *memory;

	must(write(from, data, 20000));
	memory = mmap(NULL, 20000, PROT_READ | PROT_WRITE, MAP_SHARED, from, 0);
	for (int lap = 0; lap < LAPS; lap++) {
		off_t at = 0;

		add(&c, copy_file_range(from, &at, to, NULL, 5000 + lap, 0));
		add(&d, read(zero, data, 300));
		add(&e, write(counter, &one, 8));
	}
	memory[0] = 1;
	add(&m, msync(memory, 20000, MS_SYNC));
	say("by_others", "copy", "file", c);
	say("by_others", "sync", "file", m);
	say("by_others", "read", "device", d);
	say("by_others", "write", "other", e);
}

KEEP void by_failing(void)
{
	struct tally no_file = {}, wrong_way = {}, bad_address = {};
	int file = new_file(), ends[2];
	char *nowhere = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(pipe(ends));
	for (int lap = 0; lap < LAPS; lap++) {
		add(&no_file, read(-1, data, 10));		/* EBADF */
		add(&wrong_way, write(ends[0], data, 10));	/* EBADF: it is for reading */
		add(&bad_address, write(file, nowhere, 10));	/* EFAULT */
	}
	say("by_failing", "read", "unknown", no_file);
	say("by_failing", "write", "pipe", wrong_way);
	say("by_failing", "write", "file", bad_address);
}

/* Reads that wait 10 ms each for feed(). */
KEEP void by_wait(void)
{
	struct tally r = {};
	uint64_t time = 0;

	for (int lap = 0; lap < LAPS; lap++) {
		uint64_t start = wall_ns();

		add(&r, read(wait_pipe[0], data, 1));	/* no more: each write ends one read */
		time += wall_ns() - start;
	}
	say("by_wait", "read", "pipe", r);
	printf("time by_wait 0 %.6f\n", (double)time / NS_PER_S);
}

static void *feed(void *unused)
{
	struct timespec nap = { 0, 10000000 };

	(void)unused;
	for (int lap = 0; lap < LAPS; lap++) {
		nanosleep(&nap, NULL);
		must(write(wait_pipe[1], "x", 1));
	}
	return NULL;
}

/* One read, from before the recording on. */
KEEP void by_before(void)
{
	struct tally r = {};

	add(&r, read(before_pipe[0], data, 10));
	before_ended = wall_ns();
	say("by_before", "read", "pipe", r);
	pthread_barrier_wait(&begin);
}

/* And one that does not end before the process does. */
KEEP void by_after(void)
{
	int ends[2];

	must(pipe(ends));
	must(read(ends[0], data, 10));
	NO_TAIL_CALL();
}

KEEP void *enter_thread(void *arg)
{
	void (*body)(void) = (void (*)(void))arg;

	if (body != by_before)
		pthread_barrier_wait(&begin);
	body();
	return NULL;
}

/* Gives the length of what it read. */
KEEP long process_counts(long counts[2])
{
	char text[512] = "";
	int file = open("/proc/self/io", O_RDONLY);
	long len = read(file, text, sizeof(text) - 1);

	must(len);
	close(file);
	if (sscanf(text, "rchar: %ld wchar: %ld", &counts[0], &counts[1]) != 2)
		abort();
	return len;
}

int main(int argc, char **argv)
{
	static void (*const bodies[])(void) = { by_before, by_file, by_pipe, by_tcp, by_udp, by_unix, by_others,
						by_failing, by_wait, by_after };
	enum { NR = sizeof(bodies) / sizeof(bodies[0]) };
	double before = argc > 1 ? atof(argv[1]) : 2;
	struct timespec nap = { (time_t)before, (long)((before - (long)before) * NS_PER_S) };
	struct timespec moment = { 0, 200000000 };
	pthread_t ids[NR], feeder;
	struct run run;
	long from[2], to[2], own;

	must(pipe(wait_pipe));
	must(pipe(before_pipe));
	pthread_barrier_init(&begin, NULL, NR + 1);
	for (int k = 0; k < NR; k++)
		if (pthread_create(&ids[k], NULL, enter_thread, (void *)bodies[k]))
			return 1;
	nanosleep(&moment, NULL);	/* by_before waits */
	/* what is said at the end goes into memory until all is done */
	setvbuf(stdout, malloc(65536), _IOFBF, 65536);
	run = start(argc, argv);
	nanosleep(&nap, NULL);
	own = process_counts(from);
	must(write(before_pipe[1], "x", 1));
	pthread_barrier_wait(&begin);
	must(pthread_create(&feeder, NULL, feed, NULL));
	for (int k = 0; k < NR - 1; k++)
		pthread_join(ids[k], NULL);
	pthread_join(feeder, NULL);
	process_counts(to);
	printf("process %ld %ld\n", to[0] - from[0] - own, to[1] - from[1]);
	printf("before %.6f\n", (double)(wall_ns() - before_ended) / NS_PER_S);
	return finish(&run);
}
