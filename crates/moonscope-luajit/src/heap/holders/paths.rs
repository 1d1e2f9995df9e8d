//! Ways from the roots. All items of an array are one, and so are keys that may be data: what would not end is kept short here.

use moonscope_process::RemoteMemory;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::heap::layout::HeapLayout;
use crate::object::{number, reference_at};

/// Ways that are told apart: some 10 MiB.
const MAX_PATHS: usize = 1 << 17;
/// Named parts of one; more are data, not names.
const MAX_PARTS: u32 = 1024;
/// Parts of a way; what is farther (a list whose elements hold the next) is counted at this place.
const MAX_DEPTH: u32 = 24;
/// Bytes of a name.
const MAX_NAME: usize = 64;
/// Bytes of the names of upvalues of one prototype.
const MAX_UPVALUE_NAMES: u64 = 16 << 10;

/// What leads from one object to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Label {
    Root(&'static str),
    /// A field: the string that is its key.
    Key(u64),
    /// A number or another object is the key.
    Item,
    /// A variable of an enclosing function, of this prototype.
    Upvalue(u64, u8),
    Metatable,
    Environment,
    Stack,
    Code,
}

/// Which keys are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Names of modules and globals, and keys that are identifiers and words of the program, so not data that it was given.
    OfCode,
    /// All.
    All,
}

/// What is reached by one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The one that it is a part of: its place on the list.
    pub parent: Option<usize>,
    /// How that leads to it, as in Lua where possible: `.field`, `[…]`, `<upvalue cache>`. Of others' choice: to be escaped.
    pub name: String,
    /// Objects at its very place.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects there and behind.
    pub held_count: u64,
    /// Their bytes.
    pub held_bytes: u64,
}

struct Path {
    parent: u32,
    label: Label,
    depth: u32,
    named: u32,
    count: u64,
    bytes: u64,
}

#[derive(Default)]
pub(super) struct Paths {
    all: Vec<Path>,
    parts: FxHashMap<(u32, Label), u32>,
}

impl Paths {
    pub(super) fn root(&mut self, name: &'static str) -> u32 {
        let own = self.all.len() as u32;
        self.all.push(Path {
            parent: own,
            label: Label::Root(name),
            depth: 0,
            named: 0,
            count: 0,
            bytes: 0,
        });
        own
    }

    /// A part of a path; the path itself if it is too long.
    pub(super) fn part(&mut self, parent: u32, mut label: Label) -> u32 {
        if let Some(&part) = self.parts.get(&(parent, label)) {
            return part;
        }
        let next = self.all.len() as u32;
        let Some(path) = self.all.get_mut(parent as usize) else {
            return parent;
        };
        let depth = path.depth + 1;
        if let Label::Key(_) = label {
            path.named += 1;
            if path.named > MAX_PARTS {
                label = Label::Item;
                if let Some(&part) = self.parts.get(&(parent, label)) {
                    return part;
                }
            }
        }
        if depth > MAX_DEPTH || self.all.len() >= MAX_PATHS {
            return parent;
        }
        self.all.push(Path {
            parent,
            label,
            depth,
            named: 0,
            count: 0,
            bytes: 0,
        });
        self.parts.insert((parent, label), next);
        next
    }

    /// One more object there.
    pub(super) fn add(&mut self, path: u32, bytes: u64) {
        if let Some(path) = self.all.get_mut(path as usize) {
            path.count += 1;
            path.bytes = path.bytes.saturating_add(bytes);
        }
    }

    /// With names; those that are not shown are one.
    pub(super) fn holders(
        &self,
        memory: &impl RemoteMemory,
        heap: &HeapLayout,
        words: &FxHashSet<u64>,
        names: Names,
    ) -> Vec<Holder> {
        let namer = Namer {
            memory,
            heap,
            words,
            names,
        };
        let mut holders: Vec<Holder> = Vec::new();
        let mut places: Vec<usize> = Vec::with_capacity(self.all.len());
        let mut known: FxHashMap<(Option<usize>, String), usize> = FxHashMap::default();
        for (index, path) in self.all.iter().enumerate() {
            let parent = match path.label {
                Label::Root(_) => None,
                _ => places.get(path.parent as usize).copied(),
            };
            let is_module = match (path.label, self.all.get(path.parent as usize)) {
                (Label::Key(_), Some(parent)) => matches!(parent.label, Label::Root("package.loaded" | "_G")),
                _ => false,
            };
            let name = namer.name(path.label, is_module);
            let place = *known.entry((parent, name.clone())).or_insert(holders.len());
            places.push(place);
            debug_assert_eq!(places.len(), index + 1);
            match holders.get_mut(place) {
                Some(holder) => {
                    holder.count += path.count;
                    holder.bytes += path.bytes;
                }
                None => holders.push(Holder {
                    parent,
                    name,
                    count: path.count,
                    bytes: path.bytes,
                    held_count: 0,
                    held_bytes: 0,
                }),
            }
        }
        // each stands behind what it is a part of
        for index in (0..holders.len()).rev() {
            let Some(holder) = holders.get_mut(index) else {
                break;
            };
            holder.held_count += holder.count;
            holder.held_bytes = holder.held_bytes.saturating_add(holder.bytes);
            let (parent, count, bytes) = (holder.parent, holder.held_count, holder.held_bytes);
            if let Some(parent) = parent.and_then(|parent| holders.get_mut(parent)) {
                parent.held_count += count;
                parent.held_bytes = parent.held_bytes.saturating_add(bytes);
            }
        }
        holders
    }
}

struct Namer<'a, M> {
    memory: &'a M,
    heap: &'a HeapLayout,
    words: &'a FxHashSet<u64>,
    names: Names,
}

impl<M: RemoteMemory> Namer<'_, M> {
    fn name(&self, label: Label, is_module: bool) -> String {
        const HIDDEN: &str = "[…]";
        match label {
            Label::Root(name) => name.to_owned(),
            Label::Item => HIDDEN.to_owned(),
            Label::Metatable => "<metatable>".to_owned(),
            Label::Environment => "<environment>".to_owned(),
            Label::Stack => "<stack>".to_owned(),
            Label::Code => "<code>".to_owned(),
            Label::Upvalue(prototype, index) => {
                let name = self.upvalue(prototype, index).filter(|name| is_identifier(name));
                format!("<upvalue {}>", name.unwrap_or_else(|| index.to_string()))
            }
            Label::Key(key) => {
                let text = self.heap.string.read(self.memory, key, MAX_NAME + 1);
                let Some(text) = text.ok().filter(|text| text.bytes.len() <= MAX_NAME) else {
                    return HIDDEN.to_owned();
                };
                let text = String::from_utf8_lossy(&text.bytes).into_owned();
                let is_name = is_identifier(&text);
                let is_shown = match self.names {
                    Names::All => true,
                    Names::OfCode if is_module => is_module_name(&text),
                    Names::OfCode => is_name && self.words.contains(&key),
                };
                match (is_shown, is_name) {
                    (false, _) => HIDDEN.to_owned(),
                    (true, true) => format!(".{text}"),
                    (true, false) => format!("[{text:?}]"),
                }
            }
        }
    }

    /// The name of a variable: names are behind each other, each with a 0 at its end (lj_debug.c, `lj_debug_uvname`).
    fn upvalue(&self, prototype: u64, index: u8) -> Option<String> {
        let fields = self.heap.layout.fields();
        let mut head = [0; 0x68];
        let bytes = head.get_mut(..fields.pt_size.into())?;
        self.memory.read_exact(prototype, bytes).ok()?;
        let names = reference_at(fields, &head, fields.pt_uvinfo).filter(|&names| names != 0)?;
        let end = prototype.checked_add(number::<4>(&head, fields.pt_sizept.into())?)?;
        let mut text = vec![0; end.checked_sub(names)?.min(MAX_UPVALUE_NAMES) as usize];
        self.memory.read_exact(names, &mut text).ok()?;
        let name = text.split(|&byte| byte == 0).nth(index.into())?;
        String::from_utf8(name.to_vec())
            .ok()
            .filter(|name| !name.is_empty())
    }
}

fn is_identifier(text: &str) -> bool {
    let is_letter = |first: char| first.is_ascii_alphabetic() || first == '_';
    text.starts_with(is_letter)
        && text
            .chars()
            .all(|each| each.is_ascii_alphanumeric() || each == '_')
}

fn is_module_name(text: &str) -> bool {
    let is_part = |each: char| each.is_ascii_alphanumeric() || "_.-/".contains(each);
    !text.is_empty() && text.chars().all(is_part)
}
