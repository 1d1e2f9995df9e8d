/* Sleeps again and again, three functions deep, one of which has a frame that only its frame pointer finds: its size is
 * not known before it runs. The functions keep nothing else on their stacks that would lead out of them.
 *
 *   naps SECONDS [MILLISECONDS]     each nap takes so long (default 300)
 *
 * True stack: _start; ...; main; outer; middle; nap; usleep; ...
 */
#include "common.h"

#include <alloca.h>

static volatile int sink;

KEEP void nap(unsigned int size, unsigned int ms)
{
	char *frame = alloca(size);

	memset(frame, 1, size);
	usleep(ms * 1000);
	sink += frame[size / 2];
}

KEEP void middle(unsigned int size, unsigned int ms)
{
	nap(size, ms);
	sink++;
}

KEEP void outer(unsigned int size, unsigned int ms)
{
	middle(size, ms);
	sink++;
}

int main(int argc, char **argv)
{
	unsigned int ms = argc > 2 ? (unsigned int)atoi(argv[2]) : 300;
	struct run run = start(argc, argv);

	while (running(&run))
		outer(64 + (sink & 7), ms);
	return finish(&run);
}
