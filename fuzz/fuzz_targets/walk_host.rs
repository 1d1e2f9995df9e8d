//! `bpf/walk.h` on the host: on the table of any file, and on tables, rules and mappings that nobody built, it
//! ends within the depth and asks for no more memory at once than its buffer holds. On files whose functions do
//! not overlap it finds the frames that the user-space walker finds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moonscope_unwind::walk_host::{Maps, host_walk};
use moonscope_unwind::{Registers, RuleSet, StackCopy, Table, UnwindData, Walk, WalkEnd, abi, walk};

mod inputs;

use inputs::elf::CODE;

const DEPTH: u32 = 64;

const RIP: usize = abi::MS_REG_RIP as usize;

/// The longest read: the registers of a signal frame.
const LONGEST: usize = 8 * abi::MS_UCONTEXT_NR_REGS as usize;

fuzz_target!(|content: &[u8]| {
    let mut input = inputs::Bytes(content);
    let (registers, stack) = (input.registers(), input.stack());
    if input.byte() % 2 == 0 {
        let (maps, rules) = garbage(&mut input);
        walk_in_kernel(&maps, &rules, &registers, &stack);
        return;
    }
    let plain = input.byte() % 4 != 0;
    let file = if plain { input.plain_elf() } else { input.elf() };
    let mut rules = RuleSet::new();
    let (Ok(Some(table)), Ok(data)) = (Table::build(&file, &mut rules), UnwindData::new(file.clone())) else {
        return;
    };
    let kernel = walk_in_kernel(&maps_of(&table), &rules, &registers, &stack);
    let stack = StackCopy {
        sp: inputs::STACK,
        bytes: &stack,
    };
    let user = walk(&inputs::OneFile(&data), registers, &stack, DEPTH as usize);
    assert_ends(&user);
    // a file whose functions overlap says two things of one address, and the walkers need not choose the same
    let is_user_address = registers
        .get(RIP)
        .is_some_and(|rip| rip <= abi::MS_FRAME_ADDR_MASK);
    if plain && is_user_address {
        assert_agree(&kernel, &user);
    }
});

/// Neither walk has a frame that the other contradicts, and each ends early only for what it cannot know.
fn assert_agree(kernel: &Walk, user: &Walk) {
    use WalkEnd::{LostRegister, NoRow, Unreadable, Unsupported};
    // registers that no rule can express are lost, also for a step by frame pointer; one that cannot be read
    // ends the walk at once
    let kernel_early = user.frames.starts_with(&kernel.frames)
        && matches!(kernel.end, LostRegister | NoRow | Unreadable | Unsupported);
    // gimli refuses a whole function for one bad instruction, and a stack that lies in the code can be read
    // by the other walker only
    let user_early = kernel.frames.starts_with(&user.frames)
        && matches!(user.end, LostRegister | Unreadable | Unsupported);
    assert!(
        kernel == user || kernel_early || user_early,
        "kernel: {kernel:x?}\nuser: {user:x?}"
    );
}

fn walk_in_kernel(maps: &Maps, rules: &RuleSet, registers: &Registers, stack: &[u8]) -> Walk {
    let walk = host_walk(maps, rules, registers, DEPTH, |address, into| {
        assert!(into.len() <= LONGEST);
        let at = address
            .checked_sub(inputs::STACK)
            .and_then(|at| stack.get(usize::try_from(at).ok()?..));
        match at.and_then(|bytes| bytes.get(..into.len())) {
            Some(bytes) => into.copy_from_slice(bytes),
            None if (CODE..CODE + 4096).contains(&address) => into.fill(inputs::CALL),
            None => return false,
        }
        true
    });
    assert_ends(&walk);
    walk
}

fn assert_ends(walk: &Walk) {
    assert!(walk.frames.len() <= DEPTH as usize && walk.end != WalkEnd::None);
}

/// The table where its file wants to be, up to the generated code.
fn maps_of(table: &Table) -> Maps {
    let mut maps = Maps::default();
    let index = maps.add_table(Some(table));
    let mapping = |start, end, table, kind| abi::ms_mapping {
        start,
        end,
        bias: 0,
        table,
        kind,
    };
    let generated = inputs::GENERATED;
    let start = CODE;
    maps.mappings = vec![
        mapping(start, generated.start, index, abi::MS_MAPPING_FILE),
        mapping(
            generated.start,
            generated.end,
            abi::MS_NO_TABLE,
            abi::MS_MAPPING_ANON,
        ),
    ];
    maps
}

/// What damaged memory of the kernel side would hold. As in the kernel, no array is empty.
fn garbage(input: &mut inputs::Bytes<'_>) -> (Maps, RuleSet) {
    let mut rules = RuleSet::new();
    for _ in 0..=input.byte() % 16 {
        rules.intern(abi::ms_rule {
            cfa: input.byte() % 10,
            reg: input.byte(),
            ra: input.byte() % 20,
            window: input.byte(),
            off: i32::from(input.half() as i16),
            add: input.half() as i16,
            saved: std::array::from_fn(|_| input.byte() as i8),
        });
    }
    let mut maps = Maps::default();
    for _ in 0..=input.byte() % 4 {
        maps.tables.push(abi::ms_table {
            base: CODE & !0x3ff,
            nr_pages: u32::from(input.byte()),
            pages: u32::from(input.byte()),
            rows: u32::from(input.half()),
            nr_rows: u32::from(input.half()),
            state: u32::from(input.byte() % 4),
            unused: 0,
        });
        let start = input.address();
        maps.mappings.push(abi::ms_mapping {
            start,
            end: start.wrapping_add(input.half().into()),
            bias: input.half().into(),
            table: u32::from(input.byte() % 8),
            kind: u32::from(input.byte() % 4),
        });
    }
    maps.words.push(0);
    while !input.0.is_empty() {
        maps.words.push(input.word() & 0xffff_001f);
    }
    (maps, rules)
}
