/* Known requests to a block device: a loop device of its own, whose file lies in /var/tmp.
 *
 *     blocks SECONDS              each kind of request, by threads of their own
 *     blocks SECONDS rush         as many reads as the machine can do, by RUSHERS threads
 *
 * Before it is ready it says `device loopN`. Nothing happens for the first SECONDS, so that a recording can begin. Then
 * each thread does what it does, past the page cache, and says what its own calls gave:
 *
 *     truth NAME OP BYTES REQUESTS ERRORS       REQUESTS -1: the kernel cuts its calls into several
 *     time NAME 0 SECONDS                       by the clock around its calls
 *     kernel READS BYTES MS WRITES BYTES MS DISCARDS MS      of the device, what /sys/block/loopN/stat says meanwhile
 *
 * Ends with 77 where there are no loop devices.
 * True stack of a thread:  <thread start>; enter_thread; by_NAME; pread...
 */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define MIB (1 << 20)
/* Of the file; the device is as long, but what lies behind CUT is taken away when all is set up. */
#define SIZE (40 * MIB)
#define CUT (32 * MIB + 4096)
#define LAPS 200
#define RUSHERS 4
#define RUSH_LAPS 4000

static pthread_barrier_t begin;
static char device[64];
static char stat_path[128];
static int only_rush;

static void must(long result)
{
	if (result < 0) {
		perror("blocks");
		abort();
	}
}

/* ---- the device ------------------------------------------------------- */

static int new_file(void)
{
	char name[] = "/var/tmp/blocks-XXXXXX";
	int file = mkstemp(name);
	char *zeros = calloc(1, MIB);

	must(file);
	unlink(name);
	/* written, so that reads of it are reads of the disk below */
	for (int at = 0; at < SIZE; at += MIB)
		must(pwrite(file, memset(zeros, at >> 20, MIB), MIB, at));
	must(fsync(file));
	free(zeros);
	return file;
}

/* Of somebody who was faster there is none left: then another one. */
static int new_device(int file)
{
	/* past the page cache of the file too, if its file system can; the device goes away with its last user */
	struct loop_config config = { .fd = (unsigned)file,
				      .info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);

	if (control < 0)
		exit(77);
	for (int attempt = 0; attempt < 20; attempt++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);
		int disk;

		must(number);
		snprintf(device, sizeof(device), "/dev/loop%d", number);
		snprintf(stat_path, sizeof(stat_path), "/sys/block/loop%d/stat", number);
		disk = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
		if (disk < 0)
			exit(77);
		if (!ioctl(disk, LOOP_CONFIGURE, &config)) {
			close(control);
			return disk;
		}
		if (errno == EINVAL)
			config.info.lo_flags &= ~LO_FLAGS_DIRECT_IO;
		else if (errno != EBUSY)
			exit(77);
		close(disk);
	}
	exit(77);
}

/* Documentation/block/stat.rst: I/Os, merges, sectors, milliseconds; of reads, writes, in flight, discards. */
static void kernel_counts(unsigned long counts[17])
{
	FILE *file = fopen(stat_path, "r");

	if (!file)
		abort();
	for (int k = 0; k < 17; k++)
		counts[k] = 0;
	for (int k = 0; k < 17 && fscanf(file, "%lu", &counts[k]) == 1; k++)
		;
	fclose(file);
}

/* ---- threads ---------------------------------------------------------- */

struct work {
	int disk;
	char *data;
	long bytes, requests, errors;
	uint64_t ns;
};

static void set_up(struct work *w)
{
	memset(w, 0, sizeof(*w));
	w->disk = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
	must(w->disk);
	w->data = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void add(struct work *w, uint64_t since, long result)
{
	w->ns += wall_ns() - since;
	w->requests++;
	if (result < 0)
		w->errors++;
	else
		w->bytes += result;
}

static void say(const char *name, const char *op, const struct work *w)
{
	printf("truth %s %s %ld %ld %ld\n", name, op, w->bytes, w->requests, w->errors);
	printf("time %s 0 %.6f\n", name, (double)w->ns / NS_PER_S);
}

/* No two requests of a program lie side by side, so that none is merged. */
static off_t spread(int lap, off_t from)
{
	return from + (off_t)(lap * 37 % LAPS) * 32768;
}

KEEP void by_read(void)
{
	struct work w;

	set_up(&w);
	for (int lap = 0; lap < LAPS; lap++) {
		uint64_t since = wall_ns();

		add(&w, since, pread(w.disk, w.data, 4096, spread(lap, 0)));
	}
	say("by_read", "read", &w);
}

KEEP void by_write(void)
{
	struct work w;

	set_up(&w);
	for (int lap = 0; lap < LAPS; lap++) {
		uint64_t since = wall_ns();

		add(&w, since, pwrite(w.disk, w.data, 8192, spread(lap, 8 * MIB)));
	}
	say("by_write", "write", &w);
}

/* Larger than one request can be. */
KEEP void by_big(void)
{
	struct work w;

	set_up(&w);
	for (int lap = 0; lap < 5; lap++) {
		uint64_t since = wall_ns();

		add(&w, since, pread(w.disk, w.data, 4 * MIB, 16 * MIB));
	}
	w.requests = -1;
	say("by_big", "read", &w);
}

KEEP void by_flush(void)
{
	struct work w;

	set_up(&w);
	for (int lap = 0; lap < 20; lap++) {
		uint64_t since = wall_ns();

		add(&w, since, fsync(w.disk));
	}
	say("by_flush", "flush", &w);
}

KEEP void by_discard(void)
{
	struct work w;

	set_up(&w);
	for (int lap = 0; lap < 20; lap++) {
		uint64_t range[2] = { 24 * MIB + (uint64_t)lap * 131072, 65536 };
		uint64_t since = wall_ns();

		if (ioctl(w.disk, BLKDISCARD, range)) {
			/* the file system below cannot */
			printf("no discard\n");
			return;
		}
		add(&w, since, 0);
	}
	say("by_discard", "discard", &w);
}

/* The first half of each read is there; so it is complete in part, is issued again for the rest, and fails. */
KEEP void by_failure(void)
{
	struct work w;

	set_up(&w);
	for (int lap = 0; lap < 20; lap++) {
		uint64_t since = wall_ns();

		add(&w, since, pread(w.disk, w.data, 8192, CUT - 4096));
	}
	say("by_failure", "read", &w);
}

KEEP void by_rush(void)
{
	struct work w;

	set_up(&w);
	for (int lap = 0; lap < RUSH_LAPS; lap++) {
		uint64_t since = wall_ns();

		add(&w, since, pread(w.disk, w.data, 4096, spread(lap, 0)));
	}
	say("by_rush", "read", &w);
}

KEEP void *enter_thread(void *arg)
{
	void (*body)(void) = (void (*)(void))arg;

	pthread_barrier_wait(&begin);
	body();
	return NULL;
}

int main(int argc, char **argv)
{
	static void (*const kinds[])(void) = { by_read, by_write, by_big, by_flush, by_discard, by_failure };
	enum { NR = sizeof(kinds) / sizeof(kinds[0]) };
	double before = argc > 1 ? atof(argv[1]) : 2;
	struct timespec nap = { (time_t)before, (long)((before - (long)before) * NS_PER_S) };
	unsigned long from[17], to[17];
	pthread_t ids[NR];
	int file, disk, threads;
	struct run run;

	only_rush = argc > 2 && !strcmp(argv[2], "rush");
	threads = only_rush ? RUSHERS : NR;
	file = new_file();
	disk = new_device(file);
	if (!only_rush)
		must(ftruncate(file, CUT));
	pthread_barrier_init(&begin, NULL, (unsigned)threads + 1);
	for (int k = 0; k < threads; k++)
		if (pthread_create(&ids[k], NULL, enter_thread, (void *)(only_rush ? by_rush : kinds[k])))
			return 1;
	setvbuf(stdout, malloc(65536), _IOFBF, 65536);
	printf("device %s\n", device + strlen("/dev/"));
	run = start(argc, argv);
	nanosleep(&nap, NULL);
	kernel_counts(from);
	pthread_barrier_wait(&begin);
	for (int k = 0; k < threads; k++)
		pthread_join(ids[k], NULL);
	kernel_counts(to);
	for (int k = 0; k < 17; k++)
		to[k] -= from[k];
	printf("kernel %lu %lu %lu %lu %lu %lu %lu %lu\n", to[0], to[2] * 512, to[3], to[4], to[6] * 512, to[7],
	       to[11], to[14]);
	close(disk);
	return finish(&run);
}
