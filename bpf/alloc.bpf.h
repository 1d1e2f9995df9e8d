/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The collector `alloc`: what malloc and its family give out and take back, by probes in the
 * program at the beginning of each function and at each place where it is left. Return
 * addresses stay as they are, so every stack is whole, for the program itself as well.
 *
 * Each byte that is allocated has the same chance to be taken, one in `alloc_period`, and an
 * allocation is taken if one of its bytes is: the bytes up to the next one are drawn from a
 * geometric distribution. What was taken counts for as many as its chance says. Its address
 * is remembered until it is freed, by whichever thread.
 *
 * A function of the family that another one of it calls is not counted: the outermost is.
 *
 * Values: see MS_ALLOC_OBJECTS. Tag: MS_ALLOC_CHANGES. Only what was taken counts as having happened.
 */
#ifndef MOONSCOPE_ALLOC_H
#define MOONSCOPE_ALLOC_H

#include "scope.h"
#include "stack.h"
#include "thread_stack.h"

const volatile __u32 alloc_event;
const volatile __u64 alloc_period = 1;	/* bytes, up to MS_ALLOC_MOST_PERIOD; 1: take each */
const volatile __u32 alloc_weights[MS_ALLOC_STEPS + 1];

/*
 * Measuring has begun, and has not ended. Of a process that comes later, probes come one after the other: first where
 * functions are left, then free, realloc, and the others, so that nothing is seen to come that is not seen to go.
 */
__u32 alloc_is_on SEC(".bss.alloc");

/* Of each thread: the outermost call that is under way, and how far the next byte to take is. */
struct alloc_thread {
	__u64 left;		/* bytes; 0: not drawn yet */
	__u64 sp;		/* where its return address is; 0: no call is under way */
	__u64 ra;		/* its return address */
	__u64 old;		/* what it resizes */
	__u64 out;		/* where it puts its result; 0: it returns it */
	__u32 flags;		/* ALLOC_* */
	__u32 inner;		/* calls inside of it */
	struct ms_alloc_block block;	/* ALLOC_TAKEN */
	struct ms_alloc_block before;	/* ALLOC_RESIZES */
};

enum {
	ALLOC_TAKEN = 1 << 0,	/* the stack of this call was shipped */
	ALLOC_RESIZES = 1 << 1,	/* `old` is a block that was taken */
	ALLOC_EMPTIES = 1 << 2,	/* to nothing, which frees it */

	/* calls inside of a call, before it is taken for one whose end was not seen */
	ALLOC_MOST_INNER = 32,
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct alloc_thread);
} alloc_threads SEC(".maps");

/* The blocks that were taken and are not freed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct ms_alloc_address);
	__type(value, struct ms_alloc_block);
} alloc_live SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ms_alloc_work);
} alloc_work SEC(".maps");

/* Processes that have executed another program lately; user space takes them out. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ms_alloc_exec);
} alloc_execs SEC(".maps");

struct task_struct___exec {
	__u64 self_exec_id;
} __attribute__((preserve_access_index));

NO_PROGRAMS(no_programs_of_alloc);

/* ---- accounting ------------------------------------------------------- */

/* These programs may be preempted: nothing is added to without care. */
#define ADD(to, number) __sync_fetch_and_add(&(to), number)

static __always_inline struct ms_alloc_work *work_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&alloc_work, &zero);
}

#define NOTE(field)					\
	do {						\
		struct ms_alloc_work *work = work_here(); \
		if (work)				\
			ADD(work->field, 1);		\
	} while (0)

/* What was taken counts as having happened, and this became of it. */
static __always_inline void became(enum ms_count what)
{
	count(alloc_event, MS_COUNT_FIRED);
	count(alloc_event, what);
}

static __always_inline struct alloc_thread *this_thread(__u64 flags)
{
	return bpf_task_storage_get(&alloc_threads, bpf_get_current_task_btf(), NULL, flags);
}

static __always_inline struct ms_alloc_address address_here(__u64 address)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();

	return (struct ms_alloc_address){ .mm = (__u64)task->mm, .address = address };
}

/* Which of the programs that its process has executed the running thread is in. */
static __always_inline __u32 image_here(void)
{
	struct task_struct___exec *task = (void *)bpf_get_current_task_btf();

	return (__u32)task->self_exec_id;
}

/* ---- which are taken, and what they stand for ------------------------- */

#define LN2_16 45426	/* ln(2) * 2^16 */

/*
 * Bytes up to and with the next one that is taken: -period * ln(u), u evenly distributed
 * from 0 to 1. The logarithm: the place of the highest bit, then one bit for each squaring.
 */
static __always_inline __u64 draw_distance(void)
{
	__u64 u = bpf_get_prandom_u32(), mantissa, log = 0, bit, scaled;

	u += !u;
	mantissa = u;
#pragma unroll
	for (int shift = 16; shift; shift /= 2) {
		bit = (mantissa >> (32 - shift)) == 0;
		mantissa <<= bit * shift;
		log += bit * shift;
	}
	/* u = mantissa / 2^31 * 2^(31 - log) */
	log = 31 - log;
#pragma unroll
	for (int i = 0; i < MS_ALLOC_WEIGHT_SHIFT; i++) {
		mantissa = mantissa * mantissa >> 31;
		bit = mantissa >> 32;
		mantissa >>= bit;
		log = log << 1 | bit;
	}
	/* -log2(u / 2^32), times the period: up to 2^59 */
	scaled = alloc_period * ((32ULL << MS_ALLOC_WEIGHT_SHIFT) - log);
	return ((scaled >> 16) * LN2_16 >> MS_ALLOC_WEIGHT_SHIFT) + 1;
}

/* Is one of these bytes to be taken? */
static __always_inline bool is_due(struct alloc_thread *t, __u64 size)
{
	if (alloc_period <= 1)
		return true;
	if (!t->left)
		t->left = draw_distance();
	if (size < t->left) {
		t->left -= size;
		return false;
	}
	t->left = draw_distance();
	return true;
}

/* What a block of this size that was taken stands for: 1 / (1 - exp(-size / period)) such. */
static __always_inline void weigh(struct ms_alloc_block *block, __u64 size)
{
	__u64 at, step, weight, rest;

	block->objects = 1ULL << MS_ALLOC_OBJECT_SHIFT;
	block->bytes = size;
	if (alloc_period <= 1 || size >= alloc_period * (MS_ALLOC_STEPS / MS_ALLOC_STEP) || !size)
		return;
	at = size * MS_ALLOC_STEP;
	step = at / alloc_period & (MS_ALLOC_STEPS - 1);
	rest = at % alloc_period;
	weight = alloc_weights[step];
	weight += (alloc_weights[step + 1] - weight) * rest / alloc_period;
	/* below 2^30 periods of bytes times 2^30 */
	weight *= alloc_period;
	block->objects = (weight >> (MS_ALLOC_WEIGHT_SHIFT - MS_ALLOC_OBJECT_SHIFT)) / size;
	block->bytes = weight >> MS_ALLOC_WEIGHT_SHIFT;
}

/* ---- blocks that come and go ------------------------------------------ */

static __always_inline bool add_block(const struct ms_alloc_block *block, bool is_freed)
{
	struct ms_sum_key key = { .stack = block->stack, .event = alloc_event };
	struct ms_sum sum = {};

	sum.count = !is_freed;
	sum.value[is_freed ? MS_ALLOC_FREED_OBJECTS : MS_ALLOC_OBJECTS] = block->objects;
	sum.value[is_freed ? MS_ALLOC_FREED_BYTES : MS_ALLOC_BYTES] = block->bytes;
	return add_values(&key, &sum);
}

static __always_inline void note_freed(const struct ms_alloc_block *block)
{
	if (!add_block(block, true))
		NOTE(unfollowed);
}

/* Is this a block that was taken? Then it is one no more. */
static __always_inline bool take_out(__u64 address, struct ms_alloc_block *block)
{
	struct ms_alloc_address key = address_here(address);
	struct ms_alloc_block *known = bpf_map_lookup_elem(&alloc_live, &key);

	if (!known)
		return false;
	*block = *known;
	return bpf_map_delete_elem(&alloc_live, &key) == 0;
}

/* False: there is no room. */
static __always_inline bool put_in(__u64 address, const struct ms_alloc_block *block)
{
	struct ms_alloc_address key = address_here(address);

	return bpf_map_update_elem(&alloc_live, &key, block, BPF_ANY) == 0;
}

static __noinline int note_allocated(struct alloc_thread *t, __u64 address, bool is_known)
{
	struct ms_alloc_block unseen;

	if (!is_known) {
		/* it may have failed, but most do not */
	} else if (!address) {
		became(MS_COUNT_UNWANTED);
		return 0;
	} else if (take_out(address, &unseen)) {
		/* nobody can get what was not freed: that was not seen */
		NOTE(missed);
		note_freed(&unseen);
	}
	if (!add_block(&t->block, false)) {
		became(MS_COUNT_LOST_MAP);
		return 0;
	}
	became(MS_COUNT_SUMMED);
	if (is_known && put_in(address, &t->block))
		return 0;
	/* rather freed at once than never */
	note_freed(&t->block);
	NOTE(unfollowed);
	return 0;
}

/* The call of this thread is over. */
static __always_inline void call_ends(struct alloc_thread *t, __u64 address, bool is_known)
{
	__u32 flags = t->flags;

	t->sp = 0;
	t->flags = 0;
	if (flags & ALLOC_RESIZES) {
		if (address || !is_known || flags & ALLOC_EMPTIES)
			note_freed(&t->before);
		else if (!put_in(t->old, &t->before))
			NOTE(unfollowed);
	}
	if (flags & ALLOC_TAKEN)
		note_allocated(t, address, is_known);
}

/* ---- the beginning of a call ------------------------------------------ */

/*
 * Is the call that this thread began still under way, and this one inside of it? It may
 * have been left by an exception or by longjmp.
 */
static __always_inline bool is_inside(struct alloc_thread *t, __u64 sp)
{
	__u64 ra = 0;

	if (!t->sp)
		return false;
	if (sp <= t->sp && t->inner < ALLOC_MOST_INNER &&
	    !bpf_probe_read_user(&ra, sizeof(ra), (void *)t->sp) && ra == t->ra) {
		t->inner++;
		return true;
	}
	NOTE(abandoned);
	call_ends(t, 0, true);
	return false;
}

static __always_inline __u64 product(__u64 a, __u64 b)
{
	__u64 large = a > b ? a : b, small = a > b ? b : a;

	/* one that is too large fails */
	if (small >> 32 || ((large >> 32) * small + ((large & 0xffffffff) * small >> 32)) >> 32)
		return ~0ULL;
	return a * b;
}

static __always_inline __u64 size_asked_for(struct pt_regs *ctx, __u32 call)
{
	__u64 first = ctx->di, second = ctx->si, third = ctx->dx;

	/* or the compiler reads one of them, by a pointer that the verifier refuses */
	asm volatile("" : "+r"(first), "+r"(second), "+r"(third));
	switch (call) {
	case MS_ALLOC_PRODUCT:
		return product(first, second);
	case MS_ALLOC_SECOND:
	case MS_ALLOC_RESIZE:
		return second;
	case MS_ALLOC_OUT:
		return third;
	case MS_ALLOC_RESIZE_PRODUCT:
		return product(second, third);
	}
	return first;
}

/* Is a stack due? */
static __noinline int call_begins(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), sp, size;
	__u32 call = cookie & MS_ALLOC_CALL_MASK;
	struct ms_alloc_work *work = work_here();
	struct alloc_thread *t;

	note_hit(ctx);
	if (work) {
		ADD(work->hits, 1);
		ADD(work->calls, 1);
	}
	if (!alloc_is_on || !current_is_wanted(bpf_get_current_pid_tgid() >> 32))
		return 0;
	t = this_thread(BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!t) {
		became(MS_COUNT_LOST_MAP);
		return 0;
	}
	sp = ctx->sp + 8 * (cookie >> MS_ALLOC_WORDS_SHIFT);
	if (is_inside(t, sp))
		return 0;
	size = size_asked_for(ctx, call);
	t->inner = 0;
	t->flags = 0;
	t->out = call == MS_ALLOC_OUT ? ctx->di : 0;
	t->old = 0;
	if (bpf_probe_read_user(&t->ra, sizeof(t->ra), (void *)sp))
		t->ra = 0;
	t->sp = sp;
	if (call == MS_ALLOC_RESIZE || call == MS_ALLOC_RESIZE_PRODUCT) {
		/* before the function frees it, and another thread gets it */
		t->old = ctx->di;
		if (t->old && take_out(t->old, &t->before))
			t->flags |= size ? ALLOC_RESIZES : ALLOC_RESIZES | ALLOC_EMPTIES;
		/* nothing is allocated by this */
		if (t->old && !size)
			return 0;
	}
	if (!is_due(t, size))
		return 0;
	weigh(&t->block, size);
	t->block.pid = bpf_get_current_pid_tgid() >> 32;
	t->block.image = image_here();
	return 1;
}

/* The stack of this call has this id. */
static __always_inline void call_is_taken(const struct ms_stack_id *stack)
{
	struct alloc_thread *t = this_thread(0);

	if (!t) {
		became(MS_COUNT_LOST_MAP);
		return;
	}
	t->block.stack = *stack;
	t->flags |= ALLOC_TAKEN;
}

static __always_inline int on_alloc_call(struct pt_regs *ctx, enum walk_loop loop)
{
	struct scratch *s;

	RUN_ON_THREAD_STACK(ctx, no_programs_of_alloc);
	if (!call_begins(ctx))
		return 0;
	s = take_probe_scratch(alloc_event);
	if (!s)
		return 0;
	take_stack_of_call(s, ctx, bpf_get_attach_cookie(ctx) >> MS_ALLOC_WORDS_SHIFT, loop);
	s->sample.tag = 0;
	s->sample.sum = (struct ms_sum){};
	if (ship_stack_once(s))
		call_is_taken(&s->hash);
	else
		became(MS_COUNT_LOST_RING);
	give_back(s);
	return 0;
}

WALKING_PROGRAM("uprobe", alloc_call, struct pt_regs, on_alloc_call)

/* ---- its end, and free ------------------------------------------------ */

SEC("uprobe")
int alloc_exit(struct pt_regs *ctx)
{
	__u64 how = bpf_get_attach_cookie(ctx), address = 0;
	__u64 first = ctx->di, result = ctx->ax;
	struct alloc_thread *t;

	RUN_ON_THREAD_STACK(ctx, no_programs_of_alloc);
	/* as above */
	asm volatile("" : "+r"(first), "+r"(result));
	NOTE(hits);
	t = this_thread(0);
	/* not of an inner call, nor of another function that shares the code */
	if (!t || !t->sp || t->sp != ctx->sp)
		return 0;
	if (how == MS_ALLOC_FIRST)
		address = first;
	else if (how == MS_ALLOC_RETURNS && !t->out)
		address = result;
	else if (how == MS_ALLOC_RETURNS && !(__u32)result)
		bpf_probe_read_user(&address, sizeof(address), (void *)t->out);
	call_ends(t, address, how != MS_ALLOC_UNKNOWN);
	return 0;
}

SEC("uprobe")
int alloc_free(struct pt_regs *ctx)
{
	struct ms_alloc_work *work = work_here();
	struct ms_alloc_block block;

	RUN_ON_THREAD_STACK(ctx, no_programs_of_alloc);
	note_hit(ctx);
	if (work) {
		ADD(work->hits, 1);
		ADD(work->calls, 1);
		ADD(work->frees, 1);
	}
	if (alloc_is_on && ctx->di && take_out(ctx->di, &block))
		note_freed(&block);
	return 0;
}

/* sched_process_exec(task, old_pid, bprm): its address space is another one, and nobody will free what was in the old one. */
TRACEPOINT_PROGRAM("raw_tracepoint/sched_process_exec", alloc_executes)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct ms_alloc_exec exec = { .time = bpf_ktime_get_ns() };

	if (!alloc_is_on || !current_is_wanted(pid))
		return 0;
	exec.image = image_here();
	if (bpf_map_update_elem(&alloc_execs, &pid, &exec, BPF_ANY))
		NOTE(unswept);
	return 0;
}

/* How often are they called? The cookie: does it free? */
SEC("uprobe")
int alloc_count(struct pt_regs *ctx)
{
	struct ms_alloc_work *work = work_here();

	RUN_ON_THREAD_STACK(ctx, no_programs_of_alloc);
	if (!work)
		return 0;
	ADD(work->hits, 1);
	ADD(work->calls, 1);
	if (bpf_get_attach_cookie(ctx))
		ADD(work->frees, 1);
	return 0;
}

#endif /* MOONSCOPE_ALLOC_H */
