/* A function that keeps its frame in the red zone below a stack pointer at the very start of a page.
 *
 * It is assembly, as sha512 of libcrypto: the stack pointer that it was called with is below the one that it has, and the
 * CFA is a DWARF expression that loads it from there. So a walk needs memory on the page below the stack pointer.
 *
 * True stack:  main; red_parent; red_zone
 */
#include "common.h"

void red_zone(unsigned long rounds);

__asm__(".pushsection .text\n"
	".globl red_zone\n"
	".type red_zone, @function\n"
	"red_zone:\n"
	"	.cfi_startproc\n"
	"	mov %rsp, %rax\n"
	"	.cfi_def_cfa_register %rax\n"
	"	and $-4096, %rsp\n"
	"	mov %rax, -8(%rsp)\n"
	/* DW_CFA_def_cfa_expression: breg7 (rsp) -8; deref; plus_uconst 8 */
	"	.cfi_escape 0x0f, 0x05, 0x77, 0x78, 0x06, 0x23, 0x08\n"
	/* or else a walk may go on without it */
	"	xor %eax, %eax\n"
	"1:	dec %rdi\n"
	"	jnz 1b\n"
	"	mov -8(%rsp), %rsp\n"
	"	.cfi_def_cfa %rsp, 8\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size red_zone, . - red_zone\n"
	".popsection\n");

KEEP void red_parent(const struct run *run)
{
	while (running(run))
		red_zone(100000);
}

int main(int argc, char **argv)
{
	struct run run = start(argc, argv);

	red_parent(&run);
	NO_TAIL_CALL();
	return finish(&run);
}
