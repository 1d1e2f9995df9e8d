/* Opens a library, works in it, closes it, and opens another at the same place.
 *
 *   dlopen SECONDS [MILLISECONDS]
 *
 * The libraries libalpha.so and libbeta.so lie beside the program. Each turn gives 100 ms of CPU time to each, or as many
 * as it is told. The thread is called `alpha` or `beta` while it is in one of them.
 * True stacks:  main; use_library; alpha_outer; alpha_inner   and   main; use_library; beta_outer; beta_inner.
 * The line `same-place YES TURNS` at the end says how often both had the same address: a profiler that keeps the
 * old mapping gives alpha's time to beta.
 */
#include "common.h"

#include <dlfcn.h>

static char dir[4096];
static uint64_t turn = 100000000;

KEEP uint64_t use_library(const char *name, void **address, uint64_t *used)
{
	char path[4200], symbol[64];
	uint64_t begin = thread_ns();
	void (*outer)(uint64_t);
	void *lib;

	snprintf(path, sizeof(path), "%s/lib%s.so", dir, name);
	snprintf(symbol, sizeof(symbol), "%s_outer", name);
	lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!lib) {
		fprintf(stderr, "dlopen: %s\n", dlerror());
		exit(1);
	}
	*(void **)&outer = dlsym(lib, symbol);
	*address = (void *)outer;
	prctl(PR_SET_NAME, name);
	outer(turn);
	prctl(PR_SET_NAME, "dlopen");
	dlclose(lib);
	*used += thread_ns() - begin;
	return *used;
}

int main(int argc, char **argv)
{
	uint64_t alpha_used = 0, beta_used = 0;
	void *alpha = NULL, *beta = NULL;
	int turns = 0, same = 0;
	struct run run;
	ssize_t n;

	n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);
	if (n < 0)
		return 1;
	*strrchr(dir, '/') = '\0';
	if (argc > 2)
		turn = (uint64_t)(atof(argv[2]) * 1e6);
	run = start(argc, argv);
	while (running(&run)) {
		use_library("alpha", &alpha, &alpha_used);
		use_library("beta", &beta, &beta_used);
		turns++;
		same += (uintptr_t)alpha >> 12 == (uintptr_t)beta >> 12;
	}
	printf("same-place %d %d\n", same, turns);
	truth("alpha_outer", alpha_used, alpha_used + beta_used);
	truth("beta_outer", beta_used, alpha_used + beta_used);
	return finish(&run);
}
