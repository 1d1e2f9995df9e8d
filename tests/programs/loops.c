/* An event loop on epoll, most of whose turns are short; some work for MS milliseconds, and some wait for as long.
 *
 *     loops [MS]                          60 unless it is said
 *
 *     truth burn TURNS SECONDS            turns that work, and by the clock how long they do
 *     truth block TURNS SECONDS           turns that wait
 *
 * True stack of a turn:  main; turn; burn | block; ...
 */
#include "common.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#define ROUNDS 5

static long long_ms = 60;

KEEP void burn(void)
{
	uint64_t end = wall_ns() + (uint64_t)long_ms * 1000000;

	do
		work();
	while (wall_ns() < end);
}

KEEP void block(void)
{
	struct timespec time = { long_ms / 1000, long_ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
	NO_TAIL_CALL();
}

KEEP void glance(void)
{
	work();
	NO_TAIL_CALL();
}

/* Every eighth turn works, and every eighth waits. */
KEEP uint64_t turn(int number)
{
	uint64_t since = wall_ns();

	if (number % 8 == 2)
		burn();
	else if (number % 8 == 6)
		block();
	else
		glance();
	return wall_ns() - since;
}

int main(int argc, char **argv)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(0), always = eventfd(1, 0);
	struct run run = start(argc, argv);
	uint64_t burned = 0, blocked = 0;

	if (argc > 1)
		long_ms = atol(argv[1]);
	/* nobody reads it, so there always is something to do */
	if (epoll < 0 || always < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, always, &event))
		return 1;
	for (int number = 0; number < 8 * ROUNDS; number++) {
		uint64_t ns;

		if (epoll_wait(epoll, &event, 1, -1) != 1)
			return 1;
		ns = turn(number);
		burned += number % 8 == 2 ? ns : 0;
		blocked += number % 8 == 6 ? ns : 0;
	}
	/* the end of the last turn */
	epoll_wait(epoll, &event, 1, -1);
	printf("truth burn %d %.6f\n", ROUNDS, (double)burned / NS_PER_S);
	printf("truth block %d %.6f\n", ROUNDS, (double)blocked / NS_PER_S);
	return finish(&run);
}
