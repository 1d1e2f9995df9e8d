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
 *   ms_wants_coroutine_only(w)  is what resumed a coroutine, from C, to be left out?
 */
#ifndef MOONSCOPE_LUA_H
#define MOONSCOPE_LUA_H

#include "lua_read.h"
#include "lua_base.h"
#include "lua_segment.h"
#include "lua_parents.h"
#include "lua_frame.h"
#include "lua_vm.h"

#endif /* MOONSCOPE_LUA_H */
