/* Three functions that use 50, 30 and 20 % of the CPU time.
 *
 * In every round (7 to 13 ms of thread CPU time) each works until the thread's CPU clock has reached its
 * part of the round. The marks are absolute, so a slice that ends late shortens the next one and errors do not
 * add up; what was really used is printed at the end.
 */
#include "common.h"

static uint64_t used[3];

KEEP void share_50(uint64_t end) { work_until(end); NO_TAIL_CALL(); }
KEEP void share_30(uint64_t end) { work_until(end); NO_TAIL_CALL(); }
KEEP void share_20(uint64_t end) { work_until(end); NO_TAIL_CALL(); }

KEEP void one_round(void)
{
	uint64_t begin = thread_ns(), length = round_ns(), at = begin, next;

	share_50(begin + length * 5 / 10);
	used[0] += (next = thread_ns()) - at;
	share_30(begin + length * 8 / 10);
	used[1] += (at = thread_ns()) - next;
	share_20(begin + length);
	used[2] += thread_ns() - at;
}

int main(int argc, char **argv)
{
	struct run run = start(argc, argv);
	uint64_t total;

	while (running(&run))
		one_round();
	total = used[0] + used[1] + used[2];
	truth("share_50", used[0], total);
	truth("share_30", used[1], total);
	truth("share_20", used[2], total);
	return finish(&run);
}
