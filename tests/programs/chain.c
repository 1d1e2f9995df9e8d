/* A fixed chain of calls, busy at its bottom.
 *
 *   chain [SECONDS] [DEPTH]      DEPTH links, 1 to 64 (default 8)
 *
 * The one true stack is  main; chain_DEPTH; ...; chain_02; chain_01; chain_leaf  (two digits).
 * Every link has a frame of another size, and every third one a frame of variable size.
 */
#include "common.h"

#include <alloca.h>

static struct run run;

KEEP int chain_leaf(int x)
{
	do
		work_until(thread_ns() + 20000000);
	while (running(&run));
	return x + 1;
}

#define LINK(n, next)                                                       \
	KEEP int chain_##n(int x)                                           \
	{                                                                   \
		volatile char frame[1 + (1##n * 13) % 200];                 \
		char *more = 1##n % 3 == 0 ? alloca((size_t)x % 64 + 1) : 0; \
		int y;                                                      \
                                                                            \
		frame[0] = (char)x;                                         \
		__asm__ volatile("" : "+r"(more)::"memory");                \
		y = next(x + 1);                                            \
		NO_TAIL_CALL();                                             \
		return y + frame[0];                                        \
	}

LINK(01, chain_leaf)
LINK(02, chain_01) LINK(03, chain_02) LINK(04, chain_03) LINK(05, chain_04) LINK(06, chain_05) LINK(07, chain_06)
LINK(08, chain_07) LINK(09, chain_08) LINK(10, chain_09) LINK(11, chain_10) LINK(12, chain_11) LINK(13, chain_12)
LINK(14, chain_13) LINK(15, chain_14) LINK(16, chain_15) LINK(17, chain_16) LINK(18, chain_17) LINK(19, chain_18)
LINK(20, chain_19) LINK(21, chain_20) LINK(22, chain_21) LINK(23, chain_22) LINK(24, chain_23) LINK(25, chain_24)
LINK(26, chain_25) LINK(27, chain_26) LINK(28, chain_27) LINK(29, chain_28) LINK(30, chain_29) LINK(31, chain_30)
LINK(32, chain_31) LINK(33, chain_32) LINK(34, chain_33) LINK(35, chain_34) LINK(36, chain_35) LINK(37, chain_36)
LINK(38, chain_37) LINK(39, chain_38) LINK(40, chain_39) LINK(41, chain_40) LINK(42, chain_41) LINK(43, chain_42)
LINK(44, chain_43) LINK(45, chain_44) LINK(46, chain_45) LINK(47, chain_46) LINK(48, chain_47) LINK(49, chain_48)
LINK(50, chain_49) LINK(51, chain_50) LINK(52, chain_51) LINK(53, chain_52) LINK(54, chain_53) LINK(55, chain_54)
LINK(56, chain_55) LINK(57, chain_56) LINK(58, chain_57) LINK(59, chain_58) LINK(60, chain_59) LINK(61, chain_60)
LINK(62, chain_61) LINK(63, chain_62) LINK(64, chain_63)

static int (*const links[])(int) = {
	chain_01, chain_02, chain_03, chain_04, chain_05, chain_06, chain_07, chain_08, chain_09, chain_10, chain_11,
	chain_12, chain_13, chain_14, chain_15, chain_16, chain_17, chain_18, chain_19, chain_20, chain_21, chain_22,
	chain_23, chain_24, chain_25, chain_26, chain_27, chain_28, chain_29, chain_30, chain_31, chain_32, chain_33,
	chain_34, chain_35, chain_36, chain_37, chain_38, chain_39, chain_40, chain_41, chain_42, chain_43, chain_44,
	chain_45, chain_46, chain_47, chain_48, chain_49, chain_50, chain_51, chain_52, chain_53, chain_54, chain_55,
	chain_56, chain_57, chain_58, chain_59, chain_60, chain_61, chain_62, chain_63, chain_64,
};

int main(int argc, char **argv)
{
	int depth = argc > 2 ? atoi(argv[2]) : 8;
	volatile int sink;

	if (depth < 1 || depth > 64) {
		fprintf(stderr, "chain: the depth is 1 to 64\n");
		return 2;
	}
	run = start(argc, argv);
	sink = links[depth - 1](depth);
	(void)sink;
	return finish(&run);
}
