/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which tasks are wanted. */
#ifndef MOONSCOPE_SCOPE_H
#define MOONSCOPE_SCOPE_H

#include "maps.h"
#include "tracepoint.h"

struct cgroup {
	int level;
	__u64 ancestor_ids[];	/* up to 6.0: by level, its own the last */
} __attribute__((preserve_access_index));

struct css_set {
	struct cgroup *dfl_cgrp;
} __attribute__((preserve_access_index));

struct task_struct___cgroups {
	struct css_set *cgroups;
} __attribute__((preserve_access_index));

static __always_inline bool is_target(__u32 pid)
{
	__u64 *since = bpf_map_lookup_elem(&targets, &pid);

	return since && *since != MS_TARGET_AFTER_EXEC;
}

/* A process runs another program: if it is the command of the recording, it is a target now. */
static __always_inline void begin_command(__u32 pid)
{
	__u64 *since = bpf_map_lookup_elem(&targets, &pid);

	if (since && *since == MS_TARGET_AFTER_EXEC)
		*since = bpf_ktime_get_ns();
}

/*
 * The helper has been there since 5.6, but for programs of tracing only since 5.15 (bpf_tracing_func_proto,
 * kernel/trace/bpf_trace.c). Global: it adds nothing to the stack of whoever calls it.
 */
__noinline int current_is_in_cgroup(void)
{
	struct task_struct___cgroups *task = (void *)bpf_get_current_task();
	struct cgroup *cgroup = NULL;
	__u64 id = 0;

	if (!bpf_core_field_exists(cgroup->ancestor_ids))
		return bpf_get_current_ancestor_cgroup_id(ms_cgroup_level) == ms_cgroup_id;
	cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	if (BPF_CORE_READ(cgroup, level) < (int)ms_cgroup_level)
		return 0;
	bpf_probe_read_kernel(&id, sizeof(id), (void *)cgroup + bpf_core_field_offset(cgroup->ancestor_ids) +
						       ms_cgroup_level * sizeof(id));
	return id == ms_cgroup_id;
}

/* Is the running task wanted? */
static __always_inline bool current_is_wanted(__u32 pid)
{
	if (ms_scope == MS_SCOPE_ALL)
		return true;
	if (ms_scope == MS_SCOPE_CGROUP && current_is_in_cgroup())
		return true;
	return is_target(pid);
}

#endif /* MOONSCOPE_SCOPE_H */
