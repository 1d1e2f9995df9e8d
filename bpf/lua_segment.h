/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The Lua frames between one entry into a VM and the one before: where they begin, and
 * how the native walk goes on behind them.
 */
#ifndef MOONSCOPE_LUA_SEGMENT_H
#define MOONSCOPE_LUA_SEGMENT_H

#include "lua_base.h"

#define LUA_WORD(kind, address)							\
	(MS_FRAME_LUA | ((__u64)(kind) << MS_FRAME_LUA_KIND_SHIFT) |		\
	 ((address) & MS_FRAME_ADDR_MASK))

static __always_inline int lua_emit(struct walk *w, __u32 kind, __u64 address, __u64 more)
{
	return ms_emit(w, LUA_WORD(kind, address)) || ms_emit(w, more);
}

/* Goes on natively at the caller of the VM. */
ms_outlined int lua_leave(struct walk *w)
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
ms_outlined int lua_begin(struct walk *w, struct lua_state *state, enum lua_entry entry)
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
		 * vm_x64.dasc, vm_call to vm_call_dispatch), or its link: nothing of it is there yet.
		 */
		if (in_vm && w->exact && ((w->reg[MS_REG_RBX] & ~4ULL) == LUA_FRAME_C ||
					  lua_is_from_c(state, lua_base_register(w, layout),
							w->reg[MS_REG_RBX])))
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

#endif /* MOONSCOPE_LUA_SEGMENT_H */
