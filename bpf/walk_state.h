/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a walk remembers from one step to the next. */
#ifndef MOONSCOPE_WALK_STATE_H
#define MOONSCOPE_WALK_STATE_H

#include "abi.h"

enum {
	/*
	 * Words of the stack that are read at once: a few frames. A read costs much more than the words it brings:
	 * 105 frames took 13.9 us with one for each, and 6.1 with these (Linux 6.18).
	 */
	MS_CHUNK_WORDS = 64,
	MS_CHUNK_BYTES = 8 * MS_CHUNK_WORDS,
	MS_WINDOW_BUFFER = 32,	/* > MS_UCONTEXT_NR_REGS and MS_WINDOW_WORDS */
	/*
	 * Slots of a Lua stack that are read at once: a few frames. A stack has no fewer
	 * (LJ_STACK_START and LJ_STACK_EXTRA, lj_def.h).
	 */
	MS_LUA_SLOTS = 32,
	MS_UPROBE_PAGE = 4096,	/* what uprobes.h is about */
};

/* What is read of a lua_State, and of the global_State it belongs to. */
struct lua_state {
	__u64 l;
	__u64 g;
	__u64 base;
	__u64 bottom;
	__u64 maxstack;
	__u64 cframe;
	__u64 jit_base;		/* 0 if this is not the state that runs */
	__u64 layout;		/* number of its ms_lua_layout */
};

/* The Lua stack that is being walked, or was last. */
struct lua_walk {
	__u32 in_segment;	/* the next step is a Lua frame */
	__u32 layout;
	__u64 l;		/* the lua_State; 0 before the first */
	__u64 g;
	__u64 base;		/* of the next frame; 0: not known */
	__u64 bottom;		/* the base below all frames */
	__u64 maxstack;
	__u64 pc;		/* where the next frame's function is in its bytecode; 0: not known */
	__u64 cframe;		/* the VM's frame whose segment this is */
	__u64 next_cframe;	/* the one of the same lua_State that it is inside of */
	__u32 skip;		/* the next frame is the lower half of a vararg call */
	__u64 replaced;		/* the link of the next frame, whose function is not called yet; 0: in its slots */
	__u32 helper;		/* depth at which a helper of the VM returns to the VM; 0: none */
	__u64 proto;		/* the last prototype, and its MS_LUA_PRINT: recursion has it often */
	__u64 print;
	__u64 chunkname;	/* the last one, and what LUA_STRING_ID reads of it: files have many functions */
	__u32 chunkname_id[3];
	__u64 slots_at;		/* address of slots[0]; 0: nothing was read */
	__u64 slots[MS_LUA_SLOTS];
	__u32 parents;		/* coroutines that wait for the one that was met, walked so far */
	__u64 leaving;		/* what will be lua_State.base; 0: it is what it should be */
	__u32 here;		/* enum ms_lua_here, of the innermost VM */
	__s32 vmstate;		/* of the innermost VM */
};

struct walk {
	__u64 reg[MS_NR_REGS];
	__u32 valid;		/* bit n: reg[n] is known */
	__u32 depth;
	__u32 max_depth;
	__u32 end;		/* enum ms_end, set by whatever stops the walk */
	__u32 exact;		/* rip is no return address: leaf, or below a signal frame */
	__u32 by_fp;		/* this frame was reached by a frame pointer */
	__u32 stuck;		/* enum ms_end: no rule leads on, and this is why */
	__u32 in_memory;	/* code of no file */
	__u32 unseen;		/* the frame was not stored, as it lies in no known mapping */
	__u32 first;		/* the mappings of the process */
	__u32 count;
	__u32 pid;
	/* return addresses that a uprobe took (uprobes.h) */
	__u32 has_left_uprobe;	/* looked for, once */
	__u32 has_returns;	/* `next_return` is known */
	__u64 next_return;	/* the newest that was not met yet */
	__u64 ret;		/* a return address, and where it was read */
	__u64 ret_place;
	struct ms_mapping here;	/* the last one found: callers often share it */
	struct lua_walk lua;
	/* what a step works with: all calls together have 512 bytes of stack (Linux 5.10) */
	struct lua_state found;
	struct lua_state other;
	__u64 window[MS_WINDOW_BUFFER];
	/* the part of the stack that was read last */
	__u64 chunk_at;		/* address of the first word */
	__u64 chunk_len;	/* bytes; 0: nothing was read */
	__u64 chunk[MS_CHUNK_WORDS];
};

#endif /* MOONSCOPE_WALK_STATE_H */
