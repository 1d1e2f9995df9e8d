/* Known readahead: files of which nothing is in the page cache are read, all of them or a part.
 *
 *     ahead SECONDS DIRECTORY
 *
 * Nothing happens for the first SECONDS, so that a recording can begin. Then each function reads a file of its own, named
 * as itself, in the directory. At the end, in bytes:
 *
 *     file NAME SIZE ASKED CACHED      the size, what was asked for, what of the file is in the page cache (mincore(2))
 *
 * Ends with 77 where the file system has no readahead.
 */
#include "common.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>

#define PAGE 4096
#define SIZE (16 << 20)
#define STRIDE 64
/* No kernel is set to read less than this at once. */
#define CHUNK (128 << 10)

static const char *directory;
static char data[1 << 20];

static void must(long result)
{
	if (result < 0) {
		perror("ahead");
		abort();
	}
}

static long cached(int file)
{
	static unsigned char resident[SIZE / PAGE];
	void *at = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, file, 0);
	long pages = 0;

	if (at == MAP_FAILED)
		abort();
	must(mincore(at, SIZE, resident));
	munmap(at, SIZE);
	for (int k = 0; k < SIZE / PAGE; k++)
		pages += resident[k] & 1;
	return pages * PAGE;
}

static int open_file(const char *name, int flags)
{
	char path[512];
	int file;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = open(path, flags | O_CLOEXEC, 0600);
	must(file);
	return file;
}

/* Written to disk and not in the page cache. */
static void create(const char *name)
{
	int file = open_file(name, O_RDWR | O_CREAT);

	for (long at = 0; at < SIZE; at += (long)sizeof(data)) {
		memset(data, (int)(at >> 20), sizeof(data));
		must(pwrite(file, data, sizeof(data), at));
	}
	must(fsync(file));
	for (int attempt = 0; cached(file); attempt++) {
		/* tmpfs: what is written is nowhere else */
		if (attempt == 100)
			exit(77);
		must(-posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED));
	}
	close(file);
}

static void say(const char *name, int file, long asked)
{
	printf("file %s %d %ld %ld\n", name, SIZE, asked, cached(file));
	close(file);
}

/* From its beginning to its end, in pieces of different lengths. */
KEEP void by_all(void)
{
	static const int lengths[] = { 4096, 65536, 1000, 1 << 20, 12288 };
	int file = open_file("by_all", O_RDONLY);
	long bytes = 0, got;

	for (int k = 0; (got = read(file, data, (size_t)lengths[k % 5])) > 0; k++)
		bytes += got;
	say("by_all", file, bytes);
}

static void ask_for_all(int file)
{
	for (long at = 0; at < SIZE; at += CHUNK)
		must(readahead(file, at, CHUNK));
}

static long read_every(int file)
{
	long bytes = 0;

	for (long at = 0; at < SIZE; at += STRIDE * PAGE)
		bytes += pread(file, data, PAGE, at);
	return bytes;
}

/* The same by sendfile. */
KEEP void by_sendfile(void)
{
	int file = open_file("by_sendfile", O_RDONLY), to = open("/dev/null", O_WRONLY | O_CLOEXEC);
	long bytes = 0, got;

	while ((got = sendfile(to, file, NULL, 1 << 18)) > 0)
		bytes += got;
	close(to);
	say("by_sendfile", file, bytes);
}

/* All of it is read ahead, and one page of 64 is used; the others are thrown out. */
KEEP void by_stride(void)
{
	int file = open_file("by_stride", O_RDONLY);
	long bytes;

	ask_for_all(file);
	bytes = read_every(file);
	must(-posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED));
	say("by_stride", file, bytes);
}

/* The same, and the others stay. */
KEEP void by_waiting(void)
{
	int file = open_file("by_waiting", O_RDONLY);

	ask_for_all(file);
	say("by_waiting", file, read_every(file));
}

/* One read of everything after that. */
KEEP void by_once(void)
{
	int file = open_file("by_once", O_RDONLY);
	char *all = malloc(SIZE);
	long bytes;

	ask_for_all(file);
	bytes = pread(file, all, SIZE, 0);
	free(all);
	say("by_once", file, bytes);
}

/* Through a mapping, one page of 64; the kernel reads around each of them. */
KEEP void by_map(void)
{
	int file = open_file("by_map", O_RDONLY);
	volatile char *at = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, file, 0);
	long bytes = 0;

	if (at == MAP_FAILED)
		abort();
	for (long k = 0; k < SIZE; k += STRIDE * PAGE) {
		(void)at[k];
		bytes += PAGE;
	}
	munmap((void *)at, SIZE);
	say("by_map", file, bytes);
}

/* Written, and not read ahead, although it was before. */
KEEP void by_write(void)
{
	int file = open_file("by_write", O_RDWR);

	must(readahead(file, 0, CHUNK));
	must(pread(file, data, CHUNK, 0));
	must(-posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED));
	must(pwrite(file, data, CHUNK, 0));
	say("by_write", file, CHUNK);
}

int main(int argc, char **argv)
{
	static const char *const names[] = { "by_all", "by_sendfile", "by_stride", "by_waiting", "by_once", "by_map", "by_write" };
	double before = argc > 1 ? atof(argv[1]) : 2;
	struct timespec nap = { (time_t)before, (long)((before - (long)before) * NS_PER_S) };
	struct run run;

	if (argc < 3)
		return 2;
	directory = argv[2];
	for (int k = 0; k < 7; k++)
		create(names[k]);
	run = start(argc, argv);
	nanosleep(&nap, NULL);
	by_all();
	by_sendfile();
	by_stride();
	by_waiting();
	by_once();
	by_map();
	by_write();
	NO_TAIL_CALL();
	return finish(&run);
}
