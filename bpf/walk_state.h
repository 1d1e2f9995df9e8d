/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a walk remembers from one step to the next. */
#ifndef MOONSCOPE_WALK_STATE_H
#define MOONSCOPE_WALK_STATE_H

#include "abi.h"

enum { MS_WINDOW_BUFFER = 32 };	/* > MS_UCONTEXT_NR_REGS and MS_WINDOW_WORDS */

struct walk {
	__u64 reg[MS_NR_REGS];
	__u32 valid;		/* bit n: reg[n] is known */
	__u32 depth;
	__u32 max_depth;
	__u32 end;		/* enum ms_end, set by whatever stops the walk */
	__u32 exact;		/* rip is no return address: leaf, or below a signal frame */
	__u32 by_fp;		/* this frame was reached by a frame pointer */
	__u32 first;		/* the mappings of the process */
	__u32 count;
	struct ms_mapping here;	/* the last one found: callers often share it */
	__u64 window[MS_WINDOW_BUFFER];
};

#endif /* MOONSCOPE_WALK_STATE_H */
