/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where the innermost Lua frame of a VM is, by the registers of the thread that runs it
 * and by links between frames (vm_x64.dasc, vm_x86.dasc, lj_frame.h).
 */
#ifndef MOONSCOPE_LUA_BASE_H
#define MOONSCOPE_LUA_BASE_H

#include "lua_read.h"

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

/* Is this the link of a frame at `base` that C calls, or called, from the frame at L->base? */
static __always_inline int lua_is_from_c(const struct lua_state *state, __u64 base, __u64 link)
{
	return (link & LUA_FRAME_TYPE) == LUA_FRAME_C && base - (link & ~(__u64)LUA_FRAME_TYPEP) == state->base;
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
	/* vm_call_dispatch_f: it is to get the link that is in PC */
	if (found && in_vm && slots.link != pc && lua_is_from_c(state, base, pc))
		return -1;
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
	/*
	 * lj_vm_return, and the end of lj_vm_call: C has called this frame, and PC is its link, or parts
	 * of it. Who left a trace in it has its base in lua_State.
	 */
	if (in_vm && (slots.link & LUA_FRAME_TYPE) == LUA_FRAME_C &&
	    (base == state->base || lua_is_from_c(state, base, slots.link))) {
		w->lua.base = base;
		w->lua.pc = 0;
		return 0;
	}
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
ms_outlined void lua_find_base(struct walk *w, const struct lua_state *state, int in_vm,
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

#endif /* MOONSCOPE_LUA_BASE_H */
