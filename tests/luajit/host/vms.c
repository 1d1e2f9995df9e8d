/* A VM inside a VM: Lua calls C, and C calls Lua of another VM on the same native stack. VMs that come and go. */
#include "host.h"

#include <sys/mman.h>

static const char inner_key[] = "host.inner";

/* host.inner(SCRIPT, jit): loads SCRIPT into a VM of its own, which host.nested then uses */
EXPORTED int host_inner(lua_State *L)
{
	lua_State *inner = new_vm(2, lua_toboolean(L, 2));

	load_script(inner, luaL_checkstring(L, 1), "0");
	if (lua_pcall(inner, 0, 0, 0))
		die(lua_tostring(inner, -1));
	lua_pushlightuserdata(L, inner);
	lua_setfield(L, LUA_REGISTRYINDEX, inner_key);
	return 0;
}

/* host.nested(NAME, deadline): calls the global function NAME of the inner VM */
EXPORTED int host_nested(lua_State *L)
{
	lua_State *inner;

	lua_getfield(L, LUA_REGISTRYINDEX, inner_key);
	inner = lua_touserdata(L, -1);
	luaL_argcheck(L, inner, 1, "no inner VM");
	lua_getglobal(inner, luaL_checkstring(L, 1));
	lua_pushnumber(inner, luaL_checknumber(L, 2));
	if (lua_pcall(inner, 1, 0, 0))
		die(lua_tostring(inner, -1));
	return 0;
}

#define HOLE_BYTES 65536

/* host.close_inner(): closes the inner VM. The next one does not fit into where it was: something small is there. */
EXPORTED int host_close_inner(lua_State *L)
{
	lua_State *inner;

	lua_getfield(L, LUA_REGISTRYINDEX, inner_key);
	inner = lua_touserdata(L, -1);
	luaL_argcheck(L, inner, 1, "no inner VM");
	lua_pushnil(L);
	lua_setfield(L, LUA_REGISTRYINDEX, inner_key);
	lua_close(inner);
	mmap(inner, HOLE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return 0;
}

const struct host_function vm_functions[] = {
	{ "inner", host_inner }, { "nested", host_nested }, { "close_inner", host_close_inner }, { NULL, NULL },
};
