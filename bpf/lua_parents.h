/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The logical parents of a coroutine of ngx_lua: who resumed it, or spawned it as
 * a thread.
 *
 * In a request ngx_lua's coroutine.resume and ngx.thread.spawn yield to its
 * scheduler, which resumes the other coroutine from C: on the native stack parent
 * and child are siblings. OpenResty's LuaJIT keeps a word for its user in each
 * lua_State, where ngx_lua puts what it knows of the coroutine
 * (ngx_http_lua_co_ctx_t, and the same in stream): the lua_State itself and, right
 * behind it, the context of the parent. Where they are in it is found, not known:
 * a context is believed if it names the coroutine that names it, and its parent
 * does the same.
 *
 * The thread stands still while its sample is taken, so what is read here is true
 * of that moment.
 *
 * Included by lua.h.
 */
#ifndef MOONSCOPE_LUA_PARENTS_H
#define MOONSCOPE_LUA_PARENTS_H

enum {
	/* lua_State.exdata2 (lj_obj.h, since October 2020); in other builds whatever
	 * is behind a lua_State */
	LUA_EXDATA2_64 = 0x68,
	LUA_EXDATA2_32 = 0x48,
	/* lua_State.status, and LUA_YIELD (lua.h): the coroutine waits */
	LUA_STATUS_64 = 0xb,
	LUA_STATUS_32 = 0x7,
	LUA_YIELD = 1,
	/* words of a context in which its coroutine is looked for: since 2012 it is the
	 * second one */
	LUA_CONTEXT_WORDS = 8,
};

/* The context of a coroutine; 0 if there is none. */
static __always_inline int lua_read_context(struct walk *w, const struct ms_lua_layout *layout,
					    __u64 l, __u64 *to)
{
	return ms_read_user(w, to, 8, l + (lua_is_gc32(layout) ? LUA_EXDATA2_32 : LUA_EXDATA2_64));
}

/* The parent of the coroutine that was walked; else why there is none. */
static __always_inline __u32 lua_find_parent(struct walk *w, struct lua_state *to)
{
	const struct ms_lua_layout *layout = ms_lua_layout(w->lua.layout);
	__u64 at = LUA_CONTEXT_WORDS, context, parent, l, other;
	__u8 status;

	if (lua_read_context(w, layout, w->lua.l, &context) || !context)
		return MS_PARENT_NONE;
	if ((context & 7) || !ms_is_user_address(context) ||
	    ms_read_user(w, w->window, 8 * LUA_CONTEXT_WORDS, context))
		return MS_PARENT_NO_CONTEXT;
	for (int i = LUA_CONTEXT_WORDS - 1; i >= 0; i--)
		if (w->window[i] == w->lua.l)
			at = i;
	if (at == LUA_CONTEXT_WORDS || ms_read_user(w, &parent, 8, context + 8 * at + 8))
		return MS_PARENT_NO_CONTEXT;
	if (!parent)
		return MS_PARENT_NONE;
	if ((parent & 7) || !ms_is_user_address(parent) || ms_read_user(w, &l, 8, parent + 8 * at) ||
	    lua_read_state(w, w->lua.layout, l, to) || to->g != w->lua.g)
		return MS_PARENT_UNPROVEN;
	status = ((const __u8 *)w->window)[lua_is_gc32(layout) ? LUA_STATUS_32 : LUA_STATUS_64];
	if (lua_read_context(w, layout, l, &other) || other != parent)
		return MS_PARENT_UNPROVEN;
	return status == LUA_YIELD && !to->cframe ? MS_PARENT_FOUND : MS_PARENT_RUNS;
}

/* The coroutine has no more frames: those of its parent follow, if it has one. */
static __always_inline int lua_end_coroutine(struct walk *w)
{
	struct lua_state *parent = &w->other;
	__u32 why = MS_PARENT_TOO_DEEP;

	if (w->lua.parents < MS_MAX_PARENTS)
		why = lua_find_parent(w, parent);
	w->lua.skip = 0;
	w->lua.replaced = 0;
	w->lua.pc = 0;
	if (why != MS_PARENT_FOUND) {
		if (lua_emit(w, MS_LUA_LAST_PARENT, w->lua.parents, why))
			return ms_stop(w, MS_END_DEPTH);
		w->lua.parents = 0;
		/* whatever is further out on the native stack is no frame of this one */
		w->lua.l = 0;
		w->lua.base = 0;
		if (ms_wants_coroutine_only(w))
			return ms_stop(w, MS_END_ROOT);
		return lua_leave(w);
	}
	w->lua.parents++;
	w->lua.l = parent->l;
	w->lua.base = parent->base;
	w->lua.bottom = parent->bottom;
	w->lua.maxstack = parent->maxstack;
	if (lua_emit(w, MS_LUA_SEGMENT, parent->l, (parent->g & MS_SEGMENT_G_MASK) | MS_SEGMENT_PARENT))
		return ms_stop(w, MS_END_DEPTH);
	return 0;
}

#endif /* MOONSCOPE_LUA_PARENTS_H */
