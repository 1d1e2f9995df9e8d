/* Runs a Lua program in each of several VMs of a LuaJIT library.
 *
 *     host LIBRARY REFERENCE_SIZE SCRIPT VMS
 *
 * Prints the address of each VM's global_State, as its main lua_State names it, then `ready`. With references of 8 bytes
 * there was one more VM, which was closed, and whose memory is as that left it. Reads its standard input: a line runs the
 * script in the first VM, after a SIGSTOP to itself; the end ends it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

typedef struct lua_State lua_State;

static void *lib;

static void *sym(const char *name)
{
	void *addr = dlsym(lib, name);
	if (!addr)
		abort();
	return addr;
}

/* An allocator that gives nothing back. */
static void *keep(void *data, void *old, size_t old_size, size_t size)
{
	void *new = size ? malloc(size) : NULL;

	(void)data;
	for (size_t i = 0; new && old && i < old_size && i < size; i++)
		((char *)new)[i] = ((char *)old)[i];
	return new;
}

int main(int argc, char **argv)
{
	char line[16];
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	lib = argc == 5 ? dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) : NULL;
	if (!lib) {
		fprintf(stderr, "%s\n", dlerror());
		return 2;
	}
	lua_State *(*newstate)(void) = sym("luaL_newstate");
	void (*openlibs)(lua_State *) = sym("luaL_openlibs");
	int (*loadfile)(lua_State *, const char *) = sym("luaL_loadfile");
	int (*pcall)(lua_State *, int, int, int) = sym("lua_pcall");
	const char *(*tolstring)(lua_State *, int, size_t *) = sym("lua_tolstring");
	lua_State *first = NULL;
	for (int i = atoi(argv[4]); i > 0; i--) {
		lua_State *L = newstate();
		openlibs(L);
		if (loadfile(L, argv[3])) {
			fprintf(stderr, "%s\n", tolstring(L, -1, NULL));
			return 3;
		}
		/* lua_State.glref (lj_obj.h) */
		uint64_t g = atoi(argv[2]) == 8 ? *(uint64_t *)((char *)L + 16) : *(uint32_t *)((char *)L + 8);
		printf("%llx\n", (unsigned long long)g);
		first = L;
	}
	if (atoi(argv[2]) == 8) {
		lua_State *(*newstate_of)(void *(*)(void *, void *, size_t, size_t), void *) = sym("lua_newstate");
		void (*close)(lua_State *) = sym("lua_close");
		lua_State *closed = newstate_of(keep, NULL);

		if (!closed)
			return 5;
		close(closed);
	}
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		raise(SIGSTOP);
		if (pcall(first, 0, 0, 0)) {
			fprintf(stderr, "%s\n", tolstring(first, -1, NULL));
			return 4;
		}
		raise(SIGSTOP);
	}
	return 0;
}
