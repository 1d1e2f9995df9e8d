/* A program that embeds LuaJIT, as nginx and others do.
 *
 *   host [-joff] SCRIPT [SECONDS]            one VM in the first thread
 *   host [-joff] -t N SCRIPT [SECONDS]       N threads with a VM each: threads "vm-1", "vm-2", ...; host.vm is the number
 *   host [-joff] -v N SCRIPT [SECONDS]       N VMs in the first thread, which take turns: SCRIPT defines turn(deadline)
 *                                                and finish()
 *
 * Output and end are those of tests/programs/common.h. What scripts get as `host`: calls.c, work.c, mark.c, vms.c.
 * True stack, native part:  main; run_script | run_in_turn | <thread start>; run_thread;  lua_pcall; <the VM>; ...
 */
#include "host.h"

#include <errno.h>
#include <pthread.h>

static const char *script, *seconds = "10";
static int jit_on = 1, nr_threads, nr_turns;
static pthread_barrier_t all_ready;
static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;

void die(const char *what)
{
	fprintf(stderr, "host: %s\n", what ? what : "not enough memory");
	exit(1);
}

/* host.ready(): says `ready` when every thread is. */
EXPORTED int host_ready(lua_State *L)
{
	(void)L;
	if (!nr_threads || pthread_barrier_wait(&all_ready) == PTHREAD_BARRIER_SERIAL_THREAD) {
		puts("ready");
		fflush(stdout);
	}
	return 0;
}

/* host.say(TEXT): whole lines, whatever other threads say. */
EXPORTED int host_say(lua_State *L)
{
	pthread_mutex_lock(&output);
	fputs(luaL_checkstring(L, 1), stdout);
	fflush(stdout);
	pthread_mutex_unlock(&output);
	return 0;
}

static const struct host_function main_functions[] = {
	{ "ready", host_ready }, { "say", host_say }, { NULL, NULL },
};

static void add(lua_State *L, const struct host_function *list)
{
	for (; list->name; list++) {
		lua_pushcfunction(L, list->function);
		lua_setfield(L, -2, list->name);
	}
}

lua_State *new_vm(int number, int jit)
{
	lua_State *L = luaL_newstate();

	if (!L)
		die("no VM");
	luaL_openlibs(L);
	lua_newtable(L);
	add(L, main_functions);
	add(L, call_functions);
	add(L, work_functions);
	add(L, mark_functions);
	add(L, vm_functions);
	lua_pushinteger(L, number);
	lua_setfield(L, -2, "vm");
	lua_setglobal(L, "host");
	if (!jit && luaL_dostring(L, "jit.off()"))
		die(lua_tostring(L, -1));
	return L;
}

void load_script(lua_State *L, const char *path, const char *arg)
{
	lua_newtable(L);
	lua_pushstring(L, path);
	lua_rawseti(L, -2, 0);
	lua_pushstring(L, arg);
	lua_rawseti(L, -2, 1);
	lua_setglobal(L, "arg");
	if (luaL_loadfile(L, path))
		die(lua_tostring(L, -1));
}

KEEP void run_script(lua_State *L)
{
	if (lua_pcall(L, 0, 0, 0))
		die(lua_tostring(L, -1));
	NO_TAIL_CALL();
}

KEEP void *run_thread(void *arg)
{
	int number = (int)(long)arg;
	char name[16];
	lua_State *L;

	snprintf(name, sizeof(name), "vm-%d", number);
	pthread_setname_np(pthread_self(), name);
	L = new_vm(number, jit_on);
	load_script(L, script, seconds);
	run_script(L);
	lua_close(L);
	return NULL;
}

/* VM k of N gets k of 1 + 2 + ... + N parts of the time. */
KEEP void run_in_turn(lua_State **vms, uint64_t *used)
{
	uint64_t begin = thread_ns(), length = round_ns(), at = begin, now;
	int parts = nr_turns * (nr_turns + 1) / 2, part = 0;

	for (int i = 0; i < nr_turns; i++) {
		part += i + 1;
		lua_getglobal(vms[i], "turn");
		lua_pushnumber(vms[i], (double)(begin + length * part / parts) / NS_PER_S);
		if (lua_pcall(vms[i], 1, 0, 0))
			die(lua_tostring(vms[i], -1));
		now = thread_ns();
		used[i] += now - at;
		at = now;
	}
}

#define MAX_VMS 64

static void take_turns(void)
{
	lua_State *vms[MAX_VMS];
	uint64_t used[MAX_VMS] = { 0 }, total = 0;
	struct run run;
	char name[16];

	for (int i = 0; i < nr_turns; i++) {
		vms[i] = new_vm(i + 1, jit_on);
		load_script(vms[i], script, seconds);
		run_script(vms[i]);
	}
	run.wall_end = wall_ns() + (uint64_t)(atof(seconds) * NS_PER_S);
	run.cpu_start = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	host_ready(NULL);
	while (running(&run))
		run_in_turn(vms, used);
	for (int i = 0; i < nr_turns; i++)
		total += used[i];
	for (int i = 0; i < nr_turns; i++) {
		snprintf(name, sizeof(name), "turn_%d", i + 1);
		truth(name, used[i], total);
		lua_getglobal(vms[i], "finish");
		if (lua_pcall(vms[i], 0, 0, 0))
			die(lua_tostring(vms[i], -1));
		lua_close(vms[i]);
	}
	finish(&run);
}

static void start_threads(void)
{
	pthread_t ids[MAX_VMS];

	pthread_barrier_init(&all_ready, NULL, (unsigned)nr_threads);
	for (long i = 0; i < nr_threads; i++)
		if (pthread_create(&ids[i], NULL, run_thread, (void *)(i + 1)))
			die("cannot start a thread");
	for (int i = 0; i < nr_threads; i++)
		pthread_join(ids[i], NULL);
}

static int number(const char *text)
{
	int n = atoi(text);

	if (n < 1 || n > MAX_VMS)
		die("-t and -v take 1 to 64");
	return n;
}

int main(int argc, char **argv)
{
	lua_State *L;
	int c;

	while ((c = getopt(argc, argv, "+j:t:v:")) != -1) {
		switch (c) {
		case 'j': jit_on = strcmp(optarg, "off") != 0; break;
		case 't': nr_threads = number(optarg); break;
		case 'v': nr_turns = number(optarg); break;
		default: return 2;
		}
	}
	if (optind >= argc) {
		fputs("usage: host [-joff] [-t N | -v N] SCRIPT [SECONDS]\n", stderr);
		return 2;
	}
	script = argv[optind];
	if (optind + 1 < argc)
		seconds = argv[optind + 1];
	die_with_parent();

	if (nr_threads) {
		start_threads();
	} else if (nr_turns) {
		take_turns();
	} else {
		L = new_vm(1, jit_on);
		load_script(L, script, seconds);
		run_script(L);
		lua_close(L);
	}
	return 0;
}
