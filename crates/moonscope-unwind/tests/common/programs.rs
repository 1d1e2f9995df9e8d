//! C programs with stacks worth walking. Each prints "ready" and then runs until it is killed.

/// Calls nested through functions of many shapes, for ever.
pub const SHAPES: &str = r#"
#include <alloca.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define NOINLINE __attribute__((noinline, noipa))

static volatile uint64_t sink;

NOINLINE uint64_t leaf(uint64_t n)
{
	for (int i = 0; i < 50; i++)
		n = n * 6364136223846793005u + sink;
	return n;
}

/* a frame with a size known only at run time */
NOINLINE uint64_t with_alloca(uint64_t n)
{
	char *p = alloca(16 + n % 4096);
	memset(p, (int)n, 16);
	return leaf(n) + p[3];
}

/* a realigned stack: -mstackrealign and a 64-byte variable */
NOINLINE uint64_t realigned(uint64_t n, ...)
{
	_Alignas(64) volatile uint64_t wide[8] = { n };
	va_list ap;
	va_start(ap, n);
	uint64_t r = with_alloca(n) + wide[n % 8] + va_arg(ap, uint64_t);
	va_end(ap);
	return r;
}

/* all callee-saved registers in use */
NOINLINE uint64_t busy(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g)
{
	uint64_t r = realigned(a, b) + realigned(b, c) + realigned(c, d);
	return r + a * b + c * d + e * f + g + leaf(a ^ g);
}

NOINLINE uint64_t recurse(uint64_t n)
{
	uint64_t r = n ? recurse(n - 1) * 3 : busy(1, 2, 3, 4, 5, 6, 7);
	return r + leaf(n);
}

static NOINLINE int compare(const void *a, const void *b)
{
	uint64_t x = leaf(*(const uint32_t *)a), y = leaf(*(const uint32_t *)b);
	return x < y ? -1 : x > y;
}

/* through the C library and back */
NOINLINE uint64_t sorted(void)
{
	uint32_t numbers[64];
	for (int i = 0; i < 64; i++)
		numbers[i] = rand();
	qsort(numbers, 64, sizeof(numbers[0]), compare);
	return numbers[7];
}

NOINLINE void work(void)
{
	for (;;) {
		sink += recurse(20);
		sink += sorted();
	}
}
"#;

pub const MAIN: &str = r#"
int main(void)
{
	puts("ready");
	fflush(stdout);
	work();
}
"#;

/// Every frame between `main` and the leaf realigns its stack, in functions that keep all their registers busy.
pub const REALIGNED: &str = r#"
NOINLINE uint64_t aligned(uint64_t depth, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
	_Alignas(64) volatile uint64_t wide[8] = { a, b };
	char *p = alloca(16 + a % 512);
	memset(p, (int)b, 16);
	uint64_t r = depth ? aligned(depth - 1, a + 1, b ^ c, c * 3, d + a, e - b, f) : sorted() + leaf(a);
	return leaf(r) + wide[depth % 8] + a * b + c * d + e * f + p[3];
}

int main(void)
{
	puts("ready");
	fflush(stdout);
	for (;;)
		sink += aligned(12, 1, 2, 3, 4, 5, 6);
}
"#;

/// Works in signal handlers only: on the normal stack, and nested.
pub const SIGNALS: &str = r#"
#include <signal.h>
#include <unistd.h>
static void inner(int sig) { for (int i = 0; i < 300; i++) sink += recurse(3); }
static void outer(int sig) { sink += leaf(1); raise(SIGUSR2); sink += sorted(); }
int main(void)
{
	signal(SIGUSR1, outer);
	signal(SIGUSR2, inner);
	puts("ready");
	fflush(stdout);
	for (;;)
		kill(getpid(), SIGUSR1);
}
"#;

pub const THREADS: &str = r#"
#include <pthread.h>
static void *run(void *unused) { work(); return unused; }
int main(void)
{
	pthread_t thread;
	for (int i = 0; i < 3; i++)
		pthread_create(&thread, 0, run, 0);
	puts("ready");
	fflush(stdout);
	pthread_join(thread, 0);
}
"#;

/// Threads that sort, format and look up; generic code, closures and drops.
pub const RUST: &str = r#"
use std::collections::HashMap;
use std::hint::black_box;

fn depth(n: u32, texts: &mut Vec<String>) -> usize {
    if n > 0 {
        return depth(n - 1, texts) + black_box(n as usize);
    }
    texts.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    let map: HashMap<String, usize> = texts.iter().enumerate().map(|(i, t)| (format!("{t}{i}"), i)).collect();
    map.values().sum()
}

fn work() {
    loop {
        let mut texts: Vec<String> = (0..2_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_string()).collect();
        black_box(depth(10, &mut texts));
    }
}

fn main() {
    std::thread::spawn(work);
    std::thread::spawn(work);
    println!("ready");
    work();
}
"#;

/// Virtual calls, exceptions and the standard library.
pub const CPP: &str = r#"
#include <cstdio>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>
#include <algorithm>

struct Node {
	virtual ~Node() = default;
	virtual long visit(int depth) = 0;
};
struct Leaf : Node {
	long visit(int depth) override
	{
		std::ostringstream text;
		text << "leaf " << depth << ' ' << 1.5 * depth;
		if (depth % 3 == 0)
			throw std::runtime_error(text.str());
		return text.str().size();
	}
};
struct Branch : Node {
	std::unique_ptr<Node> next;
	explicit Branch(std::unique_ptr<Node> n) : next(std::move(n)) {}
	long visit(int depth) override
	{
		try {
			return next->visit(depth + 1) + 1;
		} catch (const std::runtime_error &e) {
			std::map<std::string, int> words;
			for (int i = 0; i < 30; i++)
				words[e.what() + std::to_string(i)]++;
			return words.size();
		}
	}
};

int main()
{
	std::unique_ptr<Node> tree = std::make_unique<Leaf>();
	for (int i = 0; i < 12; i++)
		tree = std::make_unique<Branch>(std::move(tree));
	std::puts("ready");
	std::fflush(stdout);
	volatile long sink = 0;
	for (int i = 0;; i++)
		sink = sink + tree->visit(i);
}
"#;

/// Runs on a stack of its own, that is begun and ended as Boost.Context does (make_x86_64_sysv_elf_gas.S).
pub const COROUTINE: &str = r#"
void on_stack(void *top, void (*first)(void));
asm(".text\n"
    ".type on_stack, @function\n"
    "on_stack:\n"
    "	leaq -64(%rdi), %rsp\n"
    "	leaq finish(%rip), %rbp\n"
    "	movq %rsi, %rbx\n"
    "	push %rbp\n"
    "	jmp *%rbx\n"
    "finish:\n"
    "	xorq %rdi, %rdi\n"
    "	call _exit@PLT\n"
    "	hlt\n"
    ".size on_stack, . - on_stack\n");

static NOINLINE void first(void)
{
	puts("ready");
	fflush(stdout);
	for (;;)
		sink += recurse(5);
}

int main(void)
{
	static char stack[1 << 18] __attribute__((aligned(64)));
	on_stack(stack + sizeof(stack), first);
}
"#;
