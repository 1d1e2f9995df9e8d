// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* One BPF object: one walker, one set of maps, one file per collector. */
#include "lifecycle.bpf.h"
#include "alloc.bpf.h"
#include "block.bpf.h"
#include "counter.bpf.h"
#include "cpu.bpf.h"
#include "io.bpf.h"
#include "io_uring.bpf.h"
#include "lua_alloc.bpf.h"
#include "lua_loop.bpf.h"
#include "lua_wait.bpf.h"
#include "memory.bpf.h"
#include "offcpu.bpf.h"
#include "probe.bpf.h"
#include "readahead.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
