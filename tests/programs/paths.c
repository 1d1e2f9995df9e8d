/* Writes to files of known names below a directory: paths SECONDS DIRECTORY.
 *
 * Nothing happens for the first SECONDS, so that a recording can begin. Then each function writes as many bytes as its
 * comment says. The directory is empty before, and the test knows the names.
 */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define SHORT_LIVED 40

static char data[4096];
static const char *directory;

static void must(long result)
{
	if (result < 0) {
		perror("paths");
		abort();
	}
}

static int create(const char *name)
{
	char path[512];
	int file;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	must(file);
	return file;
}

static void put(int file, long bytes)
{
	if (write(file, data, (size_t)bytes) != bytes)
		abort();
}

static void rename_to(const char *from, const char *to)
{
	char old[512], new[512];

	snprintf(old, sizeof(old), "%s/%s", directory, from);
	snprintf(new, sizeof(new), "%s/%s", directory, to);
	must(rename(old, new));
}

static void drop(const char *name)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	must(unlink(path));
}

/* 5000 to `plain` */
KEEP void by_plain(void)
{
	int file = create("plain");

	for (int k = 0; k < 5; k++)
		put(file, 1000);
	close(file);
}

/* K + 1 to each of `short-K`, which are there for an instant */
KEEP void by_short(void)
{
	for (int k = 0; k < SHORT_LIVED; k++) {
		char name[32];
		int file;

		snprintf(name, sizeof(name), "short-%d", k);
		file = create(name);
		put(file, k + 1);
		close(file);
		drop(name);
	}
}

/* 300 to `gone`, which has no name any more */
KEEP void by_deleted(void)
{
	int file = create("gone");

	drop("gone");
	put(file, 300);
	close(file);
}

/* 77 to a name with a line feed, an escape sequence and a byte that is no UTF-8 */
KEEP void by_hostile(void)
{
	int file = create("a\nb\033[31m\377");

	put(file, 77);
	close(file);
}

/* 10 to `old`, then 20 to the same file, which is `new` now */
KEEP void by_renamed(void)
{
	int file = create("old");

	put(file, 10);
	rename_to("old", "new");
	put(file, 20);
	close(file);
}

/* 55 to `leaf`, ten directories of 200 characters below */
KEEP void by_deep(void)
{
	char name[201];
	int at = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int file;

	must(at);
	memset(name, 'd', 200);
	name[200] = 0;
	for (int depth = 0; depth < 10; depth++) {
		int below;

		must(mkdirat(at, name, 0700));
		below = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		must(below);
		close(at);
		at = below;
	}
	file = openat(at, "leaf", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	must(file);
	put(file, 55);
	close(file);
	close(at);
}

/* 11 to a socket, 12 to a pipe, 13 to /dev/null */
KEEP void by_others(void)
{
	int ends[2], null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	put(ends[0], 11);
	must(pipe(ends));
	put(ends[1], 12);
	put(null, 13);
	close(null);
}

int main(int argc, char **argv)
{
	double before = argc > 1 ? atof(argv[1]) : 2;
	struct timespec nap = { (time_t)before, (long)((before - (long)before) * NS_PER_S) };
	struct run run;

	if (argc < 3)
		return 2;
	directory = argv[2];
	run = start(argc, argv);
	nanosleep(&nap, NULL);
	by_plain();
	by_short();
	by_deleted();
	by_hostile();
	by_renamed();
	by_deep();
	by_others();
	NO_TAIL_CALL();
	return finish(&run);
}
