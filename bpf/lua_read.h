/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is read of a VM of LuaJIT: its states, functions and frame slots.
 *
 * The sources of the layouts: LuaJIT's lj_obj.h and lj_frame.h. What differs between
 * builds stands in struct ms_lua_layout.
 */
#ifndef MOONSCOPE_LUA_READ_H
#define MOONSCOPE_LUA_READ_H

enum {
	/* lj_obj.h: ~LJ_TTHREAD, ~LJ_TFUNC */
	LUA_GCT_THREAD = 6,
	LUA_GCT_FUNC = 8,
	/* a value in GC64 has its type in the upper 17 bits */
	LUA_TAG_SHIFT = 47,
	LUA_TAG_FUNC = 0x1fff7,
	LUA_TAG_THREAD = 0x1fff9,
	/* in GC32 it is a word of its own: LJ_TNUMX */
	LUA_LEAST_TYPE_32 = 0xfffffff2U,
	/* lua_State.cframe has two flags in its low bits (lj_frame.h) */
	LUA_CFRAME_FLAGS = 3,
	/* GCfuncL.ffid, GCfuncC.ffid (lj_obj.h) */
	LUA_FF_LUA = 0,
	LUA_FF_C = 1,
	/* frame types, the low bits of a link (lj_frame.h) */
	LUA_FRAME_TYPE = 3,
	LUA_FRAME_TYPEP = 7,
	LUA_FRAME_LUA = 0,
	LUA_FRAME_C = 1,
	LUA_FRAME_CONT = 2,
	LUA_FRAME_VARG = 3,
	LUA_FRAME_P = 4,
	/* LJ_VMST_EXIT (lj_obj.h); global_State.vmstate holds its complement, or a trace */
	LUA_VMSTATE_EXIT = 3,
	/* a continuation that is none (LJ_CONT_FFI_CALLBACK) */
	LUA_CONT_FFI_CALLBACK = 1,
	/* bytes that are read of a lua_State, of a function, of a C frame */
	LUA_STATE_BYTES_64 = 0x58,
	LUA_STATE_BYTES_32 = 0x38,
	LUA_FUNC_BYTES_64 = 0x30,
	LUA_FUNC_BYTES_32 = 0x20,
	LUA_CFRAME_BYTES = 0x28,
	/* sizeof(GCproto): bytecode begins behind it */
	LUA_PROTO_BYTES_64 = 0x68,
	LUA_PROTO_BYTES_32 = 0x40,
	/* GCproto.chunkname, and behind it firstline and numline */
	LUA_CHUNKNAME_64 = 0x40,
	LUA_CHUNKNAME_32 = 0x28,
	/*
	 * Three words of a GCstr: its number, hash and length; before those were
	 * numbered hash, length, and what follows
	 */
	LUA_STRING_ID_64 = 0xc,
	LUA_STRING_ID_32 = 0x8,
	/* GCproto.sizebc, seen from the bytecode */
	LUA_SIZEBC_64 = 0xc - 0x68,
	LUA_SIZEBC_32 = 0x8 - 0x40,
	/*
	 * Native stack below the C frame in compiled code: spill slots (at most 256
	 * of 4 bytes, LJ_MAX_SPILL), the registers that vm_exit_handler saves, and
	 * what the exit handler's C functions need is not in it.
	 */
	LUA_TRACE_STACK = 4096,
	/*
	 * C frames of what vm_exit_handler called: lj_trace_exit restores a snapshot
	 * under lj_vm_cpcall, and may begin to record.
	 */
	LUA_INNER_FRAMES = 2,
	/*
	 * How far above the stack pointer a C frame is looked for where native
	 * unwinding failed. A thread's stack may lie below another's, and this is
	 * less than any stack on which LuaJIT runs.
	 */
	LUA_GAP_STACK = 65536,
	/*
	 * GCtrace: from szmcode to traceno, between them mcode and spadjust (lj_jit.h;
	 * the same distances in all of 2.1).
	 */
	LUA_TRACE_BYTES = 22,
	LUA_TRACE_AT_64 = 0x54,
	LUA_TRACE_AT_32 = 0x3c,
	/* what BC_JLOOP takes from the stack before it enters a trace (vm_x64.dasc, vm_x86.dasc) */
	LUA_TRACE_ENTRY = 16,
};

static __always_inline int lua_is_gc32(const struct ms_lua_layout *layout)
{
	return layout->state == MS_LUA_GC32;
}

/* A reference to an object: 8 bytes, or 4. */
static __always_inline int lua_read_ref(struct walk *w, const struct ms_lua_layout *layout,
					__u64 addr, __u64 *to)
{
	__u64 value;

	if (ms_read_user(w, &value, 8, addr))
		return -1;
	*to = lua_is_gc32(layout) ? (__u32)value : value;
	return 0;
}

ms_outlined int lua_read_state(struct walk *w, __u64 number, __u64 l, struct lua_state *to)
{
	const struct ms_lua_layout *layout = ms_lua_layout(number);
	const char *at = (const char *)w->window;

	if (!l || (l & 7) || !ms_is_user_address(l))
		return -1;
	if (lua_is_gc32(layout)) {
		if (ms_read_user(w, w->window, LUA_STATE_BYTES_32, l) || at[5] != LUA_GCT_THREAD)
			return -1;
		to->g = *(const __u32 *)(at + 0x8);
		to->base = *(const __u32 *)(at + 0x10);
		to->maxstack = *(const __u32 *)(at + 0x20);
		to->bottom = *(const __u32 *)(at + 0x24) + 8ULL;
		to->cframe = *(const __u64 *)(at + 0x30);
	} else {
		if (ms_read_user(w, w->window, LUA_STATE_BYTES_64, l) || at[9] != LUA_GCT_THREAD)
			return -1;
		to->g = *(const __u64 *)(at + 0x10);
		to->base = *(const __u64 *)(at + 0x20);
		to->maxstack = *(const __u64 *)(at + 0x30);
		to->bottom = *(const __u64 *)(at + 0x38) + 16;
		to->cframe = *(const __u64 *)(at + 0x50);
	}
	to->cframe &= ~(__u64)LUA_CFRAME_FLAGS;
	to->l = l;
	to->layout = number;
	to->jit_base = 0;
	if (!to->g || (to->g & 7) || !ms_is_user_address(to->g))
		return -1;
	return 0;
}

/* Fills in jit_base if `state` is the one that runs. */
static __always_inline int lua_read_jit_base(struct walk *w, struct lua_state *state)
{
	const struct ms_lua_layout *layout = ms_lua_layout(state->layout);
	__u64 current;

	if (lua_read_ref(w, layout, state->g + layout->cur_l, &current))
		return -1;
	if (current != state->l)
		return 0;
	return lua_read_ref(w, layout, state->g + layout->jit_base, &state->jit_base);
}

/* An address of a C frame, where one is stored. */
static __always_inline int lua_read_cframe(struct walk *w, __u64 addr, __u64 *to)
{
	if (ms_read_user(w, to, 8, addr))
		return -1;
	*to &= ~(__u64)LUA_CFRAME_FLAGS;
	return 0;
}

/* The state whose C frame lies at `cframe`, if there is one. */
static __always_inline int lua_state_at(struct walk *w, __u64 number, __u64 cframe,
					struct lua_state *to)
{
	const struct ms_lua_layout *layout = ms_lua_layout(number);
	__u64 l, next;

	if (lua_read_ref(w, layout, cframe + layout->cf_l, &l) || lua_read_state(w, number, l, to))
		return -1;
	if (to->cframe == cframe)
		return 0;
	/* an outer frame of the state whose inner one was just walked, or is about to begin or to end */
	next = w->lua.next_cframe;
	if (l != w->lua.l && lua_read_cframe(w, to->cframe + layout->cf_prev, &next))
		return -1;
	if (cframe != next)
		return -1;
	to->cframe = cframe;
	return 0;
}

/*
 * This state of the VM with this G, if its C frame is at most `limit` above the
 * stack pointer. So many `inner` ones below that may have been walked already. The
 * C frame must say the same: memory that looks like a VM may name any address.
 */
static __always_inline int lua_state_is(struct walk *w, __u64 number, __u64 g, __u64 l, __u64 limit,
					int inner, struct lua_state *to)
{
	const struct ms_lua_layout *layout = ms_lua_layout(number);
	__u64 sp = w->reg[MS_REG_RSP], owner;

	if (lua_read_state(w, number, l, to) || to->g != g)
		return -1;
	for (int i = 0; i < inner && to->cframe && to->cframe < sp; i++)
		if (lua_read_cframe(w, to->cframe + layout->cf_prev, &to->cframe))
			return -1;
	if (to->cframe < sp || to->cframe - sp > limit ||
	    lua_read_ref(w, layout, to->cframe + layout->cf_l, &owner) || owner != l)
		return -1;
	return 0;
}

/* The state that the VM with this G runs. */
static __always_inline int lua_state_of(struct walk *w, __u64 number, __u64 g, __u64 limit,
					struct lua_state *to)
{
	__u64 l;

	if (!g || (g & 7) || !ms_is_user_address(g) ||
	    lua_read_ref(w, ms_lua_layout(number), g + ms_lua_layout(number)->cur_l, &l))
		return -1;
	return lua_state_is(w, number, g, l, limit, 0, to);
}

/* G by the register that points at the dispatch table wherever the VM runs. */
static __always_inline __u64 lua_g_by_register(const struct walk *w, const struct ms_lua_layout *layout)
{
	__u64 dispatch = w->reg[MS_REG_R14];

	if (!(w->valid & MS_BIT(MS_REG_R14)))
		return 0;
	if (lua_is_gc32(layout))
		dispatch = (__u32)dispatch;
	return dispatch - layout->g2disp;
}

/* What is read of a function object. */
struct lua_function {
	__u64 object;
	__u64 pc;		/* first bytecode */
	__u64 c;		/* C function */
	__u32 ffid;
};

static __always_inline int lua_read_function(struct walk *w, const struct ms_lua_layout *layout,
					     __u64 object, struct lua_function *to)
{
	const __u8 *at = (const __u8 *)w->window;

	to->object = object;
	if (!object || (object & 7) || !ms_is_user_address(object))
		return -1;
	if (lua_is_gc32(layout)) {
		if (ms_read_user(w, w->window, LUA_FUNC_BYTES_32, object) || at[5] != LUA_GCT_FUNC)
			return -1;
		to->ffid = at[6];
		to->pc = *(const __u32 *)(at + 0x10);
		to->c = *(const __u64 *)(at + 0x18);
		return 0;
	}
	if (ms_read_user(w, w->window, LUA_FUNC_BYTES_64, object) || at[9] != LUA_GCT_FUNC)
		return -1;
	to->ffid = at[10];
	to->pc = *(const __u64 *)(at + 0x20);
	to->c = *(const __u64 *)(at + 0x28);
	return 0;
}

/* What stands in the two slots of a frame: the function and the link (lj_frame.h). */
struct lua_slots {
	__u64 function;		/* object, without its tag; may be the lua_State itself */
	__u64 link;
};

/* The same of what was read of these slots: one word, or two. */
static __always_inline int lua_take_slots(const struct ms_lua_layout *layout, __u64 first, __u64 second,
					  struct lua_slots *to)
{
	if (lua_is_gc32(layout)) {
		to->function = (__u32)first;
		to->link = first >> 32;
		return 0;
	}
	to->link = second;
	if (first >> LUA_TAG_SHIFT != LUA_TAG_FUNC && first >> LUA_TAG_SHIFT != LUA_TAG_THREAD)
		return -1;
	to->function = first & ((1ULL << LUA_TAG_SHIFT) - 1);
	return 0;
}

static __always_inline int lua_read_slots(struct walk *w, const struct ms_lua_layout *layout,
					  __u64 base, struct lua_slots *to)
{
	__u32 bytes = lua_is_gc32(layout) ? 8 : 16;
	__u64 slot[2] = {};

	if (ms_read_user(w, slot, bytes, base - bytes))
		return -1;
	return lua_take_slots(layout, slot[0], slot[1], to);
}

/*
 * The same of one frame after the other, which costs a read for a few of them. The slots
 * of the bottom are the first two, or one, of the stack.
 */
static __always_inline int lua_read_next_slots(struct walk *w, const struct ms_lua_layout *layout,
					       __u64 base, struct lua_slots *to)
{
	__u32 bytes = lua_is_gc32(layout) ? 8 : 16;
	__u64 from = base - bytes, least = w->lua.bottom - bytes, at;

	if (!w->lua.slots_at || from < w->lua.slots_at || base > w->lua.slots_at + sizeof(w->lua.slots)) {
		w->lua.slots_at = base - sizeof(w->lua.slots);
		if (w->lua.slots_at < least || base < sizeof(w->lua.slots))
			w->lua.slots_at = least;
		if (ms_read_user(w, w->lua.slots, sizeof(w->lua.slots), w->lua.slots_at)) {
			w->lua.slots_at = 0;
			return lua_read_slots(w, layout, base, to);
		}
	}
	at = (from - w->lua.slots_at) / 8;
	return lua_take_slots(layout, w->lua.slots[at & (MS_LUA_SLOTS - 1)],
			      w->lua.slots[(at + 1) & (MS_LUA_SLOTS - 1)], to);
}

static __always_inline int lua_is_base(const struct lua_state *state, __u64 base)
{
	return !(base & 7) && base >= state->bottom && base <= state->maxstack;
}

#endif /* MOONSCOPE_LUA_READ_H */
