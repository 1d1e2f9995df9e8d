//! A profile as graphs see it: paths of names with one value, equal paths merged, sorted by name.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::error::WriteError;
use crate::frame::{FrameId, FrameKind};
use crate::limits;
use crate::meta::ValueType;
use crate::options::WriteOptions;
use crate::profile::{Profile, StackId};

/// What a name in a graph stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum NameKind {
    /// The value of a label, such as the comm of a process.
    Group,
    /// A frame of this kind.
    Frame(FrameKind),
    /// A native frame that was inlined.
    Inlined,
}

/// One box of a graph. Frames that differ only in what is not shown have one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    pub text: String,
    pub kind: NameKind,
}

/// A path from the root to the leaf, as places in [`View::names`], and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub path: Vec<u32>,
    pub value: u64,
}

/// All stacks of a profile with the value that was chosen.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Sorted by text.
    pub names: Vec<Name>,
    /// Sorted by path, so that rows with a common start stand together. No path comes twice, none is
    /// empty, no value is 0.
    pub rows: Vec<Row>,
    /// The value that is shown.
    pub value: ValueType,
    /// The sum of all rows.
    pub total: u64,
}

impl View {
    /// The view of a profile. Values below 0 (which only differences have) do not count.
    pub fn new(profile: &Profile, options: &WriteOptions) -> Result<Self, WriteError> {
        let value_nr = options.value_of(profile)?;
        check_spelled_out(profile)?;
        let value = profile
            .value_types()
            .get(value_nr)
            .cloned()
            .unwrap_or_else(ValueType::samples);
        let mut names = Names::default();
        let of_frame: Vec<u32> = (0..profile.frames().len())
            .map(|nr| names.number(frame_name(profile, FrameId(nr as u32), options.lines)))
            .collect();
        let of_group: Vec<Option<u32>> = profile
            .label_sets()
            .iter()
            .map(|labels| {
                let text = options.group.root(labels)?;
                Some(names.number(Name {
                    text,
                    kind: NameKind::Group,
                }))
            })
            .collect();

        let mut sums: HashMap<(Option<u32>, Option<StackId>), u64> = HashMap::new();
        for sample in profile.samples() {
            let value = sample.values.get(value_nr).copied().unwrap_or(0);
            if let Ok(value @ 1..) = u64::try_from(value) {
                let sum = sums
                    .entry((of_group[sample.labels.index()], sample.stack))
                    .or_default();
                *sum = sum.saturating_add(value);
            }
        }
        let no_stack = Name {
            text: "[no stack]".to_owned(),
            kind: NameKind::Frame(FrameKind::Marker),
        };
        let mut rows: Vec<Row> = Vec::with_capacity(sums.len());
        for ((group, stack), value) in sums {
            let mut path: Vec<u32> = profile
                .leaf_to_root(stack)
                .map(|frame| of_frame[frame.index()])
                .collect();
            if path.is_empty() {
                path.push(names.number(no_stack.clone()));
            }
            path.extend(group);
            path.reverse();
            rows.push(Row { path, value });
        }
        Ok(Self::sorted(names.items, rows, value))
    }

    /// Does a group stand at the root of any stack?
    pub fn has_groups(&self) -> bool {
        self.rows
            .iter()
            .filter_map(|row| self.names.get(*row.path.first()? as usize))
            .any(|name| name.kind == NameKind::Group)
    }

    /// Folded stacks do not say that what they begin with is no frame: makes groups of it. Names are not sorted then.
    pub fn make_groups_of_roots(&mut self) {
        let mut groups: HashMap<u32, u32> = HashMap::new();
        for row in &mut self.rows {
            let Some(root) = row.path.first_mut() else {
                continue;
            };
            let name = &self.names[*root as usize];
            if name.kind != NameKind::Frame(FrameKind::Native) {
                continue;
            }
            let text = name.text.clone();
            *root = *groups.entry(*root).or_insert_with(|| {
                self.names.push(Name {
                    text,
                    kind: NameKind::Group,
                });
                (self.names.len() - 1) as u32
            });
        }
    }

    /// Numbers names in their order, then sorts and merges rows.
    fn sorted(names: Vec<Name>, mut rows: Vec<Row>, value: ValueType) -> Self {
        let (names, rank) = ranked(names);
        for row in &mut rows {
            row.path.iter_mut().for_each(|name| *name = rank[*name as usize]);
        }
        rows.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        rows.dedup_by(|next, kept| {
            let same = next.path == kept.path;
            if same {
                kept.value = kept.value.saturating_add(next.value);
            }
            same
        });
        let total = rows.iter().fold(0u64, |sum, row| sum.saturating_add(row.value));
        Self {
            names,
            rows,
            value,
            total,
        }
    }
}

/// Refuses a profile whose stacks would fill the memory when each is spelled out.
pub(crate) fn check_spelled_out(profile: &Profile) -> Result<(), WriteError> {
    let depth = |stack: Option<StackId>| stack.map_or(0, |stack| u64::from(profile.node(stack).depth));
    let frames: u64 = profile.samples().map(|sample| depth(sample.stack)).sum();
    let limit = limits::MAX_SPELLED_OUT;
    if frames > limit {
        Err(WriteError::TooLarge { limit })
    } else {
        Ok(())
    }
}

/// Sorts names, and says where each went.
pub(crate) fn ranked(names: Vec<Name>) -> (Vec<Name>, Vec<u32>) {
    let mut order: Vec<u32> = (0..names.len() as u32).collect();
    order.sort_unstable_by(|a, b| names[*a as usize].cmp(&names[*b as usize]));
    let mut rank = vec![0; names.len()];
    for (place, name) in order.iter().enumerate() {
        rank[*name as usize] = place as u32;
    }
    let mut names: Vec<_> = names.into_iter().zip(rank.iter().copied()).collect();
    names.sort_unstable_by_key(|(_, place)| *place);
    (names.into_iter().map(|(name, _)| name).collect(), rank)
}

/// Names by number, equal ones once.
#[derive(Default)]
pub(crate) struct Names {
    pub items: Vec<Name>,
    index: HashMap<Name, u32>,
}

impl Names {
    pub fn number(&mut self, name: Name) -> u32 {
        if let Some(&nr) = self.index.get(&name) {
            return nr;
        }
        let nr = self.items.len() as u32;
        self.items.push(name.clone());
        self.index.insert(name, nr);
        nr
    }
}

impl Profile {
    /// The text form of a frame with `(file:line)`, where that is known and not part of it anyway; not escaped.
    pub fn text_with_line(&self, id: FrameId) -> String {
        let frame = self.frame_of(id);
        let mut text = self.text_of(id).to_string();
        if !matches!(frame.kind, FrameKind::LuaInterpreted | FrameKind::LuaCompiled)
            && let Some(file) = frame.file.as_deref()
        {
            // The annotation stays last, where readers of folded stacks look for it.
            let annotation = frame.annotation();
            text.truncate(text.len() - annotation.len());
            let _ = match frame.shown_line() {
                Some(line) => write!(text, " ({file}:{line}){annotation}"),
                None => write!(text, " ({file}){annotation}"),
            };
        }
        text
    }
}

/// The text form, with `(file:line)` when asked for and not part of it anyway.
pub(crate) fn frame_name(profile: &Profile, id: FrameId, lines: bool) -> Name {
    let frame = profile.frame_of(id);
    let text = match lines {
        true => profile.text_with_line(id),
        false => profile.text_of(id).to_string(),
    };
    let kind = if frame.inlined && frame.kind == FrameKind::Native {
        NameKind::Inlined
    } else {
        NameKind::Frame(frame.kind)
    };
    Name { text, kind }
}
