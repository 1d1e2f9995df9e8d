/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which tasks are wanted. */
#ifndef MOONSCOPE_SCOPE_H
#define MOONSCOPE_SCOPE_H

#include "maps.h"

static __always_inline bool is_target(__u32 pid)
{
	return bpf_map_lookup_elem(&targets, &pid) != NULL;
}

/* Is the running task wanted? */
static __always_inline bool current_is_wanted(__u32 pid)
{
	if (ms_scope == MS_SCOPE_ALL)
		return true;
	if (ms_scope == MS_SCOPE_CGROUP &&
	    bpf_get_current_ancestor_cgroup_id(ms_cgroup_level) == ms_cgroup_id)
		return true;
	return is_target(pid);
}

#endif /* MOONSCOPE_SCOPE_H */
