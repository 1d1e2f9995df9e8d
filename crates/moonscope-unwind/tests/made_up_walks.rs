//! Walks on stacks that are made up, for moments at which a real program cannot be stopped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use moonscope_unwind::walk_host::{Maps, host_walk};
use moonscope_unwind::{
    ModuleAt, Modules, Registers, RuleSet, StackCopy, Table, UnwindData, Walk, WalkEnd, WalkFrame, abi, walk,
};

const LIBC: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";

/// libc alone, where its file says, and a page of generated code.
struct Libc {
    data: UnwindData,
    table: Table,
    rules: RuleSet,
}

const GENERATED: std::ops::Range<u64> = 0x7000_0000..0x7000_1000;

impl Libc {
    fn load() -> Libc {
        let bytes = std::fs::read(LIBC).unwrap();
        let mut rules = RuleSet::new();
        let table = Table::build(&bytes, &mut rules).unwrap().unwrap();
        Libc {
            data: UnwindData::new(bytes).unwrap(),
            table,
            rules,
        }
    }

    /// The first address whose rule is of this kind.
    fn first(&self, wanted: impl Fn(&abi::ms_rule) -> bool) -> u64 {
        let mut rows = self.table.iter_rows();
        rows.find(|&(_, number)| wanted(self.rules.get(number).unwrap()))
            .unwrap()
            .0
    }

    /// A function that has its return address on top of the stack when it starts.
    fn function(&self) -> u64 {
        let mut starts = self
            .table
            .functions()
            .filter(|f| f.end - f.start > 64)
            .map(|f| f.start);
        let plain = |&start: &u64| {
            let rule = self.rules.get(self.table.rule_at(start)).unwrap();
            (u32::from(rule.cfa), u32::from(rule.reg), rule.off) == (abi::MS_CFA_REG, abi::MS_REG_RSP, 8)
        };
        starts.find(plain).unwrap()
    }

    fn root(&self) -> u64 {
        self.first(|rule| u32::from(rule.cfa) == abi::MS_CFA_ROOT)
    }
}

impl Modules for Libc {
    fn find(&self, address: u64) -> Option<ModuleAt<'_>> {
        if GENERATED.contains(&address) {
            return Some(ModuleAt::Anonymous);
        }
        self.data.code_at(address, 1).map(|_| ModuleAt::File {
            bias: 0,
            data: &self.data,
        })
    }
}

const SP: u64 = 0x7fff_0000_0000;

fn registers(rip: u64, others: &[(u32, u64)]) -> Registers {
    let mut registers = Registers::new([0; abi::MS_NR_REGS as usize]);
    registers.set(abi::MS_REG_RIP as usize, Some(rip));
    registers.set(abi::MS_REG_RSP as usize, Some(SP));
    for &(register, value) in others {
        registers.set(register as usize, Some(value));
    }
    registers
}

fn walk_words(libc: &Libc, registers: Registers, words: &[u64]) -> (Vec<(u64, bool, bool)>, WalkEnd) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let result = walk(
        libc,
        registers,
        &StackCopy {
            sp: SP,
            bytes: &bytes,
        },
        10,
    );
    let frame = |frame: &WalkFrame| (frame.addr, frame.exact, frame.fp);
    (result.frames.iter().map(frame).collect(), result.end)
}

#[test]
fn vfork_keeps_its_return_address_in_a_register() {
    let libc = Libc::load();
    let vfork = libc.first(|rule| rule.ra == (abi::MS_RA_IN_REG + abi::MS_REG_RDI) as u8 && rule.off == 0);
    let back = libc.root() + 1;
    let (frames, end) = walk_words(&libc, registers(vfork, &[(abi::MS_REG_RDI, back)]), &[0; 4]);
    assert_eq!(frames, [(vfork, true, false), (back, false, false)]);
    assert_eq!(end, WalkEnd::Root);
}

#[test]
fn behind_the_call_of_clone_rax_tells_whose_stack_it_is() {
    let libc = Libc::load();
    let gap = libc.first(|rule| u32::from(rule.cfa) == abi::MS_CFA_CLONE);
    let back = libc.root() + 1;
    let stack = [back, 0, 0, 0];
    for at in [0, 2, 5, 7, 9].map(|offset| gap + offset) {
        // the number of the call, what the kernel has there during the call, and what it returns
        for result in [435, -i64::from(libc::ENOSYS), 4321, -i64::from(libc::EAGAIN)] {
            let old = registers(at, &[(abi::MS_REG_RAX, result as u64)]);
            let (frames, end) = walk_words(&libc, old, &stack);
            assert_eq!(frames, [(at, true, false), (back, false, false)]);
            assert_eq!(end, WalkEnd::Root);
        }
        // whatever is on its new stack
        let (frames, end) = walk_words(&libc, registers(at, &[(abi::MS_REG_RAX, 0)]), &stack);
        assert_eq!((frames, end), (vec![(at, true, false)], WalkEnd::Root));
    }
    // nothing is known of rax, or it is another function's
    let mut unknown = registers(gap + 2, &[]);
    unknown.set(abi::MS_REG_RAX as usize, None);
    assert_eq!(walk_words(&libc, unknown, &stack).1, WalkEnd::LostRegister);
    let function = libc.function();
    let (frames, end) = walk_words(&libc, registers(function, &[]), &[gap + 2, back]);
    assert_eq!((frames.len(), end), (2, WalkEnd::LostRegister));
}

#[test]
fn a_signal_frame_gives_all_registers_back() {
    let libc = Libc::load();
    let trampoline = libc.first(|rule| u32::from(rule.cfa) == abi::MS_CFA_SIGNAL) + 1;
    let interrupted = libc.root();
    // a handler without a frame of its own (a function at its first byte), then the ucontext
    let handler = libc.function();
    let mut words = vec![trampoline];
    words.resize(1 + 5 + 17, 0);
    words[1 + 5 + 15] = SP + 4096; // rsp
    words[1 + 5 + 16] = interrupted; // rip
    let (frames, end) = walk_words(&libc, registers(handler, &[]), &words);
    // the interrupted address is exact: its row is looked up there, not one byte lower
    assert_eq!(
        frames,
        [
            (handler, true, false),
            (trampoline, false, false),
            (interrupted, true, false)
        ]
    );
    assert_eq!(end, WalkEnd::Root);
    words.truncate(1 + 5 + 16);
    let (frames, end) = walk_words(&libc, registers(handler, &[]), &words);
    assert_eq!((frames.len(), end), (2, WalkEnd::Unreadable));
}

#[test]
fn generated_code_is_followed_by_frame_pointer_only_where_it_looks_like_one() {
    let libc = Libc::load();
    let code = GENERATED.start + 16;
    let back = libc.root() + 1;
    let go = |rbp: u64, words: &[u64]| {
        let (frames, end) = walk_words(&libc, registers(code, &[(abi::MS_REG_RBP, rbp)]), words);
        (frames.len(), end)
    };
    assert_eq!(go(0, &[]), (1, WalkEnd::NoRow)); // nothing says that this code has frame pointers
    assert_eq!(go(SP - 8, &[0; 8]), (1, WalkEnd::NoRow)); // below the stack pointer
    assert_eq!(go(SP + 4, &[0; 8]), (1, WalkEnd::NoRow)); // not aligned
    assert_eq!(go(SP + 8, &[0, 0, 0x1234, 0]), (1, WalkEnd::NoRow)); // returns to no code
    assert_eq!(go(SP + 8, &[0, 0, 0]), (1, WalkEnd::NoRow));
    assert_eq!(go(SP + 64, &[0; 4]), (1, WalkEnd::NoRow)); // not in the copy
    // returns into libc, but behind no call
    assert_eq!(go(SP + 8, &[0, 0, back, 0]), (1, WalkEnd::NoRow));
    // other generated code, whose bytes are not known
    assert_eq!(
        go(SP, &[SP + 16, GENERATED.start + 80, 0, 0]),
        (2, WalkEnd::RootZero)
    );
}

#[test]
fn a_return_address_in_no_mapping_is_no_frame() {
    let libc = Libc::load();
    let function = libc.function();
    let (frames, end) = walk_words(&libc, registers(function, &[]), &[0xdead_beef]);
    assert_eq!((frames.len(), end), (1, WalkEnd::NoMapping));
    let (frames, end) = walk_words(&libc, registers(0x10, &[]), &[]);
    assert_eq!((frames, end), (vec![(0x10, true, false)], WalkEnd::NoMapping));
}

#[test]
fn a_walk_stops_at_the_depth_limit() {
    let libc = Libc::load();
    let function = libc.function();
    let words = vec![function + 1; 100];
    let (frames, end) = walk_words(&libc, registers(function, &[]), &words);
    assert_eq!((frames.len(), end), (10, WalkEnd::Depth));
}

/// Two pages of code with one rule each, walked as the kernel does; and where the stack was read, bytes from its start.
fn host_walk_by(
    rules: [abi::ms_rule; 2],
    registers: &Registers,
    words: &[u64],
) -> (Walk, Vec<std::ops::Range<usize>>) {
    let mut set = RuleSet::new();
    let mut maps = Maps::default();
    for (n, rule) in rules.into_iter().enumerate() {
        let base = (n as u64 + 1) * u64::from(abi::MS_PAGE_SIZE);
        let pages = maps.words.len() as u32;
        maps.words.extend([0, 1, u32::from(set.intern(rule))]);
        maps.tables.push(abi::ms_table {
            base,
            nr_pages: 1,
            pages,
            rows: pages + 2,
            nr_rows: 1,
            state: abi::MS_TABLE_ROWS,
            unused: 0,
        });
        maps.mappings.push(abi::ms_mapping {
            start: base,
            end: base + u64::from(abi::MS_PAGE_SIZE),
            bias: 0,
            table: n as u32,
            kind: abi::MS_MAPPING_FILE,
        });
    }
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut reads = Vec::new();
    let walk = host_walk(&maps, &set, registers, 10, |address, into| {
        let range = address
            .checked_sub(SP)
            .map(|at| at as usize..at as usize + into.len());
        let Some((range, from)) = range.and_then(|range| Some((range.clone(), bytes.get(range)?))) else {
            return false;
        };
        into.copy_from_slice(from);
        reads.push(range);
        true
    });
    (walk, reads)
}

#[test]
fn registers_far_below_a_realigned_frame_pointer_are_found_from_there() {
    let frame_pointer = SP + 8 * 24;
    let mut words = [0; 40];
    words[24 - 2] = SP + 8 * 36; // the CFA, at rbp - 16
    words[24 - 19] = SP + 8 * 30; // rbx, too far below for the window
    words[35] = 0x804; // return addresses, below the CFA of each frame
    words[38] = 0;
    let realigned = abi::ms_rule {
        cfa: abi::MS_CFA_REALIGNED as u8,
        reg: abi::MS_REG_RBP as u8,
        off: -16,
        window: 1,
        saved: [20, 1, 0, 0, 0, 0],
        ..Default::default()
    };
    let by_rbx = abi::ms_rule {
        cfa: abi::MS_CFA_REG as u8,
        reg: abi::MS_REG_RBX as u8,
        off: 8 * 9,
        window: 1,
        ..Default::default()
    };
    let registers = registers(0x404, &[(abi::MS_REG_RBP, frame_pointer)]);
    let (walk, _) = host_walk_by([realigned, by_rbx], &registers, &words);
    let addresses: Vec<u64> = walk.frames.iter().map(|frame| frame.addr).collect();
    assert_eq!((addresses, walk.end), (vec![0x404, 0x804], WalkEnd::RootZero));
}

#[test]
fn callers_whose_frames_lie_side_by_side_are_read_at_once_and_never_past_the_page_of_the_stack() {
    const PAGE: usize = 4096 / 8;
    let frame = |words: i32| abi::ms_rule {
        cfa: abi::MS_CFA_REG as u8,
        reg: abi::MS_REG_RSP as u8,
        off: 8 * words,
        window: 2,
        saved: [2, 0, 0, 0, 0, 0], // rbx below the return address
        ..Default::default()
    };
    // seven frames of 5 words, the fourth of which lies on both sides of the border, and a last one of 7 words
    let mut words = vec![0xbad; 2 * PAGE];
    let first = PAGE - 19;
    for n in 1..=7 {
        words[first + 5 * n - 2] = n as u64;
        words[first + 5 * n - 1] = if n == 7 { 0x804 } else { 0x404 };
    }
    words[first + 35 + 7 - 2] = 8;
    words[first + 35 + 7 - 1] = 0;
    let start = registers(0x404, &[(abi::MS_REG_RSP, SP + 8 * first as u64)]);
    let (walk, reads) = host_walk_by([frame(5), frame(7)], &start, &words);
    let addresses: Vec<u64> = walk.frames.iter().map(|frame| frame.addr).collect();
    assert_eq!(
        addresses,
        [0x404, 0x404, 0x404, 0x404, 0x404, 0x404, 0x404, 0x804]
    );
    assert_eq!(walk.end, WalkEnd::RootZero);
    // up to the border, the two words of the frame on it, and the rest
    let border = 8 * PAGE;
    let wanted = [
        8 * (first + 3)..border,
        border - 8..border + 8,
        border + 32..border + 32 + 8 * 64,
    ];
    assert_eq!(reads, wanted);
    // a stack of which nothing is left behind the frame that is read
    let (walk, _) = host_walk_by([frame(5), frame(7)], &start, &words[..first + 35 + 7]);
    assert_eq!((walk.frames.len(), walk.end), (8, WalkEnd::RootZero));
}
