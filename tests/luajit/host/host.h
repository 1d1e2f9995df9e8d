/* What the files of the host share. */
#ifndef HOST_H
#define HOST_H

#include "common.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

/* A function that Lua or its FFI calls: found by its name in stripped files too (-Wl,-E). */
#define EXPORTED __attribute__((visibility("default"))) KEEP

/* Functions that Lua gets as `host.NAME`; the symbol is host_NAME. Each file has a list of them. */
struct host_function {
	const char *name;
	lua_CFunction function;
};

extern const struct host_function call_functions[], work_functions[], mark_functions[], vm_functions[];

/* A new VM with the standard libraries and `host`. `number` is host.vm; `jit` 0 turns the compiler off. */
lua_State *new_vm(int number, int jit);
/* Loads SCRIPT and sets `arg` as the luajit program does. Ends the process when it cannot. */
void load_script(lua_State *L, const char *script, const char *seconds);
/* Ends the process with what is wrong. */
void die(const char *what) __attribute__((noreturn));

/* CPU time of the thread, in seconds, as `host.clock` gives it and deadlines are given in. */
static inline uint64_t deadline_ns(lua_State *L, int arg)
{
	return (uint64_t)(luaL_checknumber(L, arg) * NS_PER_S);
}

#endif
