//! The profile: stacks and values, interned, summed up, with their circumstances and accounting.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::accounting::Accounting;
use crate::frame::{Frame, FrameId, FrameText, Module, ModuleId};
use crate::labels::{LabelSet, LabelValue, LabelsId};
use crate::meta::{Meta, ValueType};

/// A stack of one [`Profile`]: its leaf, and by its parents all frames up to the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackId(pub(crate) u32);

impl StackId {
    /// Its place in [`Profile::stacks`]. A parent always has a smaller one than its children.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One node of the tree that all stacks of a profile make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackNode {
    /// The caller; `None` for an outermost frame.
    pub parent: Option<StackId>,
    /// The frame itself.
    pub frame: FrameId,
    /// Number of frames from the root to this one, itself included.
    pub depth: u32,
}

/// The values of one stack under one set of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample<'a> {
    /// The stack; `None` when no frame at all is known.
    pub stack: Option<StackId>,
    /// The labels.
    pub labels: LabelsId,
    /// One value for each of [`Profile::value_types`].
    pub values: &'a [i64],
}

/// Items that are equal share one number.
#[derive(Clone, Debug)]
struct Interner<T> {
    items: Vec<T>,
    // The standard hasher is keyed at random: names come from hostile processes and files.
    index: HashMap<T, u32>,
}

impl<T: Clone + Eq + Hash> Interner<T> {
    fn new() -> Self {
        Self {
            items: Vec::new(),
            index: HashMap::new(),
        }
    }

    fn intern(&mut self, item: T) -> u32 {
        if let Some(&nr) = self.index.get(&item) {
            return nr;
        }
        let nr = next(self.items.len());
        self.items.push(item.clone());
        self.index.insert(item, nr);
        nr
    }
}

/// The number of a new item. 2³² items of any kind do not fit into memory.
#[allow(clippy::expect_used)]
fn next(len: usize) -> u32 {
    u32::try_from(len).expect("fewer than 2^32 items of one kind")
}

/// Stacks with values. Everything equal is stored once: modules, frames, stacks, label sets; and there
/// is one sample for each (stack, label set).
#[derive(Clone, Debug)]
pub struct Profile {
    /// When, where, of what.
    pub meta: Meta,
    /// What became of every tick.
    pub accounting: Accounting,
    value_types: Vec<ValueType>,
    strings: HashMap<Arc<str>, ()>,
    modules: Interner<Module>,
    frames: Interner<Frame>,
    labels: Interner<LabelSet>,
    stacks: Vec<StackNode>,
    stack_index: HashMap<(Option<StackId>, FrameId), StackId>,
    samples: Vec<(Option<StackId>, LabelsId)>,
    /// `value_types.len()` values for each sample.
    values: Vec<i64>,
    sample_index: HashMap<(Option<StackId>, LabelsId), u32>,
}

impl Profile {
    /// An empty profile whose samples have these values.
    pub fn new(values: Vec<ValueType>) -> Self {
        Self {
            meta: Meta::default(),
            accounting: Accounting::default(),
            value_types: values,
            strings: HashMap::new(),
            modules: Interner::new(),
            frames: Interner::new(),
            labels: Interner::new(),
            stacks: Vec::new(),
            stack_index: HashMap::new(),
            samples: Vec::new(),
            values: Vec::new(),
            sample_index: HashMap::new(),
        }
    }

    /// A shared copy of a string, for the names in frames: equal strings are stored once.
    pub fn string(&mut self, text: &str) -> Arc<str> {
        if let Some((shared, ())) = self.strings.get_key_value(text) {
            return Arc::clone(shared);
        }
        let shared: Arc<str> = text.into();
        self.strings.insert(Arc::clone(&shared), ());
        shared
    }

    /// The number of a module.
    pub fn module(&mut self, module: Module) -> ModuleId {
        ModuleId(self.modules.intern(module))
    }

    /// The number of a frame.
    pub fn frame(&mut self, frame: Frame) -> FrameId {
        FrameId(self.frames.intern(frame))
    }

    /// The stack that has `frame` called by `parent`, or as its outermost frame.
    pub fn child(&mut self, parent: Option<StackId>, frame: FrameId) -> StackId {
        let new = StackId(next(self.stacks.len()));
        let id = *self.stack_index.entry((parent, frame)).or_insert(new);
        if id == new {
            let depth = parent.map_or(0, |parent| self.stacks[parent.index()].depth) + 1;
            self.stacks.push(StackNode { parent, frame, depth });
        }
        id
    }

    /// The stack of these frames, root first; `None` when there are none.
    pub fn stack(&mut self, root_to_leaf: impl IntoIterator<Item = FrameId>) -> Option<StackId> {
        root_to_leaf
            .into_iter()
            .fold(None, |parent, frame| Some(self.child(parent, frame)))
    }

    /// The number of a set of labels, given in any order.
    pub fn labels(&mut self, labels: &[(&str, LabelValue)]) -> LabelsId {
        let labels = labels
            .iter()
            .map(|(key, value)| (self.string(key), value.clone()))
            .collect();
        self.label_set(LabelSet::new(labels))
    }

    /// The number of a set of labels that exists already.
    pub fn label_set(&mut self, labels: LabelSet) -> LabelsId {
        LabelsId(self.labels.intern(labels))
    }

    /// Adds values to those that this stack has under these labels. One value for each value type;
    /// missing ones are 0, surplus ones are ignored.
    pub fn add(&mut self, stack: Option<StackId>, labels: LabelsId, values: &[i64]) {
        let width = self.value_types.len();
        let new = next(self.samples.len());
        let nr = *self.sample_index.entry((stack, labels)).or_insert(new);
        if nr == new {
            self.samples.push((stack, labels));
            self.values.resize(self.values.len() + width, 0);
        }
        let start = nr as usize * width;
        for (sum, value) in self.values[start..start + width].iter_mut().zip(values) {
            *sum = sum.saturating_add(*value);
        }
    }

    /// The place of a value type, which is added when it is new: samples so far have 0 of it.
    pub fn value_type(&mut self, value: ValueType) -> usize {
        if let Some(place) = self.value_types.iter().position(|known| *known == value) {
            return place;
        }
        let width = self.value_types.len();
        let mut wider = Vec::with_capacity(self.samples.len() * (width + 1));
        for nr in 0..self.samples.len() {
            wider.extend_from_slice(&self.values[nr * width..(nr + 1) * width]);
            wider.push(0);
        }
        self.values = wider;
        self.value_types.push(value);
        width
    }

    /// What the values of each sample mean, in order.
    pub fn value_types(&self) -> &[ValueType] {
        &self.value_types
    }

    /// All modules, in the order of their [`ModuleId`]s.
    pub fn modules(&self) -> &[Module] {
        &self.modules.items
    }

    /// All frames, in the order of their [`FrameId`]s.
    pub fn frames(&self) -> &[Frame] {
        &self.frames.items
    }

    /// All nodes of the stack tree, in the order of their [`StackId`]s: parents before children.
    pub fn stacks(&self) -> &[StackNode] {
        &self.stacks
    }

    /// All label sets, in the order of their [`LabelsId`]s.
    pub fn label_sets(&self) -> &[LabelSet] {
        &self.labels.items
    }

    /// One sample for each stack and label set, in the order in which they first came.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = Sample<'_>> + Clone {
        let width = self.value_types.len();
        self.samples
            .iter()
            .enumerate()
            .map(move |(nr, &(stack, labels))| Sample {
                stack,
                labels,
                values: &self.values[nr * width..(nr + 1) * width],
            })
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The frame with this number.
    pub fn frame_of(&self, id: FrameId) -> &Frame {
        &self.frames.items[id.index()]
    }

    /// The module with this number.
    pub fn module_of(&self, id: ModuleId) -> &Module {
        &self.modules.items[id.index()]
    }

    /// The labels with this number.
    pub fn labels_of(&self, id: LabelsId) -> &LabelSet {
        &self.labels.items[id.index()]
    }

    /// The node of a stack.
    pub fn node(&self, id: StackId) -> &StackNode {
        &self.stacks[id.index()]
    }

    /// The text form of a frame, not escaped.
    pub fn text_of(&self, id: FrameId) -> FrameText<'_> {
        let frame = self.frame_of(id);
        FrameText::new(frame, frame.module.map(|module| self.module_of(module)))
    }

    /// The frames of a stack, leaf first.
    pub fn leaf_to_root(&self, stack: Option<StackId>) -> impl Iterator<Item = FrameId> + '_ {
        let mut at = stack;
        std::iter::from_fn(move || {
            let node = self.node(at?);
            at = node.parent;
            Some(node.frame)
        })
    }

    /// The frames of a stack, root first.
    pub fn root_to_leaf(&self, stack: Option<StackId>) -> Vec<FrameId> {
        let mut frames: Vec<_> = self.leaf_to_root(stack).collect();
        frames.reverse();
        frames
    }

    /// The sum of one value over all samples, or 0 when there is no such value.
    pub fn total(&self, value: usize) -> i64 {
        self.samples()
            .filter_map(|sample| sample.values.get(value).copied())
            .fold(0, i64::saturating_add)
    }

    /// The place of the value type with this kind, such as `cpu`.
    pub fn value_named(&self, kind: &str) -> Option<usize> {
        self.value_types.iter().position(|value| value.kind == kind)
    }

    /// The value that graphs show when nobody chose one: the first that says more than the number of
    /// samples does, such as bytes or time spent waiting, else the first.
    pub fn default_value(&self) -> usize {
        let says_more = |value: &ValueType| value.unit != "count" && value.kind != "cpu";
        self.value_types.iter().position(says_more).unwrap_or(0)
    }
}
