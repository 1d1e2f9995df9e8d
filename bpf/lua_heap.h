/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How much LuaJIT has allocated, by its own counters (GCState in lj_obj.h, lj_gc.c).
 *
 *   total         what is allocated now
 *   estimate      total as it was when the marks were complete, less what was freed by
 *                 sweeping since
 *   currentwhite  changes when the marks are complete: once in each cycle
 *
 * Only sweeping frees what nobody asked to free. So between two moments of one cycle the
 * estimate falls by just what total lacks, and what was allocated is known whatever the
 * collector did; and across the moment at which marking ends, what was allocated since.
 */
#ifndef MOONSCOPE_LUA_HEAP_H
#define MOONSCOPE_LUA_HEAP_H

#include "walk_bpf.h"

enum {
	/* GCState: bytes up to and with estimate, and places behind total */
	LUA_GC_BYTES_64 = 88,
	LUA_GC_BYTES_32 = 48,
	LUA_GC_WHITE_64 = 16,
	LUA_GC_WHITE_32 = 8,
	LUA_GC_ESTIMATE_64 = 80,
	LUA_GC_ESTIMATE_32 = 44,
	/* LJ_GC_WHITES; the last of GCS* (lj_gc.h) */
	LUA_GC_WHITES = 3,
	LUA_GC_LAST_STATE = 5,
	/* LJ_VMST_GC (lj_obj.h) */
	LUA_VMSTATE_GC = 2,
};

/* The counters at one moment. */
struct lua_heap {
	__u64 total;
	__u64 estimate;
	__u32 white;
	__u32 state;	/* GCS* */
};

static __always_inline int lua_read_heap(struct walk *w, const struct ms_lua_layout *layout, __u64 g,
					 struct lua_heap *to)
{
	const __u8 *at = (const __u8 *)w->window;

	if (!layout->gc_total)
		return -1;
	if (lua_is_gc32(layout)) {
		if (ms_read_user(w, w->window, LUA_GC_BYTES_32, g + layout->gc_total))
			return -1;
		to->total = *(const __u32 *)at;
		to->estimate = *(const __u32 *)(at + LUA_GC_ESTIMATE_32);
		to->white = at[LUA_GC_WHITE_32] & LUA_GC_WHITES;
		to->state = at[LUA_GC_WHITE_32 + 1];
	} else {
		if (ms_read_user(w, w->window, LUA_GC_BYTES_64, g + layout->gc_total))
			return -1;
		to->total = *(const __u64 *)at;
		to->estimate = *(const __u64 *)(at + LUA_GC_ESTIMATE_64);
		to->white = at[LUA_GC_WHITE_64] & LUA_GC_WHITES;
		to->state = at[LUA_GC_WHITE_64 + 1];
	}
	return to->state <= LUA_GC_LAST_STATE ? 0 : -1;
}

/* Did marking end between these? After a whole cycle the estimate is a new one. */
static __always_inline bool lua_heap_has_turned(const struct lua_heap *before, const struct lua_heap *now)
{
	return before->white != now->white || now->estimate > before->estimate;
}

/*
 * Bytes that were allocated between these, less what was given back by whoever had it (a
 * table that grows frees its old parts). Where marking ended between them it is known what
 * was allocated since: on average half of it.
 */
static __always_inline __s64 lua_heap_growth(const struct lua_heap *before, const struct lua_heap *now)
{
	if (lua_heap_has_turned(before, now))
		return 2 * (__s64)(now->total - now->estimate);
	return (__s64)(now->total - before->total) + (__s64)(before->estimate - now->estimate);
}

#endif /* MOONSCOPE_LUA_HEAP_H */
