/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The walker of bpf/walk.h on the host: its surroundings are arrays and a
 * callback that reads memory (feature `host-walker`).
 */
#include <linux/types.h>
#include <stddef.h>

#include "walk_state.h"

/* The same layout as `Surroundings` in walk_host.rs. */
struct surroundings {
	const __u32 *words;
	const struct ms_rule *rules;
	const struct ms_table *tables;
	const struct ms_mapping *mappings;
	const struct ms_lua_layout *layouts;
	const struct ms_lua_process *lua;	/* or NULL */
	__u64 nr_words;
	__u64 nr_rules;
	__u64 nr_tables;
	__u64 nr_mappings;
	__u64 nr_layouts;
	__u64 *words_out;
	__u64 max_words;
	__u64 nr_words_out;
	__u64 wants_parents;
	__s32 (*read)(void *context, void *dst, __u64 len, __u64 addr);
	void *context;
	/* the registers at the end, for comparison step by step */
	__u64 reg[MS_NR_REGS];
	__u32 valid;
};

static _Thread_local struct surroundings *around;

static __u32 ms_word(__u64 index)
{
	return index < around->nr_words ? around->words[index] : 0;
}

static const struct ms_rule *ms_rule(__u64 number)
{
	return &around->rules[number < around->nr_rules ? number : 0];
}

static const struct ms_table *ms_table(__u64 index)
{
	return &around->tables[index < around->nr_tables ? index : 0];
}

static const struct ms_mapping *ms_mapping(__u64 index)
{
	return &around->mappings[index < around->nr_mappings ? index : 0];
}

static const struct ms_lua_layout *ms_lua_layout(__u64 number)
{
	return &around->layouts[number < around->nr_layouts ? number : 0];
}

static const struct ms_lua_process *ms_lua_process(const struct walk *w)
{
	(void)w;
	return around->lua;
}

static int ms_wants_parents(void)
{
	return around->wants_parents != 0;
}

static int ms_wants_coroutine_only(struct walk *w)
{
	(void)w;
	return 0;
}

static void ms_note_function(struct walk *w, __u64 proto, __u32 print)
{
	(void)w, (void)proto, (void)print;
}

/* No kernel, no uprobes. */
static int ms_true_return(struct walk *w)
{
	(void)w;
	return 0;
}

static int ms_true_leaf(struct walk *w)
{
	(void)w;
	return 0;
}

static int ms_emit(struct walk *w, __u64 word)
{
	(void)w;
	if (around->nr_words_out >= around->max_words)
		return -1;
	around->words_out[around->nr_words_out++] = word;
	return 0;
}

static const struct ms_rule *ms_found_rule(struct walk *w, __u64 pc)
{
	(void)w, (void)pc;
	return NULL;
}

static void ms_remember_rule(struct walk *w, __u64 pc, const struct ms_rule *rule)
{
	(void)w, (void)pc, (void)rule;
}

#define ms_read_user(w, dst, len, addr) ((void)(w), around->read(around->context, dst, len, addr))

#include "walk.h"

/* Walks from s->reg and s->valid; returns the end. */
__u32 ms_walk_on_host(struct surroundings *s, __u32 max_depth)
{
	struct walk w = {
		.valid = s->valid,
		.max_depth = max_depth,
		.end = MS_END_DEPTH,
		.exact = 1,
		.count = s->nr_mappings,
	};

	for (int i = 0; i < MS_NR_REGS; i++)
		w.reg[i] = s->reg[i];
	around = s;
	for (int i = 0; i < MS_MAX_STEPS; i++)
		if (walk_step(&w))
			break;
	around = NULL;
	for (int i = 0; i < MS_NR_REGS; i++)
		s->reg[i] = w.reg[i];
	s->valid = w.valid;
	return w.end;
}
