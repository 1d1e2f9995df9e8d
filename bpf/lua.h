/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Lua frames inside a native walk, for LuaJIT 2.1 on x86-64.
 *
 * Each entry into LuaJIT's VM pushes one native frame of fixed layout, the C
 * frame, and leaves its address in lua_State.cframe. So wherever a thread is
 * below it (bytecode, assembler helper, compiled code with any spill area, C
 * function, garbage collection, code without unwind information), the native
 * walk goes on at cframe + size, and the Lua frames between this entry and the
 * one before, a segment, belong exactly there.
 *
 * The sources of the layouts: LuaJIT's lj_obj.h, lj_frame.h, vm_x64.dasc and
 * vm_x86.dasc. What differs between builds stands in struct ms_lua_layout.
 *
 * Included by walk.h; who includes that defines also
 *
 *   ms_lua_layout(number)    const struct ms_lua_layout *, never NULL
 *   ms_lua_process(w)        const struct ms_lua_process *, or NULL
 *   ms_note_function(w, proto, print)   hears of each Lua function
 *   ms_wants_parents()       are the parents of coroutines to be shown?
 */
#ifndef MOONSCOPE_LUA_H
#define MOONSCOPE_LUA_H

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

static __always_inline int lua_read_state(struct walk *w, __u64 number, __u64 l, struct lua_state *to)
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

static __always_inline int lua_read_slots(struct walk *w, const struct ms_lua_layout *layout,
					  __u64 base, struct lua_slots *to)
{
	__u64 slot[2];

	if (lua_is_gc32(layout)) {
		if (ms_read_user(w, slot, 8, base - 8))
			return -1;
		to->function = (__u32)slot[0];
		to->link = slot[0] >> 32;
		return 0;
	}
	if (ms_read_user(w, slot, 16, base - 16))
		return -1;
	to->link = slot[1];
	if (slot[0] >> LUA_TAG_SHIFT != LUA_TAG_FUNC && slot[0] >> LUA_TAG_SHIFT != LUA_TAG_THREAD)
		return -1;
	to->function = slot[0] & ((1ULL << LUA_TAG_SHIFT) - 1);
	return 0;
}

static __always_inline int lua_is_base(const struct lua_state *state, __u64 base)
{
	return !(base & 7) && base >= state->bottom && base <= state->maxstack;
}

/* Is this a position in the bytecode of a Lua function? A saved one is behind its instruction. */
static __always_inline int lua_covers(struct walk *w, const struct ms_lua_layout *layout,
				      const struct lua_function *function, __u64 pc)
{
	__u32 sizebc;

	if (function->ffid != LUA_FF_LUA || pc < function->pc ||
	    ms_read_user(w, &sizebc, 4, function->pc + (lua_is_gc32(layout) ? LUA_SIZEBC_32 : LUA_SIZEBC_64)))
		return 0;
	return pc <= function->pc + 4ULL * sizebc;
}

/* The base of the frame whose call instruction, before the position `pc`, made the frame at `base`. */
static __always_inline int lua_caller_base(struct walk *w, const struct ms_lua_layout *layout,
					   __u64 base, __u64 pc, __u64 *to)
{
	__u32 call;

	/* the instruction before the return position names the slot of the call */
	if (ms_read_user(w, &call, 4, pc - 4))
		return -1;
	*to = base - 8ULL * (((call >> 8) & 0xff) + (lua_is_gc32(layout) ? 1 : 2));
	return 0;
}

/*
 * The frame that called the one at `base`, by a link that is no longer, or not
 * yet, in the slots of that: its base, and where it is in its bytecode (0: it is
 * pcall or xpcall). lj_vm_return has the lowest bit of the link flipped.
 */
static __always_inline int lua_caller(struct walk *w, const struct ms_lua_layout *layout,
				      __u64 base, __u64 link, __u64 *caller, __u64 *pc)
{
	__u64 cont[2];

	*pc = link;
	if (!(link & LUA_FRAME_TYPE))
		return lua_caller_base(w, layout, base, link, caller);
	*caller = base - (link & ~(__u64)LUA_FRAME_TYPEP);
	*pc = 0;
	if ((link & (LUA_FRAME_TYPEP & ~1)) == (LUA_FRAME_CONT | LUA_FRAME_P))
		return 0;
	if ((link & (LUA_FRAME_TYPEP & ~1)) != LUA_FRAME_CONT)
		return -1;
	if (lua_is_gc32(layout)) {
		if (ms_read_user(w, cont, 8, base - 16))
			return -1;
		*pc = cont[0] >> 32;
	} else {
		if (ms_read_user(w, cont, 16, base - 32))
			return -1;
		*pc = cont[1];
	}
	return *pc ? 0 : -1;
}

/* Has a result been written where the link of a frame was? Its type is in the upper bits. */
static __always_inline int lua_is_result(const struct ms_lua_layout *layout, __u64 link)
{
	return lua_is_gc32(layout) ? link >= LUA_LEAST_TYPE_32 : link >> LUA_TAG_SHIFT != 0;
}

/* Begins the segment at the frame that called the one at `base`, if `link` leads to one. */
static __always_inline int lua_take_caller(struct walk *w, const struct lua_state *state, __u64 base,
					   __u64 link)
{
	const struct ms_lua_layout *layout = ms_lua_layout(state->layout);
	struct lua_function function;
	struct lua_slots slots;
	__u64 caller, pc;

	if (!link || lua_caller(w, layout, base, link, &caller, &pc) || !lua_is_base(state, caller) ||
	    caller == state->bottom || caller >= base || lua_read_slots(w, layout, caller, &slots) ||
	    lua_read_function(w, layout, slots.function, &function))
		return -1;
	if (pc ? !lua_covers(w, layout, &function, pc) : function.ffid <= LUA_FF_C)
		return -1;
	w->lua.base = caller;
	w->lua.pc = pc;
	return 0;
}

/*
 * A thread inside the VM's own code, or called by it: the frame at a base that a
 * register holds. The bytecode position in PC (rbx) tells if it is the one that
 * runs. While a function is called or returns, PC is its caller's already, or
 * still, and its own frame is not complete, or has results in it: then the caller
 * is taken, at its call. Of a builtin whose C part runs (not `in_vm`) the caller is
 * taken only if it has written its result already. Builtins that write results before
 * they have PC again left it in the frame (math.modf has its function overwritten), or
 * in the C frame (coroutine.resume its link). Where the base need not be right (not
 * `certain`), a Lua function must have the position.
 */
static __always_inline int lua_register_base(struct walk *w, const struct lua_state *state, __u64 base,
					     int in_vm, int certain)
{
	const struct ms_lua_layout *layout = ms_lua_layout(state->layout);
	struct lua_slots slots = {};
	struct lua_function function;
	__u64 pc = w->reg[MS_REG_RBX], saved;
	int found;

	if (lua_is_gc32(layout))
		pc = (__u32)pc;
	if (!(w->valid & MS_BIT(MS_REG_RBX)))
		pc = 0;
	if (!lua_is_base(state, base) || base == state->bottom)
		return -1;
	found = !lua_read_slots(w, layout, base, &slots) &&
		!lua_read_function(w, layout, slots.function, &function);
	if (found && lua_covers(w, layout, &function, pc)) {
		w->lua.base = base;
		w->lua.pc = pc;
		return 0;
	}
	if (found && function.ffid == LUA_FF_LUA && !certain) {
		if (!in_vm)
			return -1;
		found = 0;
	}
	if ((in_vm || !found) && !lua_take_caller(w, state, base, pc))
		return 0;
	if (!found && !lua_take_caller(w, state, base, slots.link))
		return 0;
	if (in_vm && lua_is_result(layout, slots.link) &&
	    !lua_read_ref(w, layout, state->cframe + layout->cf_pc, &saved) &&
	    !lua_take_caller(w, state, base, saved))
		return 0;
	if (!found)
		return -1;
	w->lua.base = base;
	w->lua.pc = 0;
	return 0;
}

/* BASE, where the VM's own code runs. */
static __always_inline __u64 lua_base_register(const struct walk *w, const struct ms_lua_layout *layout)
{
	return lua_is_gc32(layout) ? (__u32)w->reg[MS_REG_RDX] : w->reg[MS_REG_RDX];
}

/*
 * The base as the VM's registers have it, if they do. BASE is a register that C
 * functions change; the VM keeps it in RB (rbp) over calls of those that know
 * nothing of Lua, and lua_State there over calls of all others, which find the
 * base in lua_State (vm_x64.dasc, vm_x86.dasc: "mov RB, BASE", "mov L:RB, SAVE_L").
 */
static __always_inline void lua_find_base(struct walk *w, const struct lua_state *state, int in_vm,
					  int certain)
{
	__u64 base = lua_base_register(w, ms_lua_layout(state->layout));

	if (!in_vm || !lua_is_base(state, base)) {
		base = w->valid & MS_BIT(MS_REG_RBP) ? w->reg[MS_REG_RBP] : 0;
		certain = 0;
	}
	if (!in_vm && !lua_is_base(state, base))
		base = state->base;
	lua_register_base(w, state, base, in_vm, certain);
}

#define LUA_WORD(kind, address)							\
	(MS_FRAME_LUA | ((__u64)(kind) << MS_FRAME_LUA_KIND_SHIFT) |		\
	 ((address) & MS_FRAME_ADDR_MASK))

static __always_inline int lua_emit(struct walk *w, __u32 kind, __u64 address, __u64 more)
{
	return ms_emit(w, LUA_WORD(kind, address)) || ms_emit(w, more);
}

/* Goes on natively at the caller of the VM. */
static __always_inline int lua_leave(struct walk *w)
{
	const struct ms_lua_layout *layout = ms_lua_layout(w->lua.layout);

	w->lua.in_segment = 0;
	return ms_return_to(w, ms_rule(layout->rule), w->lua.cframe + layout->cframe_size);
}

enum lua_entry {
	LUA_BY_RETURN,		/* a C function returns to the VM */
	LUA_IN_HANDLER,		/* the thread runs the VM's code */
	LUA_IN_SUBROUTINE,
	LUA_ON_TRACE,		/* compiled code, or what vm_exit_handler called */
	LUA_AFTER_GAP,
	LUA_AFTER_CALL_AND_GAP,	/* and compiled code called what is in the gap, from the frame before */
};

/* Begins the segment of the C frame that `state` tells of. */
static __always_inline int lua_begin(struct walk *w, struct lua_state *state, enum lua_entry entry)
{
	const struct ms_lua_layout *layout = ms_lua_layout(state->layout);
	const char *at = (const char *)w->window;
	int is_new = state->l != w->lua.l;
	__u64 flags = entry >= LUA_AFTER_GAP ? MS_SEGMENT_GAP : 0;
	int in_vm = entry == LUA_IN_HANDLER || entry == LUA_IN_SUBROUTINE;
	int leaves_trace;
	__u64 next;
	__u32 pc;
	__s32 nres;

	if (entry == LUA_AFTER_CALL_AND_GAP)
		flags |= MS_SEGMENT_CALL;
	if (w->lua.here == MS_LUA_NOT_HERE) {
		w->lua.here = state->jit_base ? MS_LUA_ON_TRACE : MS_LUA_HERE;
		if (ms_read_user(w, &w->lua.vmstate, 4, state->g + layout->vmstate))
			w->lua.vmstate = 0;
	}
	/*
	 * lj_vm_exit_interp, until it says that the interpreter runs: all frames are on
	 * the Lua stack, and BASE and PC are right.
	 */
	leaves_trace = entry == LUA_IN_SUBROUTINE && w->exact &&
		       (w->lua.vmstate > 0 || w->lua.vmstate == ~LUA_VMSTATE_EXIT);
	if (is_new) {
		w->lua.l = state->l;
		w->lua.g = state->g;
		w->lua.bottom = state->bottom;
		w->lua.maxstack = state->maxstack;
		w->lua.base = 0;
		w->lua.skip = 0;
		w->lua.replaced = 0;
		if (state->jit_base) {
			flags |= MS_SEGMENT_TRACE;
			if (lua_is_base(state, state->jit_base))
				w->lua.base = state->jit_base;
			w->lua.pc = 0;
		} else if (entry == LUA_BY_RETURN || in_vm) {
			lua_find_base(w, state, in_vm, entry == LUA_IN_HANDLER || leaves_trace);
			/* PC is at the next instruction there, not behind the current one */
			if (leaves_trace && w->lua.base && w->lua.pc)
				w->lua.pc += 4;
		}
	}
	if (ms_read_user(w, w->window, LUA_CFRAME_BYTES, state->cframe))
		return ms_stop(w, MS_END_UNREADABLE);
	next = *(const __u64 *)(at + (layout->cf_prev & 0x20));
	nres = *(const __s32 *)(at + (layout->cf_nres & 0x18));
	pc = *(const __u32 *)(at + (layout->cf_pc & 0x1c));
	if (is_new && !w->lua.base) {
		/*
		 * C enters the VM, and PC is the type of the frame to be (FRAME_C or FRAME_CP;
		 * vm_x64.dasc, vm_call to vm_call_dispatch): nothing of it is there yet.
		 */
		if (in_vm && w->exact && (w->reg[MS_REG_RBX] & ~4ULL) == LUA_FRAME_C)
			flags |= MS_SEGMENT_EMPTY;
		else if (in_vm)
			flags |= MS_SEGMENT_GUESSED;
		w->lua.base = state->base;
		if (w->lua.leaving && lua_is_base(state, w->lua.leaving))
			w->lua.base = w->lua.leaving;
		w->lua.leaving = 0;
		w->lua.pc = lua_is_gc32(layout) ? pc : *(const __u64 *)(at + (layout->cf_pc & 0x18));
	} else if (!is_new) {
		/* the frame that called into C has its position in this C frame */
		w->lua.pc = lua_is_gc32(layout) ? pc : *(const __u64 *)(at + (layout->cf_pc & 0x18));
		if (!w->lua.base)
			flags |= MS_SEGMENT_LOST;
	}
	w->lua.layout = state->layout;
	w->lua.cframe = state->cframe;
	w->lua.next_cframe = next & ~(__u64)LUA_CFRAME_FLAGS;
	if (nres < 0)
		flags |= MS_SEGMENT_EMPTY;
	if (entry == LUA_ON_TRACE || entry >= LUA_AFTER_GAP) {
		/* the rule says of these that they did not change; compiled code changes
		 * them, and puts them back from here when it is left (vm_x64.dasc) */
		w->valid &= ~(MS_BIT(MS_REG_R12) | MS_BIT(MS_REG_R13));
		if (entry == LUA_ON_TRACE && layout->cframe_size == 80) {
			if (!ms_read_user(w, &w->reg[MS_REG_R12], 8, state->cframe))
				w->valid |= MS_BIT(MS_REG_R12);
			if (!ms_read_user(w, &w->reg[MS_REG_R13], 8,
					  lua_is_gc32(layout) ? state->cframe + 8 : state->cframe - 8))
				w->valid |= MS_BIT(MS_REG_R13);
		}
	}
	if (lua_emit(w, MS_LUA_SEGMENT, state->l, (state->g & MS_SEGMENT_G_MASK) | flags))
		return ms_stop(w, MS_END_DEPTH);
	w->lua.in_segment = 1;
	if (flags & (MS_SEGMENT_EMPTY | MS_SEGMENT_LOST))
		return lua_leave(w);
	return 0;
}

#include "lua_parents.h"

/* All frames of this entry into the VM were walked. */
static __always_inline int lua_end_segment(struct walk *w)
{
	/* a coroutine that C resumed has no older frame of the VM (lj_vm_resume) */
	if (ms_wants_parents() && w->lua.base == w->lua.bottom && !w->lua.next_cframe)
		return lua_end_coroutine(w);
	return lua_leave(w);
}

/* The walk of this Lua stack cannot go on; the native one can. */
static __always_inline int lua_break(struct walk *w, __u32 why)
{
	if (lua_emit(w, MS_LUA_BROKEN, w->lua.base, why))
		return ms_stop(w, MS_END_DEPTH);
	w->lua.base = 0;
	return lua_leave(w);
}

/* MS_LUA_PRINT of a prototype; 0 if it cannot be read. */
static __always_inline __u32 lua_print(struct walk *w, const struct ms_lua_layout *layout, __u64 proto)
{
	__u64 chunkname;
	__u32 line[2], string[3];

	if (proto == w->lua.proto)
		return w->lua.print;
	w->lua.proto = proto;
	w->lua.print = 0;
	if (lua_is_gc32(layout)) {
		if (ms_read_user(w, w->window, 12, proto + LUA_CHUNKNAME_32))
			return 0;
		chunkname = (__u32)w->window[0];
		line[0] = w->window[0] >> 32;
		line[1] = (__u32)w->window[1];
	} else {
		if (ms_read_user(w, w->window, 16, proto + LUA_CHUNKNAME_64))
			return 0;
		chunkname = w->window[0];
		line[0] = (__u32)w->window[1];
		line[1] = w->window[1] >> 32;
	}
	/* a freed name makes room for another one of its size */
	if (ms_read_user(w, string, sizeof(string),
			 chunkname + (lua_is_gc32(layout) ? LUA_STRING_ID_32 : LUA_STRING_ID_64)))
		return 0;
	w->lua.print = MS_LUA_PRINT(chunkname, string, line[0], line[1]);
	ms_note_function(w, proto, w->lua.print);
	return w->lua.print;
}

/* Stores the function of a frame. */
static __always_inline int lua_emit_function(struct walk *w, const struct ms_lua_layout *layout,
					     const struct lua_function *function)
{
	__u64 first = function->pc;
	__u64 at = MS_LUA_NO_PC;

	if (function->ffid == LUA_FF_C)
		return lua_emit(w, MS_LUA_C_FUNCTION, function->c, function->object);
	if (function->ffid != LUA_FF_LUA)
		return lua_emit(w, MS_LUA_BUILTIN, function->object, function->ffid);
	if (w->lua.pc && (w->lua.pc - first) / 4 < MS_LUA_NO_PC)
		at = (w->lua.pc - first) / 4;
	first -= lua_is_gc32(layout) ? LUA_PROTO_BYTES_32 : LUA_PROTO_BYTES_64;
	return lua_emit(w, MS_LUA_FUNCTION, first, at | (__u64)lua_print(w, layout, first) << MS_LUA_PRINT_SHIFT);
}

/* One Lua frame. */
static __always_inline int lua_step(struct walk *w)
{
	const struct ms_lua_layout *layout = ms_lua_layout(w->lua.layout);
	__u64 base = w->lua.base, prev, caller_pc = 0;
	struct lua_function function;
	struct lua_slots slots;
	__u64 replaced = 0;
	int leaves = 0, skips = 0, dummy;

	if (base == w->lua.bottom)
		return lua_end_segment(w);
	if ((base & 7) || base < w->lua.bottom || base > w->lua.maxstack)
		return lua_break(w, MS_LUA_BASE_OUTSIDE);
	if (lua_read_slots(w, layout, base, &slots))
		return lua_break(w, MS_LUA_NO_FUNCTION);
	/* a frame of the lua_State itself stands for a call of what is no function */
	dummy = slots.function == w->lua.l;
	if (w->lua.replaced) {
		slots.link = w->lua.replaced;
	} else if (!dummy && !w->lua.skip) {
		if (lua_read_function(w, layout, slots.function, &function))
			return lua_break(w, MS_LUA_NO_FUNCTION);
		if (lua_emit_function(w, layout, &function))
			return ms_stop(w, MS_END_DEPTH);
		w->depth++;
	}
	switch (slots.link & LUA_FRAME_TYPE) {
	case LUA_FRAME_LUA:
		if (lua_caller_base(w, layout, base, slots.link, &prev))
			return lua_break(w, MS_LUA_UNREADABLE);
		caller_pc = slots.link;
		break;
	case LUA_FRAME_CONT: {
		__u64 cont[2];

		prev = base - (slots.link & ~(__u64)LUA_FRAME_TYPEP);
		if ((slots.link & LUA_FRAME_TYPEP) != LUA_FRAME_CONT)
			break;	/* pcall, xpcall */
		if (lua_is_gc32(layout)) {
			if (ms_read_user(w, cont, 8, base - 16))
				return lua_break(w, MS_LUA_UNREADABLE);
			caller_pc = cont[0] >> 32;
			cont[0] = (__u32)cont[0];
		} else {
			if (ms_read_user(w, cont, 16, base - 32))
				return lua_break(w, MS_LUA_UNREADABLE);
			caller_pc = cont[1];
		}
		leaves = cont[0] == LUA_CONT_FFI_CALLBACK;
		/* lj_meta_tailcall: the function below is not called yet, and its link stands here */
		if (dummy && !cont[0])
			replaced = caller_pc;
		break;
	}
	case LUA_FRAME_VARG:
		prev = base - (slots.link & ~(__u64)LUA_FRAME_TYPEP);
		skips = !dummy && (slots.link & LUA_FRAME_TYPEP) == LUA_FRAME_VARG;
		break;
	default:
		prev = base - (slots.link & ~(__u64)LUA_FRAME_TYPEP);
		leaves = 1;
		break;
	}
	if (prev >= base || prev < w->lua.bottom)
		return lua_break(w, MS_LUA_BAD_LINK);
	w->lua.base = prev;
	w->lua.pc = caller_pc;
	w->lua.skip = skips;
	w->lua.replaced = replaced;
	return leaves ? lua_end_segment(w) : 0;
}

/* What the code of the VM at the leaf knows and its caller must hear of. */
static __always_inline void lua_note_leaf(struct walk *w, const struct ms_rule *rule)
{
	if (!w->exact)
		return;
	if (rule->cfa == MS_CFA_LUA_HELPER)
		w->lua.helper = w->depth + 1;
	else
		w->lua.leaving = w->reg[MS_REG_RBX];
}

/*
 * The state whose frame of the VM is above all that compiled code and its exit left
 * on the stack. vm_exit_handler has it in RB (rbp) when it calls: then the VM may
 * run another one (newer LuaJIT calls finalizers in a state of their own).
 */
static __always_inline int lua_state_below(struct walk *w, __u64 number, struct lua_state *to)
{
	__u64 g = lua_g_by_register(w, ms_lua_layout(number));

	if (!lua_state_of(w, number, g, LUA_TRACE_STACK, to))
		return 0;
	if (w->exact || !(w->valid & MS_BIT(MS_REG_RBP)))
		return -1;
	return lua_state_is(w, number, g, w->reg[MS_REG_RBP], LUA_TRACE_STACK, LUA_INNER_FRAMES, to);
}

/*
 * lj_vm_ffi_callback, while lj_ccallback_enter works for it: that makes its frame
 * the innermost one, and then pushes the first Lua frame on top of the frames of
 * the C function that was called (lj_ccallback.c).
 */
static __always_inline int lua_is_called_back(struct walk *w, __u64 number)
{
	const struct ms_lua_layout *layout = ms_lua_layout(number);
	int is_gc32 = lua_is_gc32(layout);
	struct lua_state state;
	struct lua_slots slots;
	__u64 cont;

	if (w->exact || lua_state_at(w, number, w->reg[MS_REG_RSP], &state) ||
	    lua_read_slots(w, layout, state.base, &slots) ||
	    (slots.link & LUA_FRAME_TYPEP) != LUA_FRAME_CONT ||
	    ms_read_user(w, &cont, 8, state.base - (is_gc32 ? 16 : 32)))
		return 0;
	return (is_gc32 ? (__u32)cont : cont) == LUA_CONT_FFI_CALLBACK;
}

/*
 * The frame of a VM that an error has left on its way to a handler further out:
 * lj_err_unwind was asked for it already, which made an outer one the innermost and
 * dropped its Lua frames (err_unwind in lj_err.c), and the unwinder still runs below it.
 */
static __always_inline int lua_is_left(struct walk *w, __u64 number)
{
	const struct ms_lua_layout *layout = ms_lua_layout(number);
	__u64 sp = w->reg[MS_REG_RSP], l, prev;
	struct lua_state state;

	if (w->exact || lua_read_ref(w, layout, sp + layout->cf_l, &l) || lua_read_state(w, number, l, &state) ||
	    lua_read_cframe(w, sp + layout->cf_prev, &prev))
		return 0;
	return (!state.cframe || state.cframe > sp) && (!prev || prev > sp);
}

/*
 * The native frame of the VM itself. Its C frame is where the stack pointer is,
 * or one word above in a helper, or above all that compiled code and its exit
 * left there.
 */
static __always_inline int lua_step_vm(struct walk *w, const struct ms_rule *rule)
{
	__u64 number = (__u16)rule->add;
	const struct ms_lua_layout *layout = ms_lua_layout(number);
	enum lua_entry entry = LUA_BY_RETURN;
	__u64 sp = w->reg[MS_REG_RSP];
	struct lua_state state;

	if (layout->state == MS_LUA_NO_LAYOUT)
		return ms_stop(w, MS_END_UNSUPPORTED);
	if (rule->cfa == MS_CFA_LUA_CALLBACK && !lua_is_called_back(w, number))
		return ms_return_to(w, rule, sp + layout->cframe_size);
	if (w->exact)
		entry = rule->cfa == MS_CFA_LUA_VM ? LUA_IN_HANDLER : LUA_IN_SUBROUTINE;
	else if (w->lua.helper == w->depth)
		entry = LUA_IN_SUBROUTINE;
	/* C calls a function, and has written no link: the low bits of rbx are FRAME_C's */
	if (w->exact && rule->cfa == MS_CFA_LUA_DISPATCH && (w->reg[MS_REG_RBX] & LUA_FRAME_TYPE) == LUA_FRAME_C)
		return ms_return_to(w, rule, sp + layout->cframe_size);
	if (lua_state_at(w, number, sp, &state) && lua_state_at(w, number, sp + 8, &state)) {
		if (lua_state_below(w, number, &state)) {
			if (lua_is_left(w, number))
				return ms_return_to(w, rule, sp + layout->cframe_size);
			if (lua_emit(w, MS_LUA_SEGMENT, 0, MS_SEGMENT_NO_STATE))
				return ms_stop(w, MS_END_DEPTH);
			return ms_return_to(w, rule, sp + layout->cframe_size);
		}
		entry = LUA_ON_TRACE;
	}
	/*
	 * Code of the VM whose C frame is where it must be runs no trace, though
	 * jit_base may be set already (BC_JLOOP), or still (lj_vm_exit_interp): there
	 * BASE is right.
	 */
	if (state.l != w->lua.l &&
	    !((entry == LUA_IN_HANDLER || entry == LUA_IN_SUBROUTINE) &&
	      lua_is_base(&state, lua_base_register(w, layout))) &&
	    lua_read_jit_base(w, &state))
		return ms_stop(w, MS_END_UNREADABLE);
	return lua_begin(w, &state, entry);
}

/*
 * Where the trace that runs called what could not be walked, or 0. Compiled code keeps
 * its stack pointer, `spadjust` below where it was entered (lj_asm_x86.h,
 * asm_stack_adjust, asm_tail_fixup), so the return address of any call lies right below.
 */
static __always_inline __u64 lua_trace_call(struct walk *w, const struct lua_state *state)
{
	const struct ms_lua_layout *layout = ms_lua_layout(state->layout);
	const __u8 *at = (const __u8 *)w->window;
	int is_gc32 = lua_is_gc32(layout);
	__u64 traces, trace, mcode, place, pc;
	__u32 szmcode;
	__s32 number;

	if (!layout->trace || ms_read_user(w, &number, 4, state->g + layout->vmstate) || number <= 0 ||
	    ms_read_user(w, &traces, 8, state->g + layout->trace) ||
	    lua_read_ref(w, layout, traces + (__u64)number * (is_gc32 ? 4 : 8), &trace) || !trace ||
	    ms_read_user(w, w->window, LUA_TRACE_BYTES, trace + (is_gc32 ? LUA_TRACE_AT_32 : LUA_TRACE_AT_64)))
		return 0;
	szmcode = *(const __u32 *)at;
	mcode = *(const __u32 *)(at + 4) | (__u64)*(const __u32 *)(at + 8) << 32;
	if (*(const __u16 *)(at + 20) != number)
		return 0;
	place = state->cframe - LUA_TRACE_ENTRY - *(const __u16 *)(at + 18) - 8;
	if (place < w->reg[MS_REG_RSP] || ms_read_user(w, &pc, 8, place) || pc <= mcode || pc - mcode > szmcode)
		return 0;
	return pc;
}

/*
 * A VM of this process that is entered on this stack, above the stack pointer:
 * the innermost one.
 */
static __always_inline int lua_find_live(struct walk *w, struct lua_state *found)
{
	const struct ms_lua_process *process = ms_lua_process(w);
	struct lua_state state;
	int result = -1;

	if (!process)
		return -1;
	for (__u32 i = 0; i < MS_LUA_VMS && i < process->count; i++) {
		__u64 number = process->vm[i].layout;
		const struct ms_lua_layout *layout = ms_lua_layout(number);
		__u64 g = process->vm[i].g ? process->vm[i].g : lua_g_by_register(w, layout);

		if (layout->state == MS_LUA_NO_LAYOUT || lua_state_of(w, number, g, LUA_GAP_STACK, &state))
			continue;
		if (!result && state.cframe >= found->cframe)
			continue;
		*found = state;
		result = 0;
	}
	return result ? result : lua_read_jit_base(w, found);
}

#endif /* MOONSCOPE_LUA_H */
