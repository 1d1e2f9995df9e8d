/* Functions that are called a known number of times and say themselves how long they took, and USDT probes.
 *
 * Nothing happens for the first SECONDS, so that a recording can begin. Then for each function a line
 *
 *   truth NAME CALLS INSIDE OUTSIDE
 *
 * where INSIDE is the sum of the nanoseconds that its own first and last statement saw pass, and OUTSIDE that of what its
 * caller saw: whoever measures from its first instruction to its return finds a number between both. Of a recursion only
 * the outermost call is measured.
 *
 *   napping      in each of 3 threads, which begin after the recording does
 *   nested       10 calls deep, 20 times
 *   abyss        100 calls deep, 5 times
 *   jumper       30 times it is left by longjmp, and each time it is called once more and returns
 *   tail_caller  jumps to tail_callee as its last act
 *   hot          20,000 times, for as little as possible; INSIDE is the CPU time of all of it
 *   fast, slow   50 times each: no sleep, 8 ms
 *
 * USDT: shop:sold 70 times in two places, with a counter of those who look; shop:closed 30 times, without one.
 */
#include "common.h"

#include <pthread.h>
#include <setjmp.h>

#define THREADS 3
#define NAPS 40

/* As <sys/sdt.h> would do it, without arguments; https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation */
#define USDT(provider, name, counter)                                                             \
	__asm__ volatile("990: nop\n"                                                             \
			 ".pushsection .note.stapsdt,\"\",\"note\"\n"                              \
			 ".balign 4\n"                                                            \
			 ".4byte 992f-991f, 994f-993f, 3\n"                                       \
			 "991: .asciz \"stapsdt\"\n"                                              \
			 "992: .balign 4\n"                                                       \
			 "993: .8byte 990b\n"                                                     \
			 ".8byte _.stapsdt.base\n"                                                \
			 ".8byte " counter "\n"                                                   \
			 ".asciz \"" provider "\"\n"                                              \
			 ".asciz \"" name "\"\n"                                                  \
			 ".asciz \"\"\n"                                                          \
			 "994: .balign 4\n"                                                       \
			 ".popsection\n"                                                          \
			 ".ifndef _.stapsdt.base\n"                                               \
			 ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"  \
			 ".weak _.stapsdt.base\n"                                                 \
			 ".hidden _.stapsdt.base\n"                                               \
			 "_.stapsdt.base: .space 1\n"                                             \
			 ".size _.stapsdt.base, 1\n"                                              \
			 ".popsection\n"                                                          \
			 ".endif\n")

__attribute__((section(".probes"), used)) volatile unsigned short shop_sold_semaphore;

struct part {
	uint64_t calls, inside, outside;
};

static void nap(long ns)
{
	struct timespec time = { 0, ns };

	nanosleep(&time, NULL);
}

static void tell(const char *name, const struct part *part)
{
	printf("truth %s %llu %llu %llu\n", name, (unsigned long long)part->calls, (unsigned long long)part->inside,
	       (unsigned long long)part->outside);
}

#define MEASURE(part, n, call)                        \
	do {                                          \
		uint64_t before = wall_ns();          \
		call;                                 \
		(part)->outside += wall_ns() - before; \
		(part)->calls += (n);                 \
	} while (0)

KEEP void napping(struct part *part)
{
	uint64_t before = wall_ns();

	nap(2000000);
	part->inside += wall_ns() - before;
}

static void *nap_often(void *arg)
{
	for (int i = 0; i < NAPS; i++)
		MEASURE((struct part *)arg, 1, napping(arg));
	return NULL;
}

static void nap_in_threads(void)
{
	struct part parts[THREADS] = { 0 }, all = { 0 };
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, nap_often, &parts[i]))
			abort();
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		all.calls += parts[i].calls;
		all.inside += parts[i].inside;
		all.outside += parts[i].outside;
	}
	tell("napping", &all);
}

#define RECURSIVE(name, ns)                               \
	KEEP void name(struct part *part, int more, int top) \
	{                                                 \
		uint64_t before = wall_ns();              \
		if (more > 1)                             \
			name(part, more - 1, 0);          \
		else                                      \
			nap(ns);                          \
		if (top)                                  \
			part->inside += wall_ns() - before; \
		NO_TAIL_CALL();                           \
	}

RECURSIVE(nested, 1000000)
RECURSIVE(abyss, 1000000)

static jmp_buf out;

KEEP void jumper(struct part *part, int leaves)
{
	uint64_t before = wall_ns();

	nap(500000);
	if (leaves)
		longjmp(out, 1);
	part->inside += wall_ns() - before;
}

/* From another place on the stack than where it is called to return. */
KEEP void jump_deep(struct part *part, int depth)
{
	volatile char room[100];

	room[0] = (char)depth;
	if (depth)
		jump_deep(part, depth - 1);
	else
		jumper(part, 1);
	room[1] = room[0];
}

static void jump(void)
{
	struct part part = { 0 };

	for (volatile int i = 0; i < 30; i++) {
		if (!setjmp(out)) {
			part.calls++;
			if (i % 2)
				jump_deep(&part, i % 7);
			else
				jumper(&part, 1);
			abort();
		}
		MEASURE(&part, 1, jumper(&part, 0));
	}
	tell("jumper", &part);
}

KEEP int tail_callee(struct part *part, int x)
{
	uint64_t before = wall_ns();

	nap(500000);
	part->inside += wall_ns() - before;
	return x + 1;
}

KEEP int tail_caller(struct part *part, int x)
{
	return tail_callee(part, x * 2);
}

static void call_by_jump(void)
{
	struct part part = { 0 };
	volatile int sink = 0;

	for (int i = 0; i < 40; i++)
		MEASURE(&part, 1, sink += tail_caller(&part, i));
	tell("tail_caller", &part);
}

KEEP int hot(int x)
{
	__asm__ volatile("" : "+r"(x));
	return x + 1;
}

static void call_hot(void)
{
	struct part part = { 0 };
	volatile int sink = 0;
	uint64_t cpu = thread_ns(), before = wall_ns();

	for (int i = 0; i < 20000; i++)
		sink = hot(sink);
	part.outside = wall_ns() - before;
	part.inside = thread_ns() - cpu;
	part.calls = 20000;
	tell("hot", &part);
}

KEEP void fast(void)
{
	__asm__ volatile("");
}

KEEP void slow(struct part *part)
{
	uint64_t before = wall_ns();

	fast();
	nap(8000000);
	part->inside += wall_ns() - before;
}

static void call_slow(void)
{
	struct part part = { 0 };

	for (int i = 0; i < 50; i++)
		MEASURE(&part, 1, slow(&part));
	tell("slow", &part);
}

static void trade(void)
{
	int watched = 0;

	for (int i = 0; i < 35; i++) {
		watched += shop_sold_semaphore > 0;
		USDT("shop", "sold", "shop_sold_semaphore");
	}
	for (int i = 0; i < 35; i++) {
		watched += shop_sold_semaphore > 0;
		USDT("shop", "sold", "shop_sold_semaphore");
	}
	for (int i = 0; i < 30; i++)
		USDT("shop", "closed", "0");
	printf("truth sold 70 %d 0\n", watched);
}

int main(int argc, char **argv)
{
	struct part part = { 0 };
	struct run run = start(argc, argv);

	while (running(&run))
		nap(1000000);
	nap_in_threads();
	for (int i = 0; i < 20; i++)
		MEASURE(&part, 10, nested(&part, 10, 1));
	tell("nested", &part);
	part = (struct part){ 0 };
	for (int i = 0; i < 5; i++)
		MEASURE(&part, 100, abyss(&part, 100, 1));
	tell("abyss", &part);
	jump();
	call_by_jump();
	call_hot();
	call_slow();
	trade();
	return finish(&run);
}
