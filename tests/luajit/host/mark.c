/* The stack as the process itself knows it, at one place: Lua's from the VM, the native one from the C library.
 *
 *   mark NAME lua FRAME;FRAME;...        root to leaf; a frame is FILE:DEFINED:CURRENT, [c]SYMBOL or [b]
 *   mark NAME native FRAME;FRAME;...     root to leaf; symbols, or ? where the dynamic symbol tables have none
 *
 * What is between two native frames of the VM is what the Lua frames stand for.
 */
#include "host.h"

#include <dlfcn.h>
#include <execinfo.h>

#define MAX_DEPTH 1024

static const char *symbol_of(const void *address)
{
	Dl_info info;

	return dladdr(address, &info) && info.dli_sname ? info.dli_sname : "?";
}

static const char *file_of(const lua_Debug *frame)
{
	const char *path = frame->source + (*frame->source == '@' || *frame->source == '=');
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* host.symbol(address): the name of a function, or ? */
EXPORTED int host_symbol(lua_State *L)
{
	lua_pushstring(L, symbol_of((const void *)(uintptr_t)luaL_checknumber(L, 1)));
	return 1;
}

static void print_lua(lua_State *L, const char *name)
{
	lua_Debug frame;
	int depth = 0;

	while (lua_getstack(L, depth, &frame))
		depth++;
	printf("mark %s lua", name);
	/* level 0 is host.mark itself */
	for (int i = depth - 1; i >= 0; i--) {
		lua_getstack(L, i, &frame);
		lua_getinfo(L, "Slf", &frame);
		putchar(i == depth - 1 ? ' ' : ';');
		if (*frame.what != 'C')
			printf("%s:%d:%d", file_of(&frame), frame.linedefined, frame.currentline);
		else if (lua_tocfunction(L, -1))
			printf("[c]%s", symbol_of((const void *)(uintptr_t)lua_tocfunction(L, -1)));
		else
			printf("[b]");
		lua_pop(L, 1);
	}
	putchar('\n');
}

/* host.mark(NAME): prints both, the first time it is called with this name */
EXPORTED int host_mark(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);
	void *native[MAX_DEPTH];
	int depth;

	lua_pushfstring(L, "mark:%s", name);
	lua_pushvalue(L, -1);
	lua_rawget(L, LUA_REGISTRYINDEX);
	if (!lua_isnil(L, -1))
		return 0;
	lua_pop(L, 1);
	lua_pushboolean(L, 1);
	lua_rawset(L, LUA_REGISTRYINDEX);

	print_lua(L, name);
	depth = backtrace(native, MAX_DEPTH);
	printf("mark %s native", name);
	for (int i = depth - 1; i >= 0; i--)
		/* a return address may be behind the end of its function */
		printf("%c%s", i == depth - 1 ? ' ' : ';', symbol_of((char *)native[i] - (i > 0)));
	putchar('\n');
	fflush(stdout);
	return 0;
}

const struct host_function mark_functions[] = {
	{ "mark", host_mark }, { "symbol", host_symbol }, { NULL, NULL },
};
