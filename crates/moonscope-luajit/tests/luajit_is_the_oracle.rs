//! Everything that is read from a VM, against what LuaJIT says of itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod oracle;

use moonscope_luajit::bytecode::{Calls, Instruction, OperandA};
use moonscope_luajit::chunk::short_source;
use moonscope_luajit::{
    Builtins, FunctionKind, GcMode, LuaNames, Prototype, PrototypeError, SourceFile, call_site_name, globals,
    words_of,
};
use oracle::{Oracle, interpreters, library_files, skip};
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Runs `check` with an oracle of every LuaJIT here.
fn with_each_luajit(check: impl Fn(&mut Oracle, &Path)) {
    let interpreters = interpreters();
    if interpreters.is_empty() {
        return skip("no luajit here that has jit.vmdef");
    }
    let files = library_files();
    for interpreter in &interpreters {
        check(&mut Oracle::start(interpreter, &files), interpreter);
    }
}

fn read(oracle: &Oracle, address: u64) -> Result<Prototype, PrototypeError> {
    Prototype::read(&oracle.memory, oracle.mode, &oracle.strings, address)
}

#[test]
fn root_prototypes_and_the_lines_of_all_their_instructions_are_what_luajit_says() {
    with_each_luajit(|oracle, interpreter| {
        let mut lines = 0;
        for truth in &oracle.prototypes {
            let found = read(oracle, truth.address).unwrap();
            let identity = &found.identity;
            assert_eq!(identity.firstline, truth.first_line, "{truth:?}");
            assert_eq!(identity.firstline.wrapping_add(identity.numline), truth.last_line);
            assert_eq!(u32::from(identity.numparams), truth.params);
            assert_eq!(identity.is_vararg, truth.is_vararg);
            assert_eq!(identity.sizebc as usize, truth.lines.len());
            assert_eq!(found.chunkname.len as usize, truth.chunkname.len());
            assert!(truth.chunkname.starts_with(&found.chunkname.bytes));
            for (position, line) in truth.lines.iter().enumerate() {
                // jit.util gives 0 for stripped bytecode.
                let line = line.filter(|line| *line != 0 || !found.is_stripped());
                let expected = if found.is_stripped() { None } else { line };
                assert_eq!(
                    found.line_of(&oracle.memory, position as u32).unwrap(),
                    expected,
                    "{position} of {truth:?}"
                );
                let saved_pc = found.bytecode() + 4 * (position as u64 + 1);
                assert_eq!(found.position_of(saved_pc), Some(position as u32));
                lines += usize::from(expected.is_some());
            }
            let behind = truth.lines.len() as u32;
            let last = (!found.is_stripped()).then_some(truth.last_line);
            assert_eq!(found.line_of(&oracle.memory, behind).unwrap(), last);
            assert_eq!(found.line_of(&oracle.memory, behind + 1).unwrap(), None);
            assert!(found.still_is(&oracle.memory).unwrap());
        }
        eprintln!(
            "{}: {} prototypes, {lines} lines",
            interpreter.display(),
            oracle.prototypes.len()
        );
        assert!(oracle.prototypes.len() > 300);
    });
}

#[test]
fn root_short_names_of_chunks_are_those_of_luajit() {
    with_each_luajit(|oracle, interpreter| {
        for (address, short) in &oracle.short {
            let found = read(oracle, *address).unwrap();
            // LuaJIT stops at a 0, and cuts in the middle of characters.
            assert_eq!(
                short_source(&found.chunkname.bytes, found.identity.firstline),
                *short
            );
        }
        eprintln!("{}: {} short names", interpreter.display(), oracle.short.len());
        assert!(oracle.short.len() > 300);
    });
}

#[test]
fn root_strings_read_as_they_are() {
    with_each_luajit(|oracle, _| {
        for (address, bytes) in &oracle.texts {
            let read = oracle.strings.read(&oracle.memory, *address, 1 << 16).unwrap();
            assert_eq!((&read.bytes, read.len as usize), (bytes, bytes.len()));
            let cut = oracle.strings.read(&oracle.memory, *address, 7).unwrap();
            assert_eq!(cut.bytes, bytes[..bytes.len().min(7)]);
        }
        assert_eq!(oracle.texts.len(), 300);
    });
}

#[test]
fn root_builtin_functions_have_the_names_of_vmdef() {
    with_each_luajit(|oracle, interpreter| {
        let tables = globals::of_thread(&oracle.memory, oracle.mode, oracle.thread).unwrap();
        let builtins = Builtins::read(&oracle.memory, oracle.mode, &oracle.strings, &tables);
        let truth: HashMap<_, _> = oracle.builtins.iter().cloned().collect();
        for ffid in 0..=255 {
            if let Some(name) = builtins.name(ffid) {
                assert_eq!(Some(name), truth.get(&ffid).map(String::as_str), "number {ffid}");
            }
        }
        let known = builtins.len();
        let unknown: Vec<_> = truth
            .iter()
            .filter(|(ffid, _)| builtins.name(**ffid).is_none())
            .collect();
        eprintln!(
            "{}: {known} of {} builtins, not {unknown:?}",
            interpreter.display(),
            truth.len()
        );
        assert!(unknown.is_empty());
    });
}

#[test]
fn root_opcodes_are_those_of_vmdef() {
    with_each_luajit(|oracle, _| {
        let op = |name: &str| oracle.opcodes.iter().position(|it| it == name).unwrap() as u32;
        let first_header = op("FUNCF") as usize;
        assert!(
            first_header == 89 || oracle.opcodes[89..96].join(" ") == "BNOT BAND BOR BXOR BSHL BSHR BSAR"
        );
        // Names of the Lua 5.1 operators by the beginning of the opcode's name (lj_bc.h, last column).
        let metamethods = [
            ("ADD", "__add"),
            ("SUB", "__sub"),
            ("MUL", "__mul"),
            ("DIV", "__div"),
            ("MOD", "__mod"),
            ("POW", "__pow"),
            ("UNM", "__unm"),
            ("LEN", "__len"),
            ("CAT", "__concat"),
            ("ISLT", "__lt"),
            ("ISGE", "__lt"),
            ("ISLE", "__le"),
            ("ISGT", "__le"),
            ("ISEQ", "__eq"),
            ("ISNE", "__eq"),
            ("TGET", "__index"),
            ("GGET", "__index"),
            ("TSET", "__newindex"),
            ("GSET", "__newindex"),
            ("FNEW", "__gc"),
            ("TNEW", "__gc"),
            ("TDUP", "__gc"),
        ];
        for (number, name) in oracle.opcodes.iter().enumerate().take(89) {
            let calls = Instruction(number as u32).calls();
            let is_call = name.starts_with("CALL") || name == "ITERC" || name == "ITERN";
            let metamethod = metamethods
                .iter()
                .find(|(begins, _)| name.starts_with(begins))
                .filter(|_| name != "ISNEXT");
            match metamethod {
                _ if is_call => assert_eq!(calls, Calls::Function, "{name}"),
                Some((_, metamethod)) => assert_eq!(calls, Calls::Metamethod(metamethod), "{name}"),
                None => assert_eq!(calls, Calls::Nothing, "{name}"),
            }
        }
        for name in [
            "MOV", "UGET", "GGET", "TGETS", "TGETR", "KPRI", "KSTR", "CAT", "FNEW", "TDUP", "ISFC",
        ] {
            assert_eq!(Instruction(op(name)).operand_a(), OperandA::Destination, "{name}");
        }
        for name in [
            "KNIL", "CALLM", "CALL", "CALLT", "ITERC", "VARG", "ISNEXT", "RETM", "FORI", "JITERL", "TSETM",
        ] {
            assert_eq!(Instruction(op(name)).operand_a(), OperandA::Base, "{name}");
        }
        for name in [
            "ISLT", "IST", "ISF", "ISTYPE", "USETV", "UCLO", "TSETS", "GSET", "RET1", "LOOP", "JMP",
        ] {
            assert_eq!(Instruction(op(name)).operand_a(), OperandA::Other, "{name}");
        }
    });
}

#[test]
fn root_names_at_call_sites_are_those_of_luajit() {
    with_each_luajit(|oracle, interpreter| {
        for truth in &oracle.calls {
            let caller = read(oracle, truth.caller).unwrap();
            let found = call_site_name(&oracle.memory, &oracle.strings, &caller, truth.position).unwrap();
            let shown = found.map(|name| name.to_string()).unwrap_or_default();
            let expected = match truth.kind.as_str() {
                "" => String::new(),
                kind => format!("{kind} '{}'", truth.name),
            };
            assert_eq!(shown, expected, "at {}", truth.position);
        }
        eprintln!("{}: {} call sites", interpreter.display(), oracle.calls.len());
        assert!(oracle.calls.len() >= 30);
        // Every other instruction of every function gives a name or none, and no error.
        let short = oracle.prototypes.iter().filter(|truth| truth.lines.len() < 2000);
        for truth in short.take(2000) {
            let caller = read(oracle, truth.address).unwrap();
            for position in 0..truth.lines.len() as u32 + 2 {
                call_site_name(&oracle.memory, &oracle.strings, &caller, position).unwrap();
            }
        }
    });
}

#[test]
fn root_every_function_of_every_file_has_exactly_one_span_in_its_source() {
    with_each_luajit(|oracle, interpreter| {
        let mut by_chunk: HashMap<&[u8], Vec<_>> = HashMap::new();
        for it in &oracle.prototypes {
            let span = (it.first_line, it.last_line, it.params, it.is_vararg);
            by_chunk.entry(&it.chunkname).or_default().push(span);
        }
        let (mut functions, mut files) = (0, 0);
        for file in library_files() {
            let chunkname = [b"@", file.as_os_str().as_bytes()].concat();
            let Some(mut expected) = by_chunk.remove(&chunkname[..]) else {
                continue;
            };
            let source = SourceFile::parse(&std::fs::read(&file).unwrap()).unwrap();
            let spans = source
                .functions()
                .iter()
                .map(|it| (it.first_line, it.last_line, it.params, it.is_vararg));
            let mut spans: Vec<_> = spans.collect();
            expected.sort_unstable();
            spans.sort_unstable();
            assert_eq!(spans, expected, "{}", file.display());
            files += 1;
            functions += spans.len();
        }
        eprintln!(
            "{}: {functions} functions in {files} files",
            interpreter.display()
        );
        assert!(functions > 100);
    });
}

#[test]
fn root_names_come_from_files_that_did_not_change_since_the_process_started() {
    with_each_luajit(|oracle, interpreter| {
        let later = SystemTime::now() + Duration::from_secs(3600);
        let mut names = LuaNames::new(oracle.pid(), later, None);
        let mut distrustful = LuaNames::new(oracle.pid(), SystemTime::UNIX_EPOCH, None);
        let files = library_files().into_iter();
        let files: HashSet<_> = files.map(|file| format!("@{}", file.display())).collect();
        let (mut named, mut unnamed, mut hints) = (0, 0, 0);
        for truth in &oracle.prototypes {
            let prototype = read(oracle, truth.address).unwrap();
            let name = names.name_of(&prototype);
            let chunkname = String::from_utf8_lossy(&truth.chunkname);
            match name.kind {
                FunctionKind::MainChunk => assert_eq!(name.name.as_deref(), Some("main chunk")),
                FunctionKind::Function if files.contains(&*chunkname) => {
                    named += usize::from(name.name.is_some());
                    unnamed += usize::from(name.name.is_none());
                    assert_eq!(name.file, chunkname[1..]);
                    assert_eq!(distrustful.name_of(&prototype).name, None);
                    // with its variables and strings in the text it is a hint
                    let words = || words_of(&oracle.memory, &oracle.strings, &prototype).unwrap();
                    let hint = distrustful.name_with(&prototype, words).name;
                    let wanted = name.name.as_ref().map(|name| format!("{name}?"));
                    assert!(hint.is_none() || hint == wanted, "{hint:?} for {name:?}");
                    hints += usize::from(hint.is_some());
                }
                // the chunk has its name, in front of which the table stands
                FunctionKind::Builtin => {
                    let name = name.name.as_deref().unwrap();
                    assert!(chunkname.starts_with(name.rsplit('.').next().unwrap()), "{name}");
                }
                _ => assert_eq!(name.name, None, "{name:?}"),
            }
        }
        eprintln!(
            "{}: {named} names, {unnamed} ambiguous, {hints} hints",
            interpreter.display()
        );
        assert!(named > 20 * unnamed);
        // strings with escapes in them are not found as they are written
        assert!(hints * 10 > named * 8, "{hints} of {named}");
    });
}

#[test]
fn root_a_freed_prototype_is_not_taken_for_the_one_that_took_its_place() {
    let interpreters = interpreters();
    if interpreters.is_empty() {
        return skip("no luajit here that has jit.vmdef");
    }
    for interpreter in interpreters {
        // A small heap, where memory is used again soon.
        let mut oracle = Oracle::start(&interpreter, &[]);
        let (mut reused, mut recognised) = (0, 0);
        for _ in 0..8 {
            let before: Vec<_> = oracle
                .prototypes
                .iter()
                .map(|truth| read(&oracle, truth.address).unwrap())
                .collect();
            oracle.collect();
            let now: HashMap<_, _> = oracle
                .prototypes
                .iter()
                .map(|truth| (truth.address, truth))
                .collect();
            for old in &before {
                let Some(truth) = now.get(&old.identity.address) else {
                    continue;
                };
                reused += 1;
                // Loaded from the same text under the same name, it is the same for all purposes.
                let is_same = truth.first_line == old.identity.firstline
                    && truth.lines.len() == old.identity.sizebc as usize
                    && truth.chunkname == old.chunkname.bytes;
                let seems_same = old.still_is(&oracle.memory).unwrap();
                assert!(is_same || !seems_same, "{old:?} is {truth:?}");
                recognised += usize::from(!seems_same);
            }
        }
        eprintln!(
            "{}: {reused} addresses used again, {recognised} recognised",
            interpreter.display()
        );
        assert!(reused > 0);
    }
}

#[test]
fn root_the_wrong_object_model_is_refused() {
    with_each_luajit(|oracle, _| {
        let wrong = match oracle.mode {
            GcMode::Gc64 => GcMode::Gc32,
            GcMode::Gc32 => GcMode::Gc64,
        };
        for truth in &oracle.prototypes {
            assert!(Prototype::read(&oracle.memory, wrong, &oracle.strings, truth.address).is_err());
        }
    });
}
