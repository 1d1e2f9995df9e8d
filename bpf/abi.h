/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel side and the user side share: unwind tables, mappings,
 * samples, counters. Rust gets it through bindgen (crate moonscope-unwind,
 * module `abi`), so that nothing here is typed twice.
 *
 * Needs the fixed-width types __u8 ... __u64 from whoever includes it.
 */
#ifndef MOONSCOPE_ABI_H
#define MOONSCOPE_ABI_H

/* ---- registers -------------------------------------------------------- */

/* DWARF register numbers of x86-64 (psABI 3.6.2). */
enum ms_reg {
	MS_REG_RAX,
	MS_REG_RDX,
	MS_REG_RCX,
	MS_REG_RBX,
	MS_REG_RSI,
	MS_REG_RDI,
	MS_REG_RBP,
	MS_REG_RSP,
	MS_REG_R8,
	MS_REG_R9,
	MS_REG_R10,
	MS_REG_R11,
	MS_REG_R12,
	MS_REG_R13,
	MS_REG_R14,
	MS_REG_R15,
	MS_REG_RIP,
	MS_NR_REGS,
};

/* ---- unwind tables ---------------------------------------------------- */

/*
 * A table is the unwind information of one executable file. It lives in one
 * array of 32-bit words that all tables share:
 *
 *   page words   one for each 1 KiB of the file's executable address range,
 *                and one more: the index of the first row of that page,
 *                counted from the table's row 0
 *   row words    sorted by address: address in the upper half (its low 16
 *                bits, counted from ms_table.base), rule number in the lower
 *
 * The row in force at an address is the last one at or before it. All rows of
 * a page agree in the higher address bits, so the search compares plain words.
 * A page may begin in the middle of a row: the row before its first one holds.
 * Row 0 always stands at `base`, so that there is always such a row.
 */
enum {
	MS_PAGE_SHIFT = 10,
	MS_PAGE_SIZE = 1 << MS_PAGE_SHIFT,
	/* a page has one row for each byte at most, so the search ends in this */
	MS_SEARCH_STEPS = MS_PAGE_SHIFT + 1,
	/* rule numbers have 16 bits */
	MS_MAX_RULES = 1 << 16,
};

struct ms_table {
	__u64 base;	/* file virtual address of the first page, page aligned */
	__u32 nr_pages;
	__u32 pages;	/* where the page words start in the word array */
	__u32 rows;	/* where the row words start in the word array */
	__u32 nr_rows;
	__u32 state;	/* enum ms_table_state */
	__u32 unused;
};

enum ms_table_state {
	MS_TABLE_EMPTY,		/* not loaded (yet, or evicted) */
	MS_TABLE_ROWS,		/* as described above */
	MS_TABLE_NO_INFO,	/* the file has no unwind information: frame pointers */
};

/* How the canonical frame address (CFA) of a frame is found. */
enum ms_cfa {
	MS_CFA_HOLE,		/* no unwind information covers this address */
	MS_CFA_ROOT,		/* return address undefined: the outermost frame */
	MS_CFA_UNSUPPORTED,	/* a rule that this format cannot express */
	MS_CFA_REG,		/* CFA = reg + off */
	MS_CFA_DEREF,		/* CFA = *(reg + off) + add */
	MS_CFA_DEREF_INDEXED,	/* CFA = *(reg + off + 8 * index) + add */
	/* CFA = *(reg + off) + add, and registers are saved below reg + 8 instead of
	 * below the CFA: what gcc makes of a function that realigns its stack */
	MS_CFA_REALIGNED,
	MS_CFA_PLT,		/* CFA = rsp + 8 + ((rip & 15) >= off ? 8 : 0) */
	MS_CFA_SIGNAL,		/* registers lie in the ucontext at reg + off */
	MS_CFA_CLONE,		/* rax = 0: the outermost frame, of a new thread; else CFA = reg + off */
	/* LuaJIT's VM: CFA = its frame + off, where off is the size of that frame, and
	 * the frame is found through the VM's own memory (lua.h); `add` is the number
	 * of the build's ms_lua_layout */
	MS_CFA_LUA_VM,		/* bytecode handlers: a register holds the Lua base */
	MS_CFA_LUA_VM_INNER,	/* subroutines: it may hold something else */
	MS_CFA_LUA_DISPATCH,	/* the new Lua frame may not be there yet (lj_vm_call_dispatch) */
	MS_CFA_LUA_CALLBACK,	/* nor here (lj_vm_ffi_callback) */
	/* CFA = reg + off in LuaJIT's VM: no Lua frames belong to it, but */
	MS_CFA_LUA_HELPER,	/* it was called by the VM, whose registers still hold */
	MS_CFA_LUA_LEAVING,	/* rbx holds what will be lua_State.base */
};

/* Where the return address is. */
enum {
	MS_RA_AT_CFA = 0,	/* at CFA - 8 */
	MS_RA_IN_REG = 1,	/* in register number (ra - MS_RA_IN_REG) */
};

/* The callee-saved registers a rule speaks of, in the order of ms_rule.saved. */
enum ms_saved {
	MS_SAVED_RBX,
	MS_SAVED_RBP,
	MS_SAVED_R12,
	MS_SAVED_R13,
	MS_SAVED_R14,
	MS_SAVED_R15,
	MS_NR_SAVED,
};

enum {
	MS_SAVED_SAME = 0,	/* unchanged by this function */
	MS_SAVED_LOST = -1,	/* saved where this format cannot say */
	/* n > 0: saved at CFA - 8 * n (MS_CFA_REALIGNED: reg + 8 - 8 * n) */
	MS_SAVED_MAX = 127,
	/* slots up to this are fetched together with the return address */
	MS_WINDOW_WORDS = 15,
	MS_INDEX_SHIFT = 4,
};

/* 16 bytes, interned: equal rules of all files share one number. */
struct ms_rule {
	__u8 cfa;		/* enum ms_cfa */
	__u8 reg;		/* enum ms_reg */
	__u8 ra;		/* MS_RA_* */
	__u8 window;		/* words to read below the CFA, 1..MS_WINDOW_WORDS, and
				 * shifted by MS_INDEX_SHIFT the index register */
	__s32 off;
	__s16 add;
	__s8 saved[6];		/* MS_NR_SAVED of them */
};

/* The first rule numbers are fixed. */
enum {
	MS_RULE_HOLE,
	MS_RULE_ROOT,
	MS_RULE_UNSUPPORTED,
	MS_FIRST_FREE_RULE,
};

/* Offsets in the x86-64 signal frame (arch/x86/include/uapi/asm/sigcontext.h,
 * arch/x86/include/asm/sigframe.h): at a handler's return trampoline rsp points
 * at the ucontext, and its machine context starts 40 bytes in. */
enum {
	MS_UCONTEXT_REGS = 40,
	/* r8 ... r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip */
	MS_UCONTEXT_NR_REGS = 17,
};

/* ---- mappings --------------------------------------------------------- */

/* One executable mapping of a process. A process owns a sorted slice of them. */
struct ms_mapping {
	__u64 start;
	__u64 end;
	__u64 bias;		/* address in the process - address in the file */
	__u32 table;		/* index of its ms_table */
	__u32 kind;		/* enum ms_mapping_kind */
};

enum ms_mapping_kind {
	MS_MAPPING_FILE,
	MS_MAPPING_NO_TABLE,	/* a file whose table is not loaded */
	MS_MAPPING_ANON,	/* generated code: no file, no table, perhaps frame pointers */
};

enum {
	MS_MAPPING_STEPS = 17,	/* binary search over at most 64 Ki mappings */
	MS_MAX_MAPPINGS = 1 << 16,
	MS_NO_TABLE = 0xffffffff,
};

struct ms_process {
	__u32 first;		/* slice of the mapping array */
	__u32 count;
	__u64 generation;	/* of this slice; goes out with each sample */
	__u64 exec_vm;		/* mm->exec_vm when the mappings were read */
	__u32 state;		/* enum ms_process_state */
	__u32 unused;
};

enum ms_process_state {
	MS_PROCESS_NEW,		/* seen, mappings not read yet */
	MS_PROCESS_READY,
};

/* ---- Lua -------------------------------------------------------------- */

/*
 * Where one build of LuaJIT keeps what the walk needs. G is its global_State.
 * What all builds of one object model share stands in lua.h.
 */
struct ms_lua_layout {
	__u32 state;		/* enum ms_lua_layout_state */
	__u32 rule;		/* number of the rule of its VM's frames */
	__u32 g2disp;		/* from G to the dispatch table, which r14 points at */
	__u16 vmstate;		/* offsets in G */
	__u16 cur_l;
	__u16 jit_base;
	__u16 cframe_size;	/* from the VM's frame to its CFA */
	__u16 cf_l;		/* offsets in the VM's frame */
	__u16 cf_pc;
	__u16 cf_prev;
	__u16 cf_nres;
	__u32 trace;		/* offset in G of jit_State.trace; 0: not known */
	__u32 gc_total;		/* offset in G of gc.total; 0: not known */
};

enum ms_lua_layout_state {
	MS_LUA_NO_LAYOUT,
	MS_LUA_GC64,
	MS_LUA_GC32,
};

enum {
	/* builds of LuaJIT in one recording: 40 bytes each */
	MS_LUA_LAYOUTS = 64,
	/* VMs of one process that code without unwind information is matched with */
	MS_LUA_VMS = 16,
};

struct ms_lua_vm {
	__u64 g;		/* 0: only the layout is known */
	__u64 layout;
};

/* What is known of the Lua VMs of a process. */
struct ms_lua_process {
	__u32 count;
	__u32 unused;
	struct ms_lua_vm vm[MS_LUA_VMS];
};

/* ---- the walk --------------------------------------------------------- */

/* How a walk ended. Only the first three are complete stacks. */
enum ms_end {
	MS_END_NONE,		/* no user part: a kernel thread */
	MS_END_ROOT,		/* return address undefined: _start, clone, thread start */
	MS_END_ROOT_ZERO,	/* return address 0, or no unwind information and rbp 0 */
	MS_END_DEPTH,		/* --max-depth reached */
	MS_END_NEW_PROCESS,	/* mappings of the process not known yet */
	MS_END_STALE,		/* mappings changed since they were read */
	MS_END_NO_MAPPING,	/* address in no executable mapping */
	MS_END_NO_TABLE,	/* unwind table not loaded (yet) */
	MS_END_NO_ROW,		/* no unwind information there, and no frame pointer either */
	MS_END_UNSUPPORTED,	/* a rule that the row format cannot express */
	MS_END_LOST_REGISTER,	/* the rule needs a register that was not saved */
	MS_END_UNREADABLE,	/* stack memory could not be read */
	MS_END_NOT_INCREASING,	/* the stack pointer would not move towards the root */
	MS_END_COMPAT,		/* 32-bit code */
	MS_END_NO_REGISTERS,	/* user registers not available */
	MS_END_UPROBE,		/* a uprobe took the return address, and where it is kept is not known */
	MS_NR_ENDS,
};

enum {
	MS_MAX_DEPTH = 1024,	/* user frames; --max-depth cannot ask for more */
	MS_DEFAULT_DEPTH = 127,
	MS_MAX_KERNEL = 127,	/* kernel.perf_event_max_stack as shipped */
};

/*
 * A user frame is its address; user addresses have 47 (or, with five-level
 * page tables, 56) bits, so the top byte is free for what the walk knows.
 */
#define MS_FRAME_ADDR_MASK 0x00ffffffffffffffULL
#define MS_FRAME_EXACT (1ULL << 63)	/* the address itself, not a return address */
#define MS_FRAME_FP (1ULL << 62)	/* reached by a frame pointer, not by a rule */

/*
 * What Lua adds takes two words: this bit, a kind and an address in the first;
 * what the kind says in the second. Between the native frame of the VM (or of
 * compiled code) and its caller stand one MS_LUA_SEGMENT and then the Lua frames
 * that this entry into the VM runs, leaf first.
 */
#define MS_FRAME_LUA (1ULL << 61)
#define MS_FRAME_LUA_KIND_SHIFT 56

enum ms_lua_frame {
	MS_LUA_SEGMENT,		/* lua_State; G and MS_SEGMENT_* */
	MS_LUA_FUNCTION,	/* prototype; where in its bytecode: (pc - first) / 4, or MS_LUA_NO_PC,
				 * and its MS_LUA_PRINT above it */
	MS_LUA_C_FUNCTION,	/* C code; function object */
	MS_LUA_BUILTIN,		/* function object; its ffid */
	MS_LUA_BROKEN,		/* the walk of this Lua stack ends here: base; enum ms_lua_broken */
	MS_LUA_LAST_PARENT,	/* behind a coroutine and its parents: how many there were; enum ms_parent */
	MS_LUA_CLOSURE,		/* a function whose position is not known, as compiled code's: prototype; the
				 * distance of the function object from it in units of 8 bytes, signed,
				 * and MS_LUA_PRINT above it */
};

#define MS_LUA_NO_PC 0xffffffffULL

/*
 * What a prototype was when it was seen, in 32 bits: it may be freed and another
 * one stand there before it is named. From its chunkname (a reference), three words
 * of that string's header (its number, hash and length), firstline and numline; 0:
 * not known.
 */
#define MS_LUA_PRINT_SHIFT 32
#define MS_LUA_PRINT_CHUNK 0x9e3779b1U
#define MS_LUA_PRINT_LINE 0x85ebca6bU
#define MS_LUA_PRINT_LINES 0xc2b2ae35U
#define MS_LUA_PRINT_STRING0 0x27d4eb2fU
#define MS_LUA_PRINT_STRING1 0x165667b1U
#define MS_LUA_PRINT_STRING2 0xd3a2646dU
#define MS_LUA_PRINT(chunkname, string, firstline, numline)			\
	((__u32)((chunkname) >> 3) * MS_LUA_PRINT_CHUNK +			\
	 (string)[0] * MS_LUA_PRINT_STRING0 + (string)[1] * MS_LUA_PRINT_STRING1 + \
	 (string)[2] * MS_LUA_PRINT_STRING2 +					\
	 (firstline) * MS_LUA_PRINT_LINE + (numline) * MS_LUA_PRINT_LINES)

#define MS_SEGMENT_TRACE (1ULL << 63)	/* compiled code: its snapshots know inlined frames and the line */
#define MS_SEGMENT_GAP (1ULL << 62)	/* native frames before it are missing: code without unwind information */
#define MS_SEGMENT_EMPTY (1ULL << 61)	/* the VM runs a C function: no Lua frame belongs to this entry */
#define MS_SEGMENT_GUESSED (1ULL << 60)	/* the base was between two states: the first frame may be missing */
#define MS_SEGMENT_NO_STATE (1ULL << 59) /* no lua_State fits this frame of the VM: no Lua frames */
#define MS_SEGMENT_LOST (1ULL << 58)	/* an inner part of this Lua stack could not be walked */
#define MS_SEGMENT_CALL (1ULL << 57)	/* after a gap: the native frame before it is where compiled code called what it hides */
#define MS_SEGMENT_PARENT (1ULL << 56)	/* no entry into the VM: a coroutine that waits for the one before it */
#define MS_SEGMENT_G_MASK 0x00ffffffffffffffULL

enum ms_lua_broken {
	MS_LUA_BASE_OUTSIDE,	/* not between the stack's ends */
	MS_LUA_UNREADABLE,
	MS_LUA_NO_FUNCTION,	/* no function object where one must be */
	MS_LUA_BAD_LINK,	/* the link leads nowhere */
};

/* Why no more parents of a coroutine of ngx_lua are shown (lua_parents.h). */
enum ms_parent {
	MS_PARENT_FOUND,
	MS_PARENT_NONE,		/* it has none */
	MS_PARENT_NO_CONTEXT,	/* what it points at does not name it: no context of ngx_lua */
	MS_PARENT_UNPROVEN,	/* the parent does not name its context */
	MS_PARENT_RUNS,		/* the parent does not wait */
	MS_PARENT_TOO_DEEP,	/* MS_MAX_PARENTS */
};

enum {
	/* parents of parents that are followed: programs nest two or three */
	MS_MAX_PARENTS = 16,
};

/* ---- values ----------------------------------------------------------- */

enum {
	MS_MAX_EVENTS = 32,	/* in one recording */
	MS_VALUES = 4,		/* that an event has besides the count */
};

/*
 * The stack of one thread, by a hash of its words: 128 bits, seeded at random for
 * each recording, so that no program can make two of its stacks one.
 */
struct ms_stack_id {
	__u64 a;
	__u64 b;
};

/* What is summed up in the kernel: a stack is shipped once, and then only these. */
struct ms_sum_key {
	struct ms_stack_id stack;
	__u32 event;
	__u32 tag;
};

struct ms_sum {
	__u64 count;
	__u64 value[MS_VALUES];
};

/* ---- tags of events --------------------------------------------------- */

/* The cookie of a counter: the number of its event, and this. */
enum {
	MS_COUNTER_OF_KERNEL = 1 << 8,	/* the kernel counts, not the processor */
};

/* How a thread left its CPU. */
enum ms_offcpu_how {
	MS_OFFCPU_RUNNABLE,	/* it could have gone on: preempted, or woken and waiting */
	MS_OFFCPU_INTERRUPTIBLE,
	MS_OFFCPU_UNINTERRUPTIBLE,
	MS_OFFCPU_STOPPED,	/* by a signal or a debugger */
	MS_OFFCPU_DEAD,
};

/* What `offcpu` says of an interval. */
enum {
	MS_OFFCPU_CALL_MASK = 0xfff,	/* number of the system call, plus 1; 0: not known */
	MS_OFFCPU_NO_CALL = 1 << 12,	/* in no system call: a page fault, an interrupt */
	MS_OFFCPU_IOWAIT = 1 << 13,	/* task_struct.in_iowait */
	MS_OFFCPU_HOW_SHIFT = 14,	/* enum ms_offcpu_how */
	MS_OFFCPU_HOW_MASK = 7 << MS_OFFCPU_HOW_SHIFT,
	MS_OFFCPU_WOKEN = 1 << 17,	/* the second part of an interval: woken, and waiting for a CPU */
};

/* What `io` says of a call: an operation, a kind of file, and MS_IO_UNFINISHED. */
enum ms_io_op {
	MS_IO_NO_OP,
	MS_IO_READ,		/* receives too */
	MS_IO_WRITE,		/* sends too */
	MS_IO_COPY,		/* from file to file: sendfile, splice, ... */
	MS_IO_SYNC,
	MS_IO_OP_MASK = 7,
};

enum ms_io_kind {
	MS_IO_UNKNOWN,		/* no such file, or the kernel was not asked in time */
	MS_IO_FILE,
	MS_IO_TCP,
	MS_IO_UDP,
	MS_IO_UNIX,
	MS_IO_PIPE,
	MS_IO_DEVICE,
	MS_IO_OTHER,
	MS_NR_IO_KINDS,
	MS_IO_KIND_SHIFT = 3,
	MS_IO_KIND_MASK = 15 << MS_IO_KIND_SHIFT,
	MS_IO_UNFINISHED = 1 << 7,	/* it lasts: only its time so far is known */
	MS_IO_FILE_SHIFT = 8,		/* number of the file, see ms_file_event; 0: not known */
};

/* Places of the values of `io`. */
enum {
	MS_IO_BYTES,
	MS_IO_TIME,
	MS_IO_ERRORS,
	MS_IO_AGAIN,		/* nothing happened: EAGAIN, EINTR and the like */
};

/* System calls of `io`, by number: enum ms_io_op, and where the file is told. */
enum {
	MS_IO_CALLS = 512,
	MS_IO_FD_SHIFT = 3,	/* number of the argument that is the file, 0 to 2 */
	MS_IO_FD_MASK = 3 << MS_IO_FD_SHIFT,
	MS_IO_NO_FD = 3 << MS_IO_FD_SHIFT,
	MS_IO_MESSAGES = 1 << 5,	/* the result is a number of struct mmsghdr */
};

/* How `lua-loop` came to a stack. */
enum ms_loop {
	MS_LOOP_RUNNING,	/* a timer found the thread there */
	MS_LOOP_CALL,		/* the thread returns from a system call, and waited in it or before */
	MS_LOOP_END,		/* nothing else is known of the turn, which ends */
};

/* Places of the values of `lua-loop`. */
enum {
	MS_LOOP_TIME,
	MS_LOOP_TURNS,
};

/* Places of the values of `lua-alloc`. */
enum {
	MS_LUA_ALLOC_BYTES,	/* by pairs of ticks alone: to be scaled */
	MS_LUA_ALLOC_GC,	/* nanoseconds */
};

/* Tag of `lua-alloc`. */
enum {
	MS_LUA_ALLOC_VM_MASK = 0xffffff,	/* ms_lua_heap_sum.number */
	MS_LUA_ALLOC_STATE_SHIFT = 24,	/* of the collector, GCS* (lj_gc.h), plus 1; 0: it does not run */
};

/* What all ticks of a VM together say of its heap. */
struct ms_lua_heap_sum {
	__u64 total;		/* the counters at the last tick (lua_heap.h) */
	__u64 estimate;
	__u32 white;
	__u32 number;
	__s64 bytes;		/* allocated from the first tick to the last, less what was given back */
	__u64 ticks;
	__u64 turns;		/* between so many of them marking ended */
	__u64 by_pairs;		/* allocated, by pairs of ticks alone */
};

/* A coroutine: its lua_State. */
struct ms_coroutine {
	__u64 l;
	__u32 pid;
	__u32 unused;
};

/* What `lua-wait` knows of one that waits. */
struct ms_lua_wait {
	__u64 since;
	struct ms_stack_id stack;
	__u32 mode;		/* enum ms_lua_layout_state */
	__u32 unused;
};

/* Kinds of resident memory, with the kernel's numbers (MM_FILEPAGES ..., include/linux/mm_types_task.h). */
enum ms_memory {
	MS_MEMORY_FILE,
	MS_MEMORY_ANONYMOUS,
	MS_MEMORY_SWAP,		/* not resident */
	MS_MEMORY_SHARED,	/* shmem: tmpfs, memfd, shared anonymous memory */
	MS_MEMORY_KINDS,
};

/* What `probe` says of a call; and its cookie, whose higher bits these are not. */
enum {
	MS_PROBE_SPEC_MASK = 0xff,	/* number of what was asked for */
	MS_PROBE_TIMED = 1 << 8,	/* of a cookie: its return is probed too */
	MS_PROBE_TIME_SHIFT = 8,	/* of a tag: 0, or n: it took 2^(n - 1) nanoseconds, and less than twice that */
	MS_PROBE_TIME_MASK = 127 << MS_PROBE_TIME_SHIFT,
	MS_PROBE_LEFT = 1 << 15,	/* it did not return: longjmp, an exception, its thread ended */
	MS_PROBE_TOO_DEEP = 1 << 16,	/* inside of so many that its return was not awaited */
	MS_PROBE_UNFINISHED = 1 << 17,	/* it lasts: only its time so far is known */
};

/* What `block` says of a request: an operation, and the device. */
enum ms_block_op {
	MS_BLOCK_READ,
	MS_BLOCK_WRITE,
	MS_BLOCK_FLUSH,		/* of the device's cache */
	MS_BLOCK_DISCARD,
	MS_BLOCK_OTHER,
	MS_BLOCK_OP_MASK = 7,
	MS_BLOCK_MINOR_SHIFT = 3,
	MS_BLOCK_MINOR_MASK = (1 << 20) - 1,	/* MINORBITS, include/linux/kdev_t.h */
	MS_BLOCK_MAJOR_SHIFT = 23,	/* below BLKDEV_MAJOR_MAX, which is 512 (include/linux/blkdev.h) */
};

/* Places of the values of `block`. */
enum {
	MS_BLOCK_BYTES,		/* read or written */
	MS_BLOCK_TIME,		/* at the device: from when it was issued to when it was complete */
	MS_BLOCK_QUEUED,	/* before that */
	MS_BLOCK_ERRORS,
};

/* Places of the values of `readahead`: bytes. */
enum {
	MS_READAHEAD_READ,
	MS_READAHEAD_USED,
	MS_READAHEAD_EVICTED,	/* and not used */
	MS_READAHEAD_WAITING,	/* in the page cache when measuring ended, and not used */
};

/*
 * What a function that allocates is called with. The cookie of a probe at its beginning: this,
 * and shifted how many words lie between the stack pointer and the return address there.
 */
enum ms_alloc_call {
	MS_ALLOC_SIZE,		/* malloc(size) */
	MS_ALLOC_PRODUCT,	/* calloc(number, size) */
	MS_ALLOC_SECOND,	/* aligned_alloc(alignment, size) */
	MS_ALLOC_OUT,		/* posix_memalign(&address, alignment, size) */
	MS_ALLOC_RESIZE,	/* realloc(old, size) */
	MS_ALLOC_RESIZE_PRODUCT, /* reallocarray(old, number, size) */
	MS_ALLOC_CALL_MASK = 15,
	MS_ALLOC_WORDS_SHIFT = 4,
};

/* Where its result is when it is left. The cookie of a probe there. */
enum ms_alloc_exit {
	MS_ALLOC_RETURNS,	/* where functions return theirs */
	MS_ALLOC_FIRST,		/* it jumps to memset and the like, which return their first argument */
	MS_ALLOC_NOTHING,	/* it jumps to free */
	MS_ALLOC_UNKNOWN,	/* it jumps elsewhere */
};

/*
 * Places of the values of `alloc`: bytes, and objects in units of 1 / 2^MS_ALLOC_OBJECT_SHIFT, each with the
 * weight that the chance to be taken gives it.
 */
enum {
	MS_ALLOC_OBJECTS,
	MS_ALLOC_BYTES,
	MS_ALLOC_FREED_OBJECTS,
	MS_ALLOC_FREED_BYTES,
	MS_ALLOC_OBJECT_SHIFT = 16,
};

/* Tag of `alloc`. */
enum {
	MS_ALLOC_CHANGES,	/* what came and went */
	MS_ALLOC_IN_USE,	/* what is there when an interval ends: the first two of the values */
};

/*
 * x / (1 - exp(-x)) in units of 1 / 2^MS_ALLOC_WEIGHT_SHIFT, for x in steps of 1 / MS_ALLOC_STEP:
 * what an allocation of x periods that was taken stands for, in periods. Beyond the end it is x.
 */
enum {
	MS_ALLOC_STEP = 128,
	MS_ALLOC_STEPS = 4096,
	MS_ALLOC_WEIGHT_SHIFT = 24,
	MS_ALLOC_MOST_PERIOD = 1 << 30,
};

/* An address space, and an address in it. Processes that share the one share the other (vfork). */
struct ms_alloc_address {
	__u64 mm;
	__u64 address;
};

/* What is known of a block that was taken. */
struct ms_alloc_block {
	struct ms_stack_id stack;
	__u64 objects;
	__u64 bytes;
	__u32 pid;		/* of the process that allocated it */
	__u32 image;		/* and which of the programs that it executed: task_struct.self_exec_id */
};

/* A process has executed another program: what it had allocated is gone. */
struct ms_alloc_exec {
	__u64 time;		/* CLOCK_MONOTONIC, nanoseconds */
	__u32 image;		/* from then on */
	__u32 unused;
};

/* What the probes of `alloc` did on one CPU. */
struct ms_alloc_work {
	__u64 hits;		/* of probes */
	__u64 calls;		/* of functions that allocate or free */
	__u64 frees;		/* of these, those that free */
	__u64 unfollowed;	/* allocations that were taken, and when they are freed is not seen */
	__u64 abandoned;	/* calls that were left in a way that no probe sees */
	__u64 missed;		/* blocks that were given out again, so that they had been freed and no probe saw it */
	__u64 unswept;		/* programs that were executed, and there was no room to tell of it */
};

/* ---- samples and events ----------------------------------------------- */

enum {
	MS_COMM_LEN = 16,
	/* copied from the user stack when a sample must be walked in user space */
	MS_STACK_PAGE = 4096,
	MS_STACK_PAGES = 8,
	MS_STACK_BYTES = MS_STACK_PAGES * MS_STACK_PAGE,
	MS_STACK_BEGINNING = 64,	/* bytes above mm->start_stack that belong to it */
	/* a native frame of the VM comes with a segment mark */
	MS_SAMPLE_FRAMES = MS_MAX_KERNEL + 3 * MS_MAX_DEPTH,
	/* a leaf function may use so much below its stack pointer (psABI 3.2.2) */
	MS_RED_ZONE = 128,
	/* compilers and assemblers put padding in front of functions up to here (gcc, -falign-functions) */
	MS_FUNCTION_ALIGNMENT = 16,
};

/* What stands in the ring buffer; the first word of each record says which. */
enum ms_event_kind {
	MS_EVENT_SAMPLE,	/* struct ms_sample */
	MS_EVENT_FORK,		/* struct ms_event: pid has a new child process */
	MS_EVENT_EXEC,		/* struct ms_event: pid runs another program */
	MS_EVENT_EXIT,		/* struct ms_event: the last thread of pid ended */
	MS_EVENT_PAIR,		/* struct ms_pair */
	MS_EVENT_FILE,		/* struct ms_file_event: a file that tags speak of from now on */
};

/* Two stacks that were shipped are one, under an id of its own. */
struct ms_pair {
	__u32 kind;
	__u32 unused;
	__u64 time;
	struct ms_stack_id joined;
	struct ms_stack_id stack;
	struct ms_stack_id waker;	/* of whoever woke the thread; 0: not known */
};

struct ms_event {
	__u32 kind;
	__u32 pid;
	__u32 child;		/* MS_EVENT_FORK */
	__u32 wanted;		/* its samples are; MS_EVENT_FORK: the child's */
	__u64 time;
};

enum {
	/* numbers of files: what a tag has room for */
	MS_MAX_FILE = (1 << 24) - 1,
	MS_PATH_BYTES = 1024,	/* of a path, and at most one name more */
	MS_NAME_BYTES = 256,	/* NAME_MAX and a NUL (include/uapi/linux/limits.h) */
	MS_PATH_NAMES = 64,	/* names, and mounts on the way */

	MS_FILE_CUT = 1 << 0,	/* names towards the root are missing */
	MS_FILE_DELETED = 1 << 1,
};

/* Then follow its names, leaf first, each with a NUL behind it. */
struct ms_file_event {
	__u32 kind;		/* MS_EVENT_FILE */
	__u32 number;
	__u64 time;
	__u64 inode;
	__u32 device;		/* dev_t of the kernel */
	__u32 len;		/* bytes of names */
	__u32 flags;		/* MS_FILE_* */
	__u32 from_root;	/* the first name is below the root of a mount namespace; else of the file system */
};

enum {
	MS_SAMPLE_USER_MODE = 1 << 0,	/* the tick hit user code */
	MS_SAMPLE_STACK = 1 << 1,	/* registers and a copy of the stack follow the frames */
	MS_SAMPLE_COROUTINE = 1 << 4,	/* what is outside of the coroutine that C resumed is left out */
	MS_SAMPLE_TRACEPOINT = 1 << 3,	/* taken in a tracepoint, whose own frames are at the leaf */
	MS_SAMPLE_CALLED = 1 << 5,	/* taken where a function was called: its return address is `called` words up */
	MS_SAMPLE_NO_ROOM = 1 << 6,	/* the copy of its stack is shorter than it might be: the ring buffer is filling */
	MS_SAMPLE_MAPS_CHANGED = 1 << 2, /* mm->exec_vm is not what it was when the maps were read */
};

/*
 * Then follow: nr_kernel addresses leaf first, nr_user frames leaf first, and
 * with MS_SAMPLE_STACK MS_NR_REGS registers and stack_len bytes of the stack from
 * stack_start upwards.
 */
struct ms_sample {
	__u32 kind;		/* MS_EVENT_SAMPLE */
	__u32 flags;
	__u64 time;		/* CLOCK_MONOTONIC, nanoseconds */
	__u64 generation;	/* of the mappings the walk used, see ms_process */
	__u32 pid;
	__u32 tid;
	__u32 cpu;
	__u16 end;		/* enum ms_end */
	__u16 nr_kernel;
	__u16 nr_user;		/* words, see MS_FRAME_LUA */
	__u16 event;		/* number of the event in this recording */
	__u32 stack_len;
	char comm[MS_COMM_LEN];
	__u64 stack_start;	/* address of the first byte of the stack copy */
	__u64 exec_vm;		/* mm->exec_vm at the tick */
	/* of the innermost Lua VM on this stack, if there is one */
	__s32 lua_vmstate;	/* global_State.vmstate: a trace, or ~LJ_VMST_* (lj_obj.h) */
	__u32 lua;		/* enum ms_lua_here */
	struct ms_stack_id stack; /* not 0: its values come later, under this id */
	struct ms_sum sum;	/* else they are here */
	__u32 tag;		/* what the event says of it besides values */
	__u32 called;		/* MS_SAMPLE_CALLED: words between the stack pointer and the return address */
};

/* Is there a Lua VM on the stack of a sample? */
enum ms_lua_here {
	MS_LUA_NOT_HERE,
	MS_LUA_HERE,
	MS_LUA_ON_TRACE,	/* in compiled code, or in what that called */
};

/* ---- counters --------------------------------------------------------- */

/* Whatever happens to an event counts MS_COUNT_FIRED and exactly one of the others. */
enum ms_count {
	MS_COUNT_FIRED,
	MS_COUNT_IDLE,		/* the CPU had nothing to run */
	MS_COUNT_FILTERED,	/* not a wanted task */
	MS_COUNT_UNWANTED,	/* of a wanted task, but not what was asked for: too short, say */
	MS_COUNT_SENT,		/* in the ring buffer with its values */
	MS_COUNT_SUMMED,	/* added to the values of a stack that was sent */
	MS_COUNT_LOST_RING,	/* the ring buffer was full */
	MS_COUNT_LOST_CPU,	/* CPU number beyond those known at the start */
	MS_COUNT_LOST_BUSY,	/* it came while a stack of the same CPU was being taken */
	MS_COUNT_LOST_MAP,	/* no room to remember when it began */
	MS_COUNT_LOST_END,	/* its end was not seen */
	MS_NR_COUNTS,
};

/* Of one CPU; cache lines of its own. */
struct ms_counters {
	__u64 count[MS_MAX_EVENTS][16];	/* MS_NR_COUNTS of them */
};

/* In place of the time since when: a command that was made for the recording, and does not run its program yet. */
#define MS_TARGET_AFTER_EXEC (1ULL << 63)

/* Which tasks are wanted. */
enum ms_scope {
	MS_SCOPE_ALL,
	MS_SCOPE_PIDS,		/* those in the map `targets`, and their later children */
	MS_SCOPE_CGROUP,	/* below one cgroup of the unified hierarchy, or in `targets` */
};

#endif /* MOONSCOPE_ABI_H */
