/* C functions that call back into Lua, in every way that the C API has. */
#include "host.h"

#define MAX_ARGS 8

/* host.call(f, ...): lua_call */
EXPORTED int host_call(lua_State *L)
{
	lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
	return lua_gettop(L);
}

/* host.pcall(f, ...): lua_pcall; an error goes on upwards */
EXPORTED int host_pcall(lua_State *L)
{
	if (lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0))
		return lua_error(L);
	return lua_gettop(L);
}

struct cpcall {
	int refs[MAX_ARGS];
	int count;
};

/* What lua_cpcall runs: a C function with a frame of its own on the Lua stack. */
EXPORTED int host_cpcall_body(lua_State *L)
{
	const struct cpcall *call = lua_touserdata(L, 1);

	for (int i = 0; i < call->count; i++)
		lua_rawgeti(L, LUA_REGISTRYINDEX, call->refs[i]);
	lua_call(L, call->count - 1, 0);
	return 0;
}

/* host.cpcall(f, ...): lua_cpcall, and f from there; no results */
EXPORTED int host_cpcall(lua_State *L)
{
	struct cpcall call = { .count = lua_gettop(L) };
	int status;

	luaL_argcheck(L, call.count >= 1 && call.count <= MAX_ARGS, 1, "too many arguments");
	for (int i = call.count - 1; i >= 0; i--)
		call.refs[i] = luaL_ref(L, LUA_REGISTRYINDEX);
	status = lua_cpcall(L, host_cpcall_body, &call);
	for (int i = 0; i < call.count; i++)
		luaL_unref(L, LUA_REGISTRYINDEX, call.refs[i]);
	return status ? lua_error(L) : 0;
}

/* Runs f, which is at index `first`, with what is above it in a coroutine of its own until that ends. */
static inline __attribute__((always_inline)) void in_coroutine(lua_State *L, int first)
{
	int count = lua_gettop(L) - first;
	lua_State *co = lua_newthread(L);

	lua_insert(L, first);	/* below f: it must not be collected */
	lua_xmove(L, co, count + 1);
	if (lua_resume(co, count)) {
		lua_xmove(co, L, 1);
		lua_error(L);
	}
}

/* host.resume(f, ...): lua_resume of a new coroutine; no results */
EXPORTED int host_resume(lua_State *L)
{
	in_coroutine(L, 1);
	return 0;
}

/* host.resume_and_work(deadline, f, ...): the same, and then works here. The VM still takes the ended coroutine for the
 * current one (global_State.cur_L), because nothing has entered or left it since.
 */
EXPORTED int host_resume_and_work(lua_State *L)
{
	uint64_t end = deadline_ns(L, 1);

	in_coroutine(L, 2);
	work_until(end);
	return 0;
}

static __thread int waits_in_c;

/* host.wait(SECONDS): lua_yield, for host.schedule */
EXPORTED int host_wait(lua_State *L)
{
	waits_in_c = 1;
	lua_settop(L, 1);
	return lua_yield(L, 1);
}

/* host.schedule(f, ...): runs f in a coroutine that waits for so many seconds as it yields, by host.wait or by
 * coroutine.yield. Returns how long it waited by either, by the clock.
 */
EXPORTED int host_schedule(lua_State *L)
{
	int count = lua_gettop(L) - 1, status;
	lua_State *co = lua_newthread(L);
	uint64_t waited[2] = { 0, 0 };

	lua_insert(L, 1);
	lua_xmove(L, co, count + 1);
	while ((status = lua_resume(co, count)) == LUA_YIELD) {
		double seconds = lua_tonumber(co, -1);
		struct timespec time = { (time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9) };
		uint64_t start = wall_ns();

		nanosleep(&time, NULL);
		waited[waits_in_c] += wall_ns() - start;
		waits_in_c = 0;
		lua_settop(co, 0);
		count = 0;
	}
	if (status) {
		lua_xmove(co, L, 1);
		lua_error(L);
	}
	lua_pushnumber(L, (double)waited[1] / 1e9);
	lua_pushnumber(L, (double)waited[0] / 1e9);
	return 2;
}

static __thread lua_State *sorting;

/* host.qsort's comparison: C that the C library calls and that calls Lua */
EXPORTED int host_qsort_compare(const void *a, const void *b)
{
	lua_State *L = sorting;
	int order;

	lua_pushvalue(L, 2);
	lua_pushinteger(L, *(const int *)a);
	lua_pushinteger(L, *(const int *)b);
	lua_call(L, 2, 1);
	order = (int)lua_tointeger(L, -1);
	lua_pop(L, 1);
	sorting = L;
	return order;
}

#define MAX_SORTED 4096

/* host.qsort(n, compare): sorts n numbers in a known disorder; compare(a, b) returns below 0, 0 or above 0 */
EXPORTED int host_qsort(lua_State *L)
{
	int values[MAX_SORTED];
	int n = (int)luaL_checkinteger(L, 1);
	unsigned state = 1;

	luaL_argcheck(L, n >= 1 && n <= MAX_SORTED, 1, "not a count");
	lua_settop(L, 2);
	for (int i = 0; i < n; i++) {
		state = state * 1103515245u + 12345u;
		values[i] = (int)(state >> 8 & 0xffff);
	}
	sorting = L;
	qsort(values, (size_t)n, sizeof(values[0]), host_qsort_compare);
	return 0;
}

const struct host_function call_functions[] = {
	{ "call", host_call }, { "pcall", host_pcall }, { "cpcall", host_cpcall }, { "resume", host_resume },
	{ "resume_and_work", host_resume_and_work }, { "qsort", host_qsort },
	{ "wait", host_wait }, { "schedule", host_schedule }, { NULL, NULL },
};
