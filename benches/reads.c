/* Random reads of 4 KiB that measure their own speed, for benches/reads.py.
 *
 *   reads cached|direct SECONDS FILE       reads a file of MIB mebibytes, from the page cache or past it
 *
 * The file is made and removed again. One line for every slot of 100 ms: when it began and ended (CLOCK_MONOTONIC,
 * nanoseconds) and how many reads there were in a second.
 */
#include "../tests/programs/common.h"

#include <fcntl.h>

#define MIB 64
#define SLOT 100000000ull

int main(int argc, char **argv)
{
	char *args[] = { argv[0], argc > 2 ? argv[2] : "10", NULL };
	int is_direct = argc > 1 && !strcmp(argv[1], "direct");
	const char *path = argc > 3 ? argv[3] : "reads.data";
	uint64_t place = 88172645463325252ull;
	struct run run;
	char *data;
	int file;

	if (posix_memalign((void **)&data, 4096, 1 << 20))
		return 1;
	file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	for (int k = 0; k < MIB; k++)
		if (pwrite(file, memset(data, k, 1 << 20), 1 << 20, (off_t)k << 20) != 1 << 20)
			return 1;
	if (fsync(file))
		return 1;
	close(file);
	file = open(path, O_RDONLY | O_CLOEXEC | (is_direct ? O_DIRECT : 0));
	unlink(path);
	run = start(2, args);
	while (running(&run)) {
		uint64_t begin = wall_ns(), now;
		long reads = 0;

		do {
			for (int k = 0; k < (is_direct ? 1 : 64); k++) {
				place ^= place << 13;
				place ^= place >> 7;
				place ^= place << 17;
				if (pread(file, data, 4096, (off_t)(place % (MIB * 256)) * 4096) != 4096)
					return 1;
				reads++;
			}
			now = wall_ns();
		} while (now - begin < SLOT);
		printf("%llu %llu %.1f\n", (unsigned long long)begin, (unsigned long long)now,
		       (double)reads * NS_PER_S / (double)(now - begin));
		fflush(stdout);
	}
	return 0;
}
