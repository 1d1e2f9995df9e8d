/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The walker in the kernel: what walk.h asks of its surroundings, and the two
 * loops around its step. The loader takes the first one that the running
 * kernel accepts.
 */
#ifndef MOONSCOPE_WALK_BPF_H
#define MOONSCOPE_WALK_BPF_H

#include "uprobes.h"

/* A mask in place of a check: no branch, and plainly within bounds. */
static __always_inline __u32 ms_word(__u64 index)
{
	return ms_words[index & ms_words_mask];
}

static __always_inline const struct ms_table *ms_table(__u64 index)
{
	return &ms_tables[index & ms_tables_mask];
}

static __always_inline const struct ms_mapping *ms_mapping(__u64 index)
{
	return &ms_mappings[index & ms_mappings_mask];
}

static __always_inline const struct ms_rule *ms_rule(__u64 number)
{
	return &ms_rules[number & (MS_MAX_RULES - 1)];
}

static __always_inline const struct ms_lua_layout *ms_lua_layout(__u64 number)
{
	return &ms_lua_layouts[number & (MS_LUA_LAYOUTS - 1)];
}

static __always_inline const struct ms_lua_process *ms_lua_process(const struct walk *w)
{
	return bpf_map_lookup_elem(&lua_processes, &w->pid);
}

static __always_inline int ms_wants_parents(void)
{
	return ms_want_parents;
}

static __always_inline int ms_wants_coroutine_only(struct walk *w)
{
	return container_of(w, struct scratch, walk)->sample.flags & MS_SAMPLE_COROUTINE;
}

/*
 * Two independent multiply-and-rotate rounds; the constants are those of xxHash64
 * (its second and first prime).
 */
static __always_inline void mix(struct ms_stack_id *hash, __u64 word)
{
	__u64 a = hash->a ^ word;
	__u64 b = hash->b + word;

	a *= 0xc2b2ae3d27d4eb4fULL;
	b *= 0x9e3779b185ebca87ULL;
	hash->a = (a << 31 | a >> 33) ^ b;
	hash->b = (b << 29 | b >> 35) + a;
}

static __always_inline int ms_emit(struct walk *w, __u64 frame)
{
	struct scratch *s = container_of(w, struct scratch, walk);
	__u64 next = s->next;

	if (next >= MS_SAMPLE_FRAMES)
		return -1;
	/* the compiler must not compute the address before the check */
	asm volatile("" : "+r"(next));
	s->words[next] = frame;
	s->next = next + 1;
	mix(&s->hash, frame);
	return 0;
}

/* Notes a Lua function that is new: its prototype, and what that is. */
static __always_inline void ms_note_function(struct walk *w, __u64 proto, __u32 print)
{
	struct scratch *s = container_of(w, struct scratch, walk);
	__u32 what = print ^ w->pid * MS_LUA_PRINT_CHUNK;
	__u32 *seen = &ms_lua_seen[(proto >> 3 ^ proto >> 17) & (MS_LUA_SEEN - 1)];

	if (*seen == what)
		return;
	*seen = what;
	s->has_new_function = 1;
}

static __always_inline struct found_rule *ms_place_of_rule(struct walk *w, __u64 pc)
{
	struct scratch *s = container_of(w, struct scratch, walk);

	return &s->found[(pc ^ pc >> 10 ^ s->sample.generation) & (MS_FOUND_RULES - 1)];
}

static __always_inline const struct ms_rule *ms_found_rule(struct walk *w, __u64 pc)
{
	struct found_rule *found = ms_place_of_rule(w, pc);

	if (found->pc != pc || found->generation != container_of(w, struct scratch, walk)->sample.generation)
		return NULL;
	return &found->rule;
}

static __always_inline void ms_remember_rule(struct walk *w, __u64 pc, const struct ms_rule *rule)
{
	struct found_rule *found = ms_place_of_rule(w, pc);

	found->pc = pc;
	found->generation = container_of(w, struct scratch, walk)->sample.generation;
	found->rule = *rule;
}

#define ms_read_user(w, dst, len, addr) \
	bpf_probe_read_user(dst, len, (const void *)(addr))

#include "walk.h"

struct walk_context {
	struct walk *walk;
};

static long walk_loop_step(__u32 i, void *context)
{
	return walk_step(((struct walk_context *)context)->walk);
}

/* For 5.17 and later: any depth in one call. */
static __always_inline void walk_with_bpf_loop(struct scratch *s)
{
	struct walk_context context = { .walk = &s->walk };

	bpf_loop(MS_MAX_STEPS, walk_loop_step, &context, 0);
}

/*
 * A global function is verified once and not for each of its calls, so that a
 * plain loop around it stays within what kernels before 5.17 verify.
 */
__noinline int walk_step_of_scratch(__u32 index)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &index);

	return s ? walk_step(&s->walk) : 1;
}

static __always_inline void walk_with_plain_loop(__u32 index)
{
	for (int i = 0; i < MS_MAX_STEPS; i++)
		if (walk_step_of_scratch(index))
			break;
}

#endif /* MOONSCOPE_WALK_BPF_H */
