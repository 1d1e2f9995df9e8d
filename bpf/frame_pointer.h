/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The step of the walk where no unwind information exists: by the frame pointer, if what it
 * leads to looks like a frame. Part of walk.h, which says what surrounds it.
 */
#ifndef MOONSCOPE_FRAME_POINTER_H
#define MOONSCOPE_FRAME_POINTER_H

/* An indirect call (ff /2) that begins at code[at], by its ModRM byte's mode and register. */
#define MS_IS_CALL(code, at, mode)						\
	((code)[at] == 0xff && ((code)[(at) + 1] & 0xf8) == ((mode) | 0x10))

/*
 * Does an indirect call end just behind these 7 bytes? Intel SDM volume 2, CALL
 * and table 2-2: the length follows from mode and register (rm) of the ModRM byte.
 */
static __always_inline int ms_ends_with_indirect_call(const __u8 *code)
{
	__u8 rm;

	if (MS_IS_CALL(code, 5, 0xc0))			/* call reg */
		return 1;
	rm = code[6] & 7;
	if (MS_IS_CALL(code, 5, 0x00) && rm != 4 && rm != 5)	/* [reg] */
		return 1;
	rm = code[5] & 7;
	if (MS_IS_CALL(code, 4, 0x00) && rm == 4 && (code[6] & 7) != 5)	/* [reg + reg] */
		return 1;
	if (MS_IS_CALL(code, 4, 0x40) && rm != 4)	/* [reg + disp8] */
		return 1;
	if (MS_IS_CALL(code, 3, 0x40) && (code[4] & 7) == 4)	/* [reg + reg + disp8] */
		return 1;
	rm = code[2] & 7;
	if (MS_IS_CALL(code, 1, 0x00) && rm == 5)	/* [rip + disp32] */
		return 1;
	if (MS_IS_CALL(code, 1, 0x80) && rm != 4)	/* [reg + disp32] */
		return 1;
	rm = code[1] & 7;
	if (MS_IS_CALL(code, 0, 0x80) && rm == 4)	/* [reg + reg + disp32] */
		return 1;
	return MS_IS_CALL(code, 0, 0x00) && rm == 4 && (code[2] & 7) == 5;	/* [reg + disp32] */
}

/* A function with more bytes is none whose frame pointer is believed. */
#define MS_MAX_FUNCTION (1 << 20)

/* endbr64, as the first 4 bytes of a function */
#define MS_ENDBR64 0xfa1e0ff3

/* Does the code there jump elsewhere at once, as a stub of a PLT does: [endbr64] [bnd] jmp *[rip + disp32], or jmp rel32? */
static __always_inline int ms_is_stub(struct walk *w, __u64 target)
{
	__u64 *code = &w->window[3];
	__u64 first;

	if (ms_read_user(w, code, 16, target))
		return 0;
	first = code[0];
	if ((__u32)first == MS_ENDBR64)
		first = first >> 32 | code[1] << 32;
	if ((first & 0xff) == 0xf2)
		first >>= 8;
	return (first & 0xffff) == 0x25ff || (first & 0xff) == 0xe9;
}

/*
 * Is w->ret where a call returns to that may have called the function of this frame? Code without frame pointers leaves that
 * of a caller further up in rbp: the call that is found there goes to another function.
 */
static __always_inline int ms_may_return_to(struct walk *w)
{
	__u64 pc = w->reg[MS_REG_RIP] - !w->exact;
	__u64 *code = &w->window[2];
	__u64 target;

	if (ms_read_user(w, code, 8, w->ret - 8))
		return 0;
	if (ms_ends_with_indirect_call((const __u8 *)code + 1))
		return 1;
	if ((*code >> 24 & 0xff) != 0xe8)		/* call rel32 */
		return 0;
	target = w->ret + (__s32)(*code >> 32);
	return (target <= pc && pc - target < MS_MAX_FUNCTION) || ms_is_stub(w, target);
}

/*
 * One frame-pointer step, where no unwind information exists. rbp may hold
 * anything, so the result must look like a frame: on the stack, not above
 * `limit`, and returning behind a call instruction that may have come here. A zero
 * ends the stack only of code that was seen to have frame pointers.
 * Returns 0 if it was made, 1 at the end of the stack, -1 if there is no such frame.
 */
static __always_inline int ms_step_by_fp(struct walk *w, __u64 limit)
{
	__u64 fp = w->reg[MS_REG_RBP];
	__u64 *pair = w->window;

	if (!(w->valid & MS_BIT(MS_REG_RBP)))
		return -1;
	if (!fp)
		return limit == MS_NO_LIMIT && w->by_fp ? ms_stop(w, MS_END_ROOT_ZERO) : -1;
	if ((fp & 7) || fp < w->reg[MS_REG_RSP] || fp > limit)
		return -1;
	if (ms_read_user(w, pair, 16, fp))
		return -1;
	w->ret = pair[1];
	w->ret_place = fp + 8;
	fp = pair[0];
	if (!w->ret)
		return limit == MS_NO_LIMIT && w->by_fp ? ms_stop(w, MS_END_ROOT_ZERO) : -1;
	if (MS_MAY_BE_TRAMPOLINE(w->ret) && ms_true_return(w))
		return -1;
	if (!ms_may_return_to(w))
		return -1;
	w->reg[MS_REG_RIP] = w->ret;
	w->reg[MS_REG_RSP] = w->ret_place + 8;
	w->reg[MS_REG_RBP] = fp;
	/* the others may have been saved anywhere */
	w->valid = MS_BIT(MS_REG_RIP) | MS_BIT(MS_REG_RSP) | MS_BIT(MS_REG_RBP);
	w->exact = 0;
	w->by_fp = 1;
	return 0;
}

#endif /* MOONSCOPE_FRAME_POINTER_H */
