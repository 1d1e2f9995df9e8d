/* Three functions that use 50, 30 and 20 % of the CPU time.
 *
 * In every round (7 to 13 ms of thread CPU time) each works until the thread's CPU clock has reached its
 * part of the round. The marks are absolute, so a slice that ends late shortens the next one and errors do not
 * add up; what was really used is printed at the end.
 * The order changes at random. A virtual machine that is not scheduled for a while sees its CPU clock jump, and then
 * the rest of that round is skipped: with a fixed order the last function would lose most by it.
 */
#include "common.h"

static uint64_t used[3];

KEEP void share_50(uint64_t end) { work_until(end); NO_TAIL_CALL(); }
KEEP void share_30(uint64_t end) { work_until(end); NO_TAIL_CALL(); }
KEEP void share_20(uint64_t end) { work_until(end); NO_TAIL_CALL(); }

static const struct part {
	void (*work)(uint64_t end);
	uint64_t percent;
} parts[] = { { share_50, 50 }, { share_30, 30 }, { share_20, 20 } };

KEEP void one_round(void)
{
	uint64_t begin = thread_ns(), length = round_ns(), at = begin, now, percent = 0;
	unsigned first = (unsigned)(length % 3), second = (first + 1 + (unsigned)(length / 3 % 2)) % 3;
	const unsigned order[] = { first, second, 3 - first - second };

	for (int i = 0; i < 3; i++) {
		const struct part *part = &parts[order[i]];

		percent += part->percent;
		part->work(begin + length * percent / 100);
		now = thread_ns();
		used[order[i]] += now - at;
		at = now;
	}
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
