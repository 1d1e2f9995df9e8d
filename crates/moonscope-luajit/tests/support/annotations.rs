//! What the remarks in a test program allow: `--> name X` at the definition of a function, `--> X Y` at a
//! line that calls X or Y, `--> anywhere X` for what may run at any time, `--> most 5 X` for what is never on
//! the stack more than five times.

use moonscope_luajit::{FrameKind, Layout};
use moonscope_process::{ProcessMemory, RemoteMemory};
use std::collections::{HashMap, HashSet};
use std::path::Path;

#[derive(Default)]
pub struct Annotations {
    names: HashMap<u32, String>,
    calls: HashMap<u32, HashSet<String>>,
    anywhere: HashSet<String>,
    most: HashMap<String, usize>,
}

/// A Lua function and its current line, if known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub function: String,
    pub line: Option<u32>,
}

impl Annotations {
    pub fn of(script: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/lua")
            .join(script);
        let mut read = Self::default();
        for (line, text) in (1..).zip(std::fs::read_to_string(path).unwrap().lines()) {
            let Some((_, remark)) = text.split_once("--> ") else {
                continue;
            };
            let words: Vec<_> = remark.split_whitespace().map(str::to_owned).collect();
            match words.as_slice() {
                [kind, name] if kind == "name" => drop(read.names.insert(line, name.clone())),
                [kind, name] if kind == "anywhere" => drop(read.anywhere.insert(name.clone())),
                [kind, count, name] if kind == "most" => {
                    read.most.insert(name.clone(), count.parse().unwrap());
                }
                _ => drop(read.calls.insert(line, words.into_iter().collect())),
            }
        }
        read
    }

    /// The function and line of a Lua frame; `None` for other frames.
    pub fn place(&self, memory: &ProcessMemory, layout: &Layout, kind: &FrameKind) -> Option<Place> {
        let FrameKind::Lua { proto, pos } = *kind else {
            return None;
        };
        let fields = layout.fields();
        let word = |offset: u16| memory.read_u32(proto + u64::from(offset)).unwrap();
        let first = word(fields.pt_firstline);
        let line = pos.map(|pos| {
            let numline = word(fields.pt_numline);
            let info = match fields.ref_size {
                8 => memory.read_u64(proto + u64::from(fields.pt_lineinfo)).unwrap(),
                _ => u64::from(word(fields.pt_lineinfo)),
            };
            assert!(info != 0, "bytecode without lines");
            if pos == 0 {
                return first;
            }
            let (size, mut entry) = (if numline < 256 { 1 } else { 2 }, [0; 2]);
            let at = info + u64::from(pos - 1) * size as u64;
            memory.read_exact(at, &mut entry[..size]).unwrap();
            first + u32::from(u16::from_le_bytes(entry))
        });
        let name = match first {
            0 => Some("main".to_owned()),
            _ => self.names.get(&first).cloned(),
        };
        let function = name.unwrap_or_else(|| format!("line {first}"));
        Some(Place { function, line })
    }

    /// The first call in this stack, innermost frame first, that the program does not make.
    pub fn violation(&self, stack: &[Place], roots: &[&str]) -> Option<String> {
        let Some(root) = stack.last() else {
            return Some("no frames".to_owned());
        };
        if !roots.contains(&root.function.as_str()) && !self.anywhere.contains(&root.function) {
            return Some(format!("{root:?} at the bottom"));
        }
        let too_many = self.most.iter().find(|&(name, &most)| {
            let frames = stack.iter().filter(|place| place.function == *name);
            frames.count() > most
        });
        if let Some((name, most)) = too_many {
            return Some(format!("more than {most} frames of {name}"));
        }
        stack.windows(2).find_map(|pair| {
            let (callee, caller) = (&pair[0], &pair[1]);
            let is_allowed = self.anywhere.contains(&callee.function)
                || caller.line.is_some_and(|line| {
                    let calls = self.calls.get(&line);
                    calls.is_some_and(|calls| calls.contains(&callee.function))
                });
            (!is_allowed).then(|| format!("{caller:?} calls {callee:?}"))
        })
    }
}
