/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One Lua frame of a segment: its function, its position, and where the next one is. */
#ifndef MOONSCOPE_LUA_FRAME_H
#define MOONSCOPE_LUA_FRAME_H

#include "lua_parents.h"

/* All frames of this entry into the VM were walked. */
static __always_inline int lua_end_segment(struct walk *w)
{
	/* a coroutine that C resumed has no older frame of the VM (lj_vm_resume) */
	if (w->lua.base == w->lua.bottom && !w->lua.next_cframe) {
		if (ms_wants_parents())
			return lua_end_coroutine(w);
		if (ms_wants_coroutine_only(w))
			return ms_stop(w, MS_END_ROOT);
	}
	return lua_leave(w);
}

/* The walk of this Lua stack cannot go on; the native one can. */
ms_outlined int lua_break(struct walk *w, __u32 why)
{
	if (lua_emit(w, MS_LUA_BROKEN, w->lua.base, why))
		return ms_stop(w, MS_END_DEPTH);
	w->lua.base = 0;
	return lua_leave(w);
}

/* Sees to it that w->lua.chunkname_id is what can be told of this string. */
static __always_inline int lua_read_chunkname(struct walk *w, const struct ms_lua_layout *layout, __u64 chunkname)
{
	if (chunkname == w->lua.chunkname)
		return 0;
	w->lua.chunkname = 0;
	/* a freed name makes room for another one of its size */
	if (ms_read_user(w, w->lua.chunkname_id, sizeof(w->lua.chunkname_id),
			 chunkname + (lua_is_gc32(layout) ? LUA_STRING_ID_32 : LUA_STRING_ID_64)))
		return -1;
	w->lua.chunkname = chunkname;
	return 0;
}

/* MS_LUA_PRINT of a prototype; 0 if it cannot be read. */
static __always_inline __u32 lua_print(struct walk *w, const struct ms_lua_layout *layout, __u64 proto)
{
	__u64 chunkname;
	__u32 line[2];

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
	if (lua_read_chunkname(w, layout, chunkname))
		return 0;
	w->lua.print = MS_LUA_PRINT(chunkname, w->lua.chunkname_id, line[0], line[1]);
	ms_note_function(w, proto, w->lua.print);
	return w->lua.print;
}

/* Stores the function of a frame. */
static __always_inline int lua_emit_function(struct walk *w, const struct ms_lua_layout *layout,
					     const struct lua_function *function)
{
	__u64 first = function->pc;
	__u32 kind = MS_LUA_FUNCTION;
	__u64 at = MS_LUA_NO_PC;
	__s64 distance;

	if (function->ffid == LUA_FF_C)
		return lua_emit(w, MS_LUA_C_FUNCTION, function->c, function->object);
	if (function->ffid != LUA_FF_LUA)
		return lua_emit(w, MS_LUA_BUILTIN, function->object, function->ffid);
	if (w->lua.pc && (w->lua.pc - first) / 4 < MS_LUA_NO_PC)
		at = (w->lua.pc - first) / 4;
	first -= lua_is_gc32(layout) ? LUA_PROTO_BYTES_32 : LUA_PROTO_BYTES_64;
	/* whom compiled code calls, its upvalues tell */
	distance = (__s64)(function->object - first) >> 3;
	if (at == MS_LUA_NO_PC && distance == (__s32)distance) {
		kind = MS_LUA_CLOSURE;
		at = (__u32)distance;
	}
	return lua_emit(w, kind, first, at | (__u64)lua_print(w, layout, first) << MS_LUA_PRINT_SHIFT);
}

/* One Lua frame. */
ms_outlined int lua_step(struct walk *w)
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
	if (lua_read_next_slots(w, layout, base, &slots))
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
		/*
		 * lj_meta_tailcall: the function below is not called yet, and its link stands here.
		 * A link of 0 becomes one that leads nowhere either, without another branch to verify.
		 */
		if (dummy && !cont[0])
			replaced = caller_pc | ((caller_pc - 1) >> 61 & LUA_FRAME_P);
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

#endif /* MOONSCOPE_LUA_FRAME_H */
