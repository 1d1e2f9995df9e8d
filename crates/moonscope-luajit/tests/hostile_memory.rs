//! Memory that a hostile or a busy process may show: nothing panics, loops or takes memory without limit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use moonscope_luajit::chunk::short_source;
use moonscope_luajit::{
    Builtins, Chunk, GcMode, LuaNames, Prototype, PrototypeError, PrototypeIdentity, StrLayout,
    call_site_name, globals,
};
use moonscope_process::{BufferMemory, ProcessError, RemoteMemory};
use proptest::prelude::*;

/// Where the made-up heap lies.
const HEAP: u64 = 0x10_0000;

/// A heap in which one prototype stands, with bytecode, lines and a chunk name.
fn heap(mode: GcMode, code: &[u32], lines: &[u8], names: &[u8]) -> Vec<u8> {
    let fields = mode.fields();
    let strings = StrLayout::with_sid(mode);
    let (name_at, size) = (0x8000, 0x9000);
    let mut bytes = vec![0; size];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    let reference = |value: u64| value.to_ne_bytes()[..fields.ref_size.into()].to_vec();
    let lines_at = usize::from(fields.pt_size) + 4 * code.len();
    let names_at = lines_at + lines.len();
    put(fields.gct.into(), &[7]);
    put(fields.pt_sizebc.into(), &(code.len() as u32).to_ne_bytes());
    put(
        fields.pt_sizept.into(),
        &((names_at + names.len()) as u32).to_ne_bytes(),
    );
    put(fields.pt_chunkname.into(), &reference(HEAP + name_at as u64));
    put(fields.pt_firstline.into(), &10u32.to_ne_bytes());
    put(fields.pt_numline.into(), &5u32.to_ne_bytes());
    put(fields.pt_lineinfo.into(), &reference(HEAP + lines_at as u64));
    put(fields.pt_varinfo.into(), &reference(HEAP + names_at as u64));
    for (index, ins) in code.iter().enumerate() {
        put(usize::from(fields.pt_size) + 4 * index, &ins.to_ne_bytes());
    }
    put(lines_at, lines);
    put(names_at, names);
    put(name_at + usize::from(fields.gct), &[4]);
    let (len_at, text_at) = match mode {
        GcMode::Gc64 => (0x14, 0x18),
        GcMode::Gc32 => (0x10, 0x14),
    };
    put(name_at + len_at, &7u32.to_ne_bytes());
    put(name_at + text_at, b"@/a.lua\0");
    assert_eq!(
        strings
            .length(
                &BufferMemory::new().with(HEAP, bytes.clone()),
                HEAP + name_at as u64
            )
            .unwrap(),
        7
    );
    bytes
}

fn read(mode: GcMode, memory: &impl RemoteMemory) -> Result<Prototype, PrototypeError> {
    Prototype::read(memory, mode, &StrLayout::with_sid(mode), HEAP)
}

/// Everything that can be asked of what stands at the beginning of the heap.
fn ask_everything(mode: GcMode, memory: &impl RemoteMemory) {
    let strings = StrLayout::with_sid(mode);
    _ = PrototypeIdentity::read(memory, mode, HEAP);
    _ = StrLayout::of_thread(memory, mode, HEAP);
    _ = StrLayout::find(memory, mode, HEAP..HEAP + 1000);
    let tables = globals::of_thread(memory, mode, HEAP).unwrap_or_default();
    _ = Builtins::read(memory, mode, &strings, &tables);
    if let Ok(prototype) = read(mode, memory) {
        let mut names = LuaNames::without_sources();
        _ = names.name_of(&prototype).display(Some(3)).to_string();
        for position in [0, 1, 2, 3, 50, prototype.identity.sizebc, u32::MAX] {
            _ = prototype.line_of(memory, position);
            _ = call_site_name(memory, &strings, &prototype, position);
        }
    }
}

#[test]
fn lines_are_counted_from_the_first_as_lj_debug_line_does() {
    for mode in [GcMode::Gc64, GcMode::Gc32] {
        let memory = BufferMemory::new().with(HEAP, heap(mode, &[89, 1, 2, 3], &[1, 1, 4], &[0]));
        let prototype = read(mode, &memory).unwrap();
        let lines = [0, 1, 2, 3, 4, 5].map(|position| prototype.line_of(&memory, position).unwrap());
        assert_eq!(lines, [Some(10), Some(11), Some(11), Some(14), Some(15), None]);
        assert_eq!(
            prototype.position_of(prototype.bytecode()),
            None,
            "nothing was executed yet"
        );
        assert_eq!(prototype.position_of(prototype.bytecode() + 4), Some(0));
        assert_eq!(prototype.position_of(prototype.bytecode() + 20), Some(4));
        assert_eq!(prototype.position_of(prototype.bytecode() + 24), None);
        assert_eq!(prototype.position_of(prototype.bytecode() + 6), None);
        assert_eq!(prototype.position_of(0), None);
    }
}

#[test]
fn a_name_that_was_freed_before_its_prototype_is_not_believed() {
    for (mode, text_at) in [(GcMode::Gc64, 0x18), (GcMode::Gc32, 0x14)] {
        let mut bytes = heap(mode, &[89, 1, 2, 3], &[1, 1, 4], &[0]);
        let text = 0x8000 + text_at;
        assert_eq!(&bytes[text..text + 8], b"@/a.lua\0");
        // the size of the free chunk, where the text ended
        bytes[text + 5..text + 7].copy_from_slice(&[0xf0, 0]);
        let memory = BufferMemory::new().with(HEAP, bytes);
        let error = read(mode, &memory).unwrap_err();
        assert!(matches!(error, PrototypeError::Replaced { .. }), "{error}");
    }
}

#[test]
fn a_prototype_whose_parts_lie_outside_of_it_is_refused() {
    let mode = GcMode::Gc64;
    let fields = mode.fields();
    for (at, value) in [
        (fields.pt_lineinfo, HEAP - 8),
        (fields.pt_lineinfo, HEAP + 0x4000),
        (fields.pt_lineinfo, HEAP + 4),
        (fields.pt_lineinfo, u64::MAX),
        (fields.pt_varinfo, 1),
        (fields.pt_sizebc, 0),
        (fields.pt_sizebc, 0xffff_ffff),
        (fields.pt_sizept, 1),
        (fields.pt_sizept, 0xffff_ffff),
        (fields.pt_sizekgc, 0x1000_0000),
        (fields.pt_numline, 0xffff_fff0),
        (fields.pt_numline, 70_000),
    ] {
        let mut bytes = heap(mode, &[89, 1, 2, 3], &[1, 1, 4], &[0]);
        let width = if [fields.pt_lineinfo, fields.pt_varinfo].contains(&at) {
            8
        } else {
            4
        };
        bytes[usize::from(at)..][..width].copy_from_slice(&value.to_ne_bytes()[..width]);
        let memory = BufferMemory::new().with(HEAP, bytes);
        let refused = read(mode, &memory).unwrap_err();
        assert!(
            matches!(refused, PrototypeError::Contradiction { .. }),
            "{at:#x}: {refused}"
        );
    }
}

/// Memory that shows another prototype from the fifth read on: the prototype and its name were read.
struct Changing {
    before: BufferMemory,
    after: BufferMemory,
    reads: std::cell::Cell<u32>,
}

impl RemoteMemory for Changing {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<usize, ProcessError> {
        self.reads.set(self.reads.get() + 1);
        if self.reads.get() <= 4 {
            self.before.read(addr, buf)
        } else {
            self.after.read(addr, buf)
        }
    }
}

#[test]
fn a_prototype_that_is_replaced_while_it_is_read_is_no_prototype() {
    let mode = GcMode::Gc64;
    let before = BufferMemory::new().with(HEAP, heap(mode, &[89, 1, 2, 3], &[1, 1, 4], &[0]));
    let after = BufferMemory::new().with(HEAP, heap(mode, &[89, 1, 2], &[1, 1], &[0]));
    let memory = Changing {
        before,
        after,
        reads: 0.into(),
    };
    assert!(matches!(
        read(mode, &memory),
        Err(PrototypeError::Replaced { address: HEAP })
    ));
}

#[test]
fn lines_of_a_prototype_that_is_gone_are_not_read() {
    let mode = GcMode::Gc64;
    let before = BufferMemory::new().with(HEAP, heap(mode, &[89, 1, 2, 3], &[1, 1, 4], &[0]));
    let after = BufferMemory::new().with(HEAP, heap(mode, &[89, 1, 2], &[1, 1], &[0]));
    let prototype = read(mode, &before).unwrap();
    assert!(prototype.still_is(&before).unwrap());
    assert!(!prototype.still_is(&after).unwrap());
    assert!(matches!(
        prototype.line_of(&after, 1),
        Err(PrototypeError::Replaced { .. })
    ));
    // What was read once is kept.
    assert_eq!(prototype.line_of(&before, 1).unwrap(), Some(11));
    assert_eq!(prototype.line_of(&after, 3).unwrap(), Some(14));
}

#[test]
fn numbers_of_variables_above_127_take_more_than_one_byte() {
    // CALL of slot 0 at position 2, and a variable `late` that lives from 1 to 1 + 0x100.
    let names = [b"late\0".as_slice(), &[1, 0x80, 0x02], &[0]].concat();
    for mode in [GcMode::Gc64, GcMode::Gc32] {
        let memory = BufferMemory::new().with(HEAP, heap(mode, &[89, 18, 66, 75], &[1, 1, 1], &names));
        let prototype = read(mode, &memory).unwrap();
        let name = call_site_name(&memory, &StrLayout::with_sid(mode), &prototype, 2)
            .unwrap()
            .unwrap();
        assert_eq!(name.to_string(), "local 'late'");
    }
}

#[test]
fn a_chunk_is_sorted_by_its_first_character() {
    let short = |name: &str| Chunk::parse(name.as_bytes(), 1).short_file();
    assert_eq!(
        short("@/usr/local/apisix/plugins/limit-count.lua"),
        "plugins/limit-count.lua"
    );
    assert_eq!(short("@access.lua"), "access.lua");
    assert_eq!(short("@./lua/access.lua"), "lua/access.lua");
    assert_eq!(short("@/access.lua"), "access.lua");
    assert_eq!(short("@...resty/core/regex.lua"), "core/regex.lua");
    assert_eq!(
        short("=content_by_lua(nginx.conf:42)"),
        "content_by_lua(nginx.conf:42)"
    );
    assert_eq!(short("=(init_by_lua:1)"), "(init_by_lua:1)");
    assert_eq!(short("return 1\nreturn 2"), "[string \"return 1...\"]");
    assert_eq!(short(""), "[string \"\"]");
    assert_eq!(short("@"), "");
    assert_eq!(Chunk::parse(b"@/a/b/c.lua", 1).file(), "/a/b/c.lua");
    assert_eq!(Chunk::parse(b"insert", !0).short_file(), "[builtin:insert]");
}

fn mode() -> impl Strategy<Value = GcMode> {
    prop_oneof![Just(GcMode::Gc64), Just(GcMode::Gc32)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_memory_can_be_asked_everything(
        mode in mode(),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        gct in prop::sample::select(&[4u8, 6, 7, 8, 11, 12][..]),
    ) {
        let mut bytes = bytes;
        if let Some(byte) = bytes.get_mut(usize::from(mode.fields().gct)) {
            *byte = gct;
        }
        ask_everything(mode, &BufferMemory::new().with(HEAP, bytes));
    }

    #[test]
    fn any_damage_to_a_prototype_is_survived(
        mode in mode(),
        code in prop::collection::vec(any::<u32>(), 1..60),
        names in prop::collection::vec(any::<u8>(), 1..60),
        damage in prop::collection::vec((0..0x70usize, any::<u8>()), 0..4),
    ) {
        let lines = vec![1; code.len() - 1];
        let mut bytes = heap(mode, &code, &lines, &names);
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        ask_everything(mode, &BufferMemory::new().with(HEAP, bytes));
    }

    #[test]
    fn tables_that_refer_to_themselves_end(mode in mode(), words in prop::collection::vec(0..8u64, 64), hmask in 0..9u32) {
        // Thread, table and nodes at once, all references into the same few bytes.
        let fields = mode.fields();
        let refer = |word: &u64| {
            let address = HEAP + word * 8;
            match mode {
                GcMode::Gc64 => address | 0xfffa_0000_0000_0000,
                GcMode::Gc32 => address | 0xffff_fff4_0000_0000,
            }
        };
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| refer(word).to_ne_bytes()).collect();
        bytes[usize::from(fields.gct)] = 11;
        bytes[fields.tab_hmask.into()..][..4].copy_from_slice(&hmask.to_ne_bytes());
        for at in [fields.tab_node, fields.tab_metatable, fields.l_env] {
            let to = HEAP.to_ne_bytes();
            bytes[at.into()..][..fields.ref_size.into()].copy_from_slice(&to[..fields.ref_size.into()]);
        }
        let memory = BufferMemory::new().with(HEAP, bytes.clone());
        ask_everything(mode, &memory);
        bytes[usize::from(fields.gct)] = 6;
        ask_everything(mode, &BufferMemory::new().with(HEAP, bytes));
    }

    #[test]
    fn any_name_of_a_chunk_has_a_short_one(name in prop::collection::vec(any::<u8>(), 0..200), line in any::<u32>()) {
        let short = short_source(&name, line);
        prop_assert!(short.chars().count() < 60 || name.first() == Some(&b'@') && short.chars().count() <= 60);
        _ = Chunk::parse(&name, line).short_file();
    }
}
