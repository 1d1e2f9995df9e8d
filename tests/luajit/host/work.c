/* C functions that use time: CPU time, time in the kernel, time in code that nothing describes. */
#include "host.h"

#include <poll.h>
#include <sys/mman.h>

/* host.clock(): CPU time of this thread in seconds */
EXPORTED int host_clock(lua_State *L)
{
	lua_pushnumber(L, (double)thread_ns() / NS_PER_S);
	return 1;
}

/* host.burn(deadline): works in C until then */
EXPORTED int host_burn(lua_State *L)
{
	work_until(deadline_ns(L, 1));
	return 0;
}

/* host.nameless(deadline): like host.burn, without a symbol that could be exported */
static int nameless(lua_State *L)
{
	work_until(deadline_ns(L, 1));
	return 0;
}

/* host.burner(n): a function with the code of host.nameless; several are told apart by their upvalue */
EXPORTED int host_burner(lua_State *L)
{
	lua_pushinteger(L, luaL_checkinteger(L, 1));
	lua_pushcclosure(L, nameless, 1);
	return 1;
}

/* host.sleep(seconds): blocks in the kernel */
EXPORTED int host_sleep(lua_State *L)
{
	double seconds = luaL_checknumber(L, 1);
	struct timespec pause = { (time_t)seconds, (long)((seconds - (double)(time_t)seconds) * NS_PER_S) };

	nanosleep(&pause, NULL);
	return 0;
}

/* host.poll(milliseconds): blocks in another system call */
EXPORTED int host_poll(lua_State *L)
{
	poll(NULL, 0, (int)luaL_checkinteger(L, 1));
	return 0;
}

/* host.syscalls(deadline): spends it in and out of the kernel */
EXPORTED int host_syscalls(lua_State *L)
{
	uint64_t end = deadline_ns(L, 1);

	do {
		for (int i = 0; i < 100; i++)
			getppid();
	} while (thread_ns() < end);
	return 0;
}

#define FAULT_PAGES 64

/* host.faults(deadline): spends it in page faults that its own code causes */
EXPORTED int host_faults(lua_State *L)
{
	uint64_t end = deadline_ns(L, 1);
	long page = sysconf(_SC_PAGESIZE);
	size_t size = (size_t)(page * FAULT_PAGES);
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return luaL_error(L, "no memory");
	do {
		for (long i = 0; i < FAULT_PAGES; i++)
			((volatile char *)memory)[i * page] = 1;
		madvise(memory, size, MADV_DONTNEED);
	} while (thread_ns() < end);
	munmap(memory, size);
	return 0;
}

/* Code as PCRE's and other compilers make it: in an anonymous mapping that is writable and executable, without unwind
 * information, with the frame pointer used for something else. Counts down its argument.
 */
#if defined(__x86_64__)
static const unsigned char undescribed[] = {
	0x55,						/* push rbp */
	0x53,						/* push rbx */
	0x48, 0x83, 0xec, 0x68,				/* sub rsp, 0x68 */
	0x48, 0xbd, 1, 2, 3, 4, 5, 6, 7, 8,		/* mov rbp, 0x0807060504030201 */
	0x89, 0xfb,					/* mov ebx, edi */
	0x48, 0x0f, 0xaf, 0xed,				/* 1: imul rbp, rbp */
	0x48, 0x83, 0xf5, 0x55,				/* xor rbp, 0x55 */
	0xff, 0xcb,					/* dec ebx */
	0x75, 0xf4,					/* jnz 1b */
	0x48, 0x83, 0xc4, 0x68,				/* add rsp, 0x68 */
	0x5b,						/* pop rbx */
	0x5d,						/* pop rbp */
	0xc3,						/* ret */
};
#elif defined(__aarch64__)
static const uint32_t undescribed[] = {
	0xa9bf7bfd,	/* stp x29, x30, [sp, #-16]! */
	0xd2824e9d,	/* mov x29, #0x1274 */
	0x9b1d7fbd,	/* 1: mul x29, x29, x29 */
	0xd24003bd,	/* eor x29, x29, #1 */
	0x71000400,	/* subs w0, w0, #1 */
	0x54ffffa1,	/* b.ne 1b */
	0xa8c17bfd,	/* ldp x29, x30, [sp], #16 */
	0xd65f03c0,	/* ret */
};
#endif

typedef void (*counts_down)(unsigned);

static counts_down undescribed_code(void)
{
	static __thread counts_down code;
	void *page;

	if (code)
		return code;
	page = mmap(NULL, sizeof(undescribed), PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		die("no executable memory");
	memcpy(page, undescribed, sizeof(undescribed));
	__builtin___clear_cache(page, (char *)page + sizeof(undescribed));
	code = (counts_down)page;
	return code;
}

/* host.nocfi(deadline): works there */
EXPORTED int host_nocfi(lua_State *L)
{
	uint64_t end = deadline_ns(L, 1);
	counts_down code = undescribed_code();

	do
		code(10000);
	while (thread_ns() < end);
	return 0;
}

/* ---- for the FFI: no lua_State, no frame on the Lua stack ---- */

/* Work of a fixed size, about 10 microseconds. */
EXPORTED void ffi_burn(void)
{
	work();
}

/* The same in code that nothing describes. */
EXPORTED void ffi_nocfi(void)
{
	undescribed_code()(10000);
	NO_TAIL_CALL();
}

/* Calls back n times, with work of its own before each. */
EXPORTED double ffi_call_back(double (*callback)(double), double x, int n)
{
	for (int i = 0; i < n; i++) {
		work();
		x = callback(x);
	}
	return x;
}

/* host.burn_over(deadline, pointer, offset, value, size, add): works with `size` bytes of this VM's own memory overwritten,
 * and puts them back. They are at `offset` from the lua_State, or from where the word at `pointer` of it points if that is
 * not below 0. `value` is what is written there, or added to what is there. Nothing of LuaJIT runs meanwhile.
 */
EXPORTED int host_burn_over(lua_State *L)
{
	uint64_t end = deadline_ns(L, 1), old = 0, new;
	long pointer = (long)luaL_checknumber(L, 2), offset = (long)luaL_checknumber(L, 3);
	int64_t value = (int64_t)luaL_checknumber(L, 4);
	size_t size = (size_t)luaL_checkinteger(L, 5);
	char *place = (char *)L + offset;

	luaL_argcheck(L, size <= sizeof(old), 5, "too large");
	if (pointer >= 0) {
		uint64_t address = 0;

		/* as long as a pointer is: 4 bytes if references have 32 bits */
		memcpy(&address, (char *)L + pointer, (size_t)luaL_checkinteger(L, 7));
		place = (char *)address + offset;
	}
	memcpy(&old, place, size);
	new = (uint64_t)value + (lua_toboolean(L, 6) ? old : 0);
	memcpy(place, &new, size);
	work_until(end);
	memcpy(place, &old, size);
	return 0;
}

const struct host_function work_functions[] = {
	{ "clock", host_clock }, { "burn", host_burn }, { "burner", host_burner }, { "nameless", nameless },
	{ "sleep", host_sleep }, { "poll", host_poll },
	{ "syscalls", host_syscalls }, { "faults", host_faults }, { "nocfi", host_nocfi },
	{ "burn_over", host_burn_over }, { NULL, NULL },
};
