/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * All maps and all settings. The sizes here are the smallest; the loader
 * (moonscope-probe, limits.rs) sets the real ones before it loads.
 */
#ifndef MOONSCOPE_MAPS_H
#define MOONSCOPE_MAPS_H

#include "kernel.h"
#include "walk_state.h"

/* ---- settings: constants to the verifier ------------------------------ */

const volatile __u32 ms_scope = MS_SCOPE_ALL;	/* enum ms_scope */
const volatile __u64 ms_cgroup_id;		/* MS_SCOPE_CGROUP */
const volatile __u32 ms_cgroup_level;
const volatile bool ms_follow_forks = true;
/* user space wants to match names of new programs (--comm, --exe) */
const volatile bool ms_report_all_execs;
const volatile __u32 ms_max_depth = MS_DEFAULT_DEPTH;
const volatile bool ms_want_kernel = true;
const volatile bool ms_want_user = true;
/* put the logical parents of ngx_lua's coroutines above them */
const volatile bool ms_want_parents;
/* ship a stack copy with each sample, to compare the two walkers (tests) */
const volatile bool ms_always_copy;

/* ---- what user space writes and reads through mmap -------------------- */

#define MS_WORDS_MIN 1024
#define MS_RULES_MIN MS_MAX_RULES
#define MS_TABLES_MIN 64
#define MS_MAPPINGS_MIN 64
#define MS_CPUS_MIN 1

/* the real lengths of the arrays below, all powers of two, less one */
const volatile __u64 ms_words_mask = MS_WORDS_MIN - 1;
const volatile __u64 ms_tables_mask = MS_TABLES_MIN - 1;
const volatile __u64 ms_mappings_mask = MS_MAPPINGS_MIN - 1;
const volatile __u64 ms_cpus_mask = MS_CPUS_MIN - 1;

/* Global variables and not map elements: an access is a plain load, and a
 * 4-byte word takes 4 bytes (array maps round each element up to 8). */
__u32 ms_words[MS_WORDS_MIN] SEC(".bss.words");
struct ms_rule ms_rules[MS_RULES_MIN] SEC(".bss.rules");
struct ms_table ms_tables[MS_TABLES_MIN] SEC(".bss.tables");
struct ms_mapping ms_mappings[MS_MAPPINGS_MIN] SEC(".bss.mappings");
struct ms_counters ms_counters[MS_CPUS_MIN] SEC(".bss.counters");
struct ms_lua_layout ms_lua_layouts[MS_LUA_LAYOUTS] SEC(".bss.layouts");

/*
 * Of each Lua function seen, what it is, by a hash of where it is: one that is new
 * here has no name yet, and may be collected soon.
 */
#define MS_LUA_SEEN (1 << 14)
__u32 ms_lua_seen[MS_LUA_SEEN] SEC(".bss.seen");

/* ---- maps ------------------------------------------------------------- */

/* Wanted thread groups, and since when (CLOCK_MONOTONIC, nanoseconds; or MS_TARGET_AFTER_EXEC: not yet). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} targets SEC(".maps");

/* What is known of a thread group. Deleted at exec and exit in the kernel, so
 * that an old program's mappings are never used for a new one. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct ms_process);
} processes SEC(".maps");

/* What is known of the Lua VMs of a thread group; deleted together with the above. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct ms_lua_process);
} lua_processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

/* ---- sums of values --------------------------------------------------- */

/*
 * Two maps that take turns: while one is filled, user space empties the other. So
 * no value is added to what was read already, and none falls between two reads.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct ms_sum_key);
	__type(value, struct ms_sum);
} sums_even SEC(".maps"), sums_odd SEC(".maps");

/* Which of them is filled: the lowest bit. */
__u32 ms_sums_turn SEC(".bss.turn");

/* User space has forgotten all stacks when this changes. */
__u32 ms_stacks_epoch SEC(".bss.turn");

/* Lua words mean the same for so long at least, nanoseconds. */
enum { MS_LUA_FRESH_NS = 1000000000 };

/* Stacks that user space has, and when they were shipped. Those not met for long make room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct ms_stack_id);
	__type(value, __u64);
} shipped_stacks SEC(".maps");

const volatile __u64 ms_hash_seed[2] = { 1, 2 };

/* Only this CPU writes there, but a program may be preempted in the middle of that, and an interrupt may count too. */
static __always_inline void count(__u32 event, enum ms_count what)
{
	__u32 cpu = bpf_get_smp_processor_id();

	__sync_fetch_and_add(&ms_counters[cpu & ms_cpus_mask].count[event & (MS_MAX_EVENTS - 1)][what], 1);
}

#endif /* MOONSCOPE_MAPS_H */
