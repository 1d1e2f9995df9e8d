/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How the native walk finds a VM: by the unwind rule of its own code, or where compiled
 * code and gaps without unwind information lie in between.
 */
#ifndef MOONSCOPE_LUA_VM_H
#define MOONSCOPE_LUA_VM_H

#include "lua_segment.h"

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
	struct lua_state *state = &w->other;
	struct lua_slots slots;
	__u64 cont;

	if (w->exact || lua_state_at(w, number, w->reg[MS_REG_RSP], state) ||
	    lua_read_slots(w, layout, state->base, &slots) ||
	    (slots.link & LUA_FRAME_TYPEP) != LUA_FRAME_CONT ||
	    ms_read_user(w, &cont, 8, state->base - (is_gc32 ? 16 : 32)))
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
	struct lua_state *state = &w->other;

	if (w->exact || lua_read_ref(w, layout, sp + layout->cf_l, &l) || lua_read_state(w, number, l, state) ||
	    lua_read_cframe(w, sp + layout->cf_prev, &prev))
		return 0;
	return (!state->cframe || state->cframe > sp) && (!prev || prev > sp);
}

/*
 * The native frame of the VM itself. Its C frame is where the stack pointer is,
 * or one word above in a helper, or above all that compiled code and its exit
 * left there.
 */
ms_outlined int lua_step_vm(struct walk *w, const struct ms_rule *rule)
{
	__u64 number = (__u16)rule->add;
	const struct ms_lua_layout *layout = ms_lua_layout(number);
	enum lua_entry entry = LUA_BY_RETURN;
	__u64 sp = w->reg[MS_REG_RSP];
	struct lua_state *state = &w->found;

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
	if (lua_state_at(w, number, sp, state) && lua_state_at(w, number, sp + 8, state)) {
		if (lua_state_below(w, number, state)) {
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
	if (state->l != w->lua.l &&
	    !((entry == LUA_IN_HANDLER || entry == LUA_IN_SUBROUTINE) &&
	      lua_is_base(state, lua_base_register(w, layout))) &&
	    lua_read_jit_base(w, state))
		return ms_stop(w, MS_END_UNREADABLE);
	return lua_begin(w, state, entry);
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
	struct lua_state *state = &w->other;
	int result = -1;

	if (!process)
		return -1;
	for (__u32 i = 0; i < MS_LUA_VMS && i < process->count; i++) {
		__u64 number = process->vm[i].layout;
		const struct ms_lua_layout *layout = ms_lua_layout(number);
		__u64 g = process->vm[i].g ? process->vm[i].g : lua_g_by_register(w, layout);

		if (layout->state == MS_LUA_NO_LAYOUT || lua_state_of(w, number, g, LUA_GAP_STACK, state))
			continue;
		if (!result && state->cframe >= found->cframe)
			continue;
		*found = *state;
		result = 0;
	}
	return result ? result : lua_read_jit_base(w, found);
}

#endif /* MOONSCOPE_LUA_VM_H */
