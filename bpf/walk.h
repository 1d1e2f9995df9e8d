/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The walker: from the registers of a user thread to its frames, leaf first,
 * one frame a step.
 *
 * The same code runs in BPF and, for unit tests and fuzzers, on the host. Who
 * includes it defines first:
 *
 *   ms_read_user(w, dst, len, addr)   copies user memory, 0 on success
 *   ms_word(index)                    a word of the shared table array
 *   ms_rule(number)                   const struct ms_rule *, never NULL
 *   ms_table(index)                   const struct ms_table *, never NULL
 *   ms_mapping(index)                 const struct ms_mapping *, never NULL
 *   ms_found_rule(w, pc)              const struct ms_rule * found there before, or NULL
 *   ms_remember_rule(w, pc, rule)     may keep it for ms_found_rule
 *   ms_emit(w, word)                  stores a word of a frame, 0 on success
 *   ms_lua_layout(number)             const struct ms_lua_layout *, never NULL
 *   ms_lua_process(w)                 const struct ms_lua_process *, or NULL
 *   ms_true_return(w)                 what w->ret was before a uprobe took it, 0 on success
 *   ms_true_leaf(w)                   registers of a thread that a uprobe holds, 0 on success
 *
 * An index beyond the end may give any element, but never a fault.
 *
 * The sources of the rules: DWARF 5 section 6.4, psABI x86-64 section 3.7.
 */
#ifndef MOONSCOPE_WALK_H
#define MOONSCOPE_WALK_H

#include "walk_state.h"

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

/* A function of its own: less code, which is cold whenever a sample is taken. */
#define ms_outlined static __attribute__((noinline))

#define MS_BIT(reg) (1U << (reg))
#define MS_NO_LIMIT (~0ULL)

/*
 * Steps for each frame at most: a native frame may need a second one to find its
 * caller, and a third that ends a Lua segment. One more leaves the page of uprobes,
 * and one sees that the limit is reached. Whoever walks sets w->end to MS_END_DEPTH first: a Lua stack may be
 * written that has steps without frames.
 */
#define MS_MAX_STEPS (3 * MS_MAX_DEPTH + 2)

static __always_inline int ms_stop(struct walk *w, __u32 end)
{
	w->end = end;
	return 1;
}

/* Anything above is the kernel's, or no address at all (non-canonical). */
static __always_inline int ms_is_user_address(__u64 address)
{
	return address <= MS_FRAME_ADDR_MASK;
}

static __always_inline int ms_covers(const struct ms_mapping *m, __u64 pc)
{
	return m->start <= pc && pc < m->end;
}

/*
 * All ones if a <= b, else 0. The searches below use it in place of a branch:
 * the verifier follows both ways of each branch, which for a binary search is
 * two to the power of its steps. Both numbers are below 2^63.
 */
static __always_inline __u64 ms_mask_if_le(__u64 a, __u64 b)
{
	return (__u64)((__s64)(a - b - 1) >> 63);
}

/* Sets w->here to the mapping of pc. */
static __always_inline int ms_find_mapping(struct walk *w, __u64 pc)
{
	/* how many start at or before pc: `found`, and up to `left` more */
	__u64 found = 0, left = w->count;
	const struct ms_mapping *m;

	if (ms_covers(&w->here, pc))
		return 0;
	if (!ms_is_user_address(pc))
		return -1;
	for (int i = 0; i < MS_MAPPING_STEPS && left; i++) {
		__u64 half = (left + 1) / 2;

		m = ms_mapping(w->first + found + half - 1);
		found += half & ms_mask_if_le(m->start, pc);
		left /= 2;
	}
	if (!found)
		return -1;
	m = ms_mapping(w->first + found - 1);
	if (!ms_covers(m, pc))
		return -1;
	w->here = *m;
	return 0;
}

/* The number of the rule in force at `vaddr` of the file that `t` describes. */
static __always_inline __u32 ms_find_rule(const struct ms_table *t, __u64 vaddr)
{
	__u64 page = (vaddr - t->base) >> MS_PAGE_SHIFT;
	__u32 wanted = ((__u32)(vaddr - t->base) << 16) | 0xffff;
	/* how many rows start at or before vaddr: `found`, and up to `left` more */
	__u64 found, left;

	if (vaddr < t->base || page >= t->nr_pages)
		return MS_RULE_HOLE;
	found = ms_word((__u64)t->pages + page);
	left = ms_word((__u64)t->pages + page + 1) - found;
	for (int i = 0; i < MS_SEARCH_STEPS && left; i++) {
		__u64 half = (left + 1) / 2;

		found += half & ms_mask_if_le(ms_word(t->rows + found + half - 1), wanted);
		left /= 2;
	}
	if (!found)
		return MS_RULE_HOLE;
	return ms_word(t->rows + found - 1) & 0xffff;
}

/* A return address on the first byte of a page may be that of a uprobe's trampoline (uprobes.h). */
#define MS_MAY_BE_TRAMPOLINE(address) (!((address) & (MS_UPROBE_PAGE - 1)))

#include "frame_pointer.h"

/* All registers come back from the signal frame that the kernel pushed. */
ms_outlined int ms_step_signal(struct walk *w, const struct ms_rule *rule)
{
	/* struct sigcontext begins with these, in this order */
	static const __u8 order[MS_UCONTEXT_NR_REGS] = {
		MS_REG_R8, MS_REG_R9, MS_REG_R10, MS_REG_R11, MS_REG_R12, MS_REG_R13,
		MS_REG_R14, MS_REG_R15, MS_REG_RDI, MS_REG_RSI, MS_REG_RBP, MS_REG_RBX,
		MS_REG_RDX, MS_REG_RAX, MS_REG_RCX, MS_REG_RSP, MS_REG_RIP,
	};
	__u64 context = w->reg[rule->reg & 15] + (__s64)rule->off + MS_UCONTEXT_REGS;

	if (ms_read_user(w, w->window, MS_UCONTEXT_NR_REGS * 8, context))
		return ms_stop(w, MS_END_UNREADABLE);
#pragma unroll
	for (int i = 0; i < MS_UCONTEXT_NR_REGS; i++)
		w->reg[order[i]] = w->window[i];
	w->valid = (1U << MS_NR_REGS) - 1;
	w->exact = 1;
	w->by_fp = 0;
	return 0;
}

static __always_inline int ms_find_cfa(struct walk *w, const struct ms_rule *rule, __u64 *cfa)
{
	__u32 reg = rule->reg & 15, index;
	__u64 base;

	if (!(w->valid & MS_BIT(reg)))
		return ms_stop(w, MS_END_LOST_REGISTER);
	base = w->reg[reg];
	switch (rule->cfa) {
	case MS_CFA_REG:
	case MS_CFA_CLONE:
	case MS_CFA_LUA_HELPER:
	case MS_CFA_LUA_LEAVING:
		*cfa = base + (__s64)rule->off;
		return 0;
	case MS_CFA_DEREF_INDEXED:
		index = rule->window >> MS_INDEX_SHIFT;
		if (!(w->valid & MS_BIT(index)))
			return ms_stop(w, MS_END_LOST_REGISTER);
		base += 8 * w->reg[index];
		/* fallthrough */
	case MS_CFA_DEREF:
	case MS_CFA_REALIGNED:
		if (ms_read_user(w, w->window, 8, base + (__s64)rule->off))
			return ms_stop(w, MS_END_UNREADABLE);
		*cfa = w->window[0] + (__s64)rule->add;
		return 0;
	case MS_CFA_PLT:
		*cfa = w->reg[MS_REG_RSP] + 8;
		if ((w->reg[MS_REG_RIP] & 15) >= (__u32)rule->off)
			*cfa += 8;
		return 0;
	}
	return ms_stop(w, MS_END_UNSUPPORTED);
}

/*
 * Sees to it that `bytes` (at most those of MS_WINDOW_WORDS) of the stack at `place` are in w->chunk; where they begin
 * there, or -1. What is read goes up to where callers have theirs, but never across a page border: behind the last page
 * lies nothing.
 */
static __always_inline int ms_read_chunk(struct walk *w, __u64 place, __u32 bytes)
{
	__u64 first = place - w->chunk_at;
	__u32 len = MS_STACK_PAGE - (place & (MS_STACK_PAGE - 1));

	if (first < w->chunk_len && w->chunk_len - first >= bytes && !(first & 7))
		return first / 8;
	if (len > MS_CHUNK_BYTES)
		len = MS_CHUNK_BYTES;
	if (len < bytes)
		len = bytes;
	w->chunk_at = place;
	w->chunk_len = 0;
	if (ms_read_user(w, w->chunk, len, place)) {
		len = bytes;
		if (ms_read_user(w, w->chunk, len, place))
			return -1;
	}
	w->chunk_len = len;
	return 0;
}

/* Word `index` of the chunk, which is within it. */
static __always_inline __u64 ms_word_of_chunk(const struct walk *w, __u32 index)
{
	return w->chunk[index & (MS_CHUNK_WORDS - 1)];
}

/* Register `number` of the caller, from the words below `top`, the last of which is before `end` of the chunk. */
#define MS_RESTORE(w, rule, top, words, end, which, number)			\
	do {									\
		__s32 slot = (rule)->saved[which];				\
		if (slot < 0) {							\
			(w)->valid &= ~MS_BIT(number);				\
		} else if (slot > 0 && slot <= (__s32)(words)) {		\
			(w)->reg[number] = ms_word_of_chunk(w, (end) - slot);	\
			(w)->valid |= MS_BIT(number);				\
		} else if (slot > 0) {						\
			if (ms_read_user((w), &(w)->reg[number], 8, (top) - 8 * slot)) \
				(w)->valid &= ~MS_BIT(number);			\
			else							\
				(w)->valid |= MS_BIT(number);			\
		}								\
	} while (0)

/* The caller's registers, where `rule` says they are below `cfa`. */
ms_outlined int ms_return_to(struct walk *w, const struct ms_rule *rule, __u64 cfa)
{
	__u32 words = rule->window & MS_WINDOW_WORDS;
	__u64 top = rule->cfa == MS_CFA_REALIGNED ? w->reg[rule->reg & 15] + 8 : cfa;
	__u32 end = 0;
	__u64 pc;

	/* the return address and the saved registers lie side by side */
	if (words) {
		int first = ms_read_chunk(w, top - words * 8, words * 8);

		if (first < 0)
			return ms_stop(w, MS_END_UNREADABLE);
		end = first + words;
	}
	if (rule->ra != MS_RA_AT_CFA) {
		__u32 reg = (rule->ra - MS_RA_IN_REG) & 15;

		if (!(w->valid & MS_BIT(reg)))
			return ms_stop(w, MS_END_LOST_REGISTER);
		pc = w->reg[reg];
	} else if (rule->cfa == MS_CFA_REALIGNED) {
		if (ms_read_user(w, &pc, 8, cfa - 8))
			return ms_stop(w, MS_END_UNREADABLE);
	} else {
		if (!words)
			return ms_stop(w, MS_END_UNSUPPORTED);
		pc = ms_word_of_chunk(w, end - 1);
	}
	/*
	 * Registers that a called function may change stay valid: what follows uses
	 * one only if its own rule, at a return address, says that it was kept
	 * (aesni_gcm_encrypt of libcrypto finds its CFA by rax).
	 */
	MS_RESTORE(w, rule, top, words, end, MS_SAVED_RBX, MS_REG_RBX);
	MS_RESTORE(w, rule, top, words, end, MS_SAVED_RBP, MS_REG_RBP);
	MS_RESTORE(w, rule, top, words, end, MS_SAVED_R12, MS_REG_R12);
	MS_RESTORE(w, rule, top, words, end, MS_SAVED_R13, MS_REG_R13);
	MS_RESTORE(w, rule, top, words, end, MS_SAVED_R14, MS_REG_R14);
	MS_RESTORE(w, rule, top, words, end, MS_SAVED_R15, MS_REG_R15);
	w->reg[MS_REG_RSP] = cfa;
	w->reg[MS_REG_RIP] = pc;
	w->exact = 0;
	w->by_fp = 0;
	if (!pc)
		return ms_stop(w, MS_END_ROOT_ZERO);
	return 0;
}

static __always_inline int ms_step_by_rule(struct walk *w, const struct ms_rule *rule)
{
	__u64 cfa;

	if (ms_find_cfa(w, rule, &cfa))
		return 1;
	/* only a leaf that keeps its return address in a register has no frame at all */
	if (cfa < w->reg[MS_REG_RSP] || (cfa & 7) ||
	    (cfa == w->reg[MS_REG_RSP] && !(w->exact && rule->ra != MS_RA_AT_CFA)))
		return ms_stop(w, MS_END_NOT_INCREASING);
	return ms_return_to(w, rule, cfa);
}

#include "lua.h"

/* Stores the native frame at the instruction pointer. */
static __always_inline int ms_emit_native(struct walk *w)
{
	__u64 frame = w->reg[MS_REG_RIP] & MS_FRAME_ADDR_MASK;

	if (w->exact)
		frame |= MS_FRAME_EXACT;
	if (w->by_fp)
		frame |= MS_FRAME_FP;
	if (ms_emit(w, frame))
		return ms_stop(w, MS_END_DEPTH);
	w->depth++;
	return 0;
}

/* No rule leads on from here: the next step looks for another way. */
static __always_inline int ms_stuck(struct walk *w, __u32 why)
{
	w->stuck = why;
	return 0;
}

/*
 * Code without unwind information: compiled Lua, a frame pointer, or what lies
 * between here and the VM that runs on this stack is left out.
 */
ms_outlined int ms_step_stuck(struct walk *w)
{
	__u32 why = w->stuck;
	int is_live, by_fp;
	struct lua_state *live = &w->found;
	__u64 above, call = 0;

	w->stuck = 0;
	is_live = !lua_find_live(w, live);
	above = is_live ? live->cframe - w->reg[MS_REG_RSP] : 0;
	if (is_live && live->jit_base && live->l != w->lua.l)
		call = lua_trace_call(w, live);
	if (is_live && live->jit_base && above <= LUA_TRACE_STACK && w->in_memory && !call) {
		/* of an unknown mapping nothing but the leaf was believed */
		if (w->unseen && ms_emit_native(w))
			return 1;
		return lua_begin(w, live, LUA_ON_TRACE);
	}
	if (why == MS_END_NO_ROW) {
		by_fp = ms_step_by_fp(w, is_live ? live->cframe : MS_NO_LIMIT);
		if (by_fp >= 0)
			return by_fp;
	}
	if (!is_live)
		return ms_stop(w, why);
	if (!call)
		return lua_begin(w, live, LUA_AFTER_GAP);
	if (ms_emit(w, call & MS_FRAME_ADDR_MASK))
		return ms_stop(w, MS_END_DEPTH);
	w->depth++;
	return lua_begin(w, live, LUA_AFTER_CALL_AND_GAP);
}

/* This return address may be a trampoline's: puts the true one in its place; 1: that is not known. */
static __always_inline int ms_return_truly(struct walk *w)
{
	w->ret = w->reg[MS_REG_RIP];
	/* the stack pointer of the caller is just above it, however it was found */
	w->ret_place = w->reg[MS_REG_RSP] - 8;
	if (ms_true_return(w))
		return ms_stop(w, MS_END_UPROBE);
	w->reg[MS_REG_RIP] = w->ret;
	return 0;
}

/* Is this no code of a file, but perhaps the one page that a process has for its uprobes? */
static __always_inline int ms_may_be_uprobe_page(const struct walk *w, int known)
{
	return !known || (w->here.kind == MS_MAPPING_ANON && w->here.end - w->here.start == MS_UPROBE_PAGE);
}

/* One step by a rule that is in force at the instruction pointer. */
ms_outlined int ms_step_by(struct walk *w, const struct ms_rule *rule)
{
	switch (rule->cfa) {
	case MS_CFA_ROOT:
		return ms_stop(w, MS_END_ROOT);
	case MS_CFA_SIGNAL:
		return ms_step_signal(w, rule);
	case MS_CFA_CLONE:
		/* nothing is called from there, so what rax says is of this thread */
		if (!w->exact || !(w->valid & MS_BIT(MS_REG_RAX)))
			return ms_stop(w, MS_END_LOST_REGISTER);
		if (!w->reg[MS_REG_RAX])
			return ms_stop(w, MS_END_ROOT);
		return ms_step_by_rule(w, rule);
	case MS_CFA_UNSUPPORTED:
		return ms_stuck(w, MS_END_UNSUPPORTED);
	case MS_CFA_LUA_VM:
	case MS_CFA_LUA_VM_INNER:
	case MS_CFA_LUA_DISPATCH:
	case MS_CFA_LUA_CALLBACK:
		return lua_step_vm(w, rule);
	case MS_CFA_LUA_HELPER:
	case MS_CFA_LUA_LEAVING:
		lua_note_leaf(w, rule);
		/* fallthrough */
	default:
		return ms_step_by_rule(w, rule);
	}
}

/* Finds the rule in force and the kind of code; without a rule the step is done, and gives what it gives. */
ms_outlined int ms_search_rule(struct walk *w, __u64 pc, __u64 lookup, const struct ms_rule **to)
{
	const struct ms_table *table;
	const struct ms_rule *rule;
	int known = ms_find_mapping(w, lookup) == 0;

	if (w->exact && !w->has_left_uprobe && ms_may_be_uprobe_page(w, known)) {
		w->has_left_uprobe = 1;
		if (ms_true_leaf(w))
			return ms_stop(w, MS_END_UPROBE);
		if (w->reg[MS_REG_RIP] != pc)
			return 0;
	}
	w->in_memory = !known || w->here.kind == MS_MAPPING_ANON;
	w->unseen = !known && w->depth;
	/* where the thread is now is true whatever we know of it; a caller is not */
	if (!w->unseen && ms_emit_native(w))
		return 1;
	if (!known)
		return ms_stuck(w, w->by_fp ? MS_END_NO_ROW : MS_END_NO_MAPPING);
	if (w->here.kind == MS_MAPPING_ANON)
		return ms_stuck(w, MS_END_NO_ROW);
	if (w->here.kind == MS_MAPPING_NO_TABLE)
		return ms_stop(w, MS_END_NO_TABLE);
	table = ms_table(w->here.table);
	if (table->state == MS_TABLE_EMPTY)
		return ms_stop(w, MS_END_NO_TABLE);
	if (table->state == MS_TABLE_NO_INFO)
		return ms_stuck(w, MS_END_NO_ROW);
	rule = ms_rule(ms_find_rule(table, lookup - w->here.bias));
	if (rule->cfa == MS_CFA_HOLE) {
		/*
		 * The kernel is behind __restore_rt, of which nothing but rt_sigreturn comes last. And a made-up return
		 * address is the first byte of what ends a stack, or of any function behind padding, from which nothing
		 * is called (glibc's makecontext: __start_context).
		 */
		rule = ms_rule(ms_find_rule(table, (w->exact ? pc - 1 : pc) - w->here.bias));
		if (w->exact && rule->cfa == MS_CFA_SIGNAL)
			return ms_step_signal(w, rule);
		if (!w->exact && (rule->cfa == MS_CFA_ROOT ||
				  (rule->cfa != MS_CFA_HOLE && !(pc & (MS_FUNCTION_ALIGNMENT - 1)))))
			return ms_stop(w, MS_END_ROOT);
		return ms_stuck(w, MS_END_NO_ROW);
	}
	ms_remember_rule(w, lookup, rule);
	*to = rule;
	return 0;
}

/*
 * One step of the walk: stores this frame and turns its registers into those
 * of its caller. Returns 1 to stop. Every stop has set w->end; nothing else
 * ends a walk.
 */
static __always_inline int walk_step(struct walk *w)
{
	const struct ms_rule *rule;
	__u64 pc, lookup;
	int result;

	if (w->depth >= w->max_depth)
		return ms_stop(w, MS_END_DEPTH);
	if (w->lua.in_segment)
		return lua_step(w);
	if (w->stuck)
		return ms_step_stuck(w);
	if (!w->exact && MS_MAY_BE_TRAMPOLINE(w->reg[MS_REG_RIP]) && ms_return_truly(w))
		return 1;
	pc = w->reg[MS_REG_RIP];
	/* a return address may be the first byte of the next function */
	lookup = w->exact ? pc : pc - 1;
	rule = ms_found_rule(w, lookup);
	if (!rule) {
		result = ms_search_rule(w, pc, lookup, &rule);
		return rule ? ms_step_by(w, rule) : result;
	}
	w->in_memory = 0;
	w->unseen = 0;
	return ms_emit_native(w) || ms_step_by(w, rule);
}

#endif /* MOONSCOPE_WALK_H */
