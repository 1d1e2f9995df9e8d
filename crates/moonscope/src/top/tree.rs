//! The call tree of a profile: equal names below equal names are one node.

use moonscope_profile::{FrameKind, Grouping, LabelSet, Profile, StackId};
use rustc_hash::FxHashMap;

use super::names::{Detail, Name, contains, identity, names};
use super::owners::{Owners, Whose};

/// Samples of one value of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Only {
    /// The label.
    pub grouping: Grouping,
    /// Its value; `None`: samples without it.
    pub value: Option<String>,
}

impl Only {
    fn holds(&self, labels: &LabelSet) -> bool {
        self.grouping.value(labels) == self.value
    }
}

/// Which way a tree grows from a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To those that called it.
    Callers,
    /// To those that it calls.
    Callees,
}

/// A function that a tree begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Focus {
    /// Its name, as it is shown.
    pub name: String,
    /// Which way the tree grows.
    pub direction: Direction,
}

/// What is wanted of a profile.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// The place of the value to show.
    pub value: usize,
    /// How functions are told apart.
    pub detail: Detail,
    /// Samples of these only.
    pub only: Option<&'a Only>,
    /// Stacks in which some name has this in it; empty: all.
    pub find: &'a str,
    /// `None`: the tree begins with the outermost functions.
    pub focus: Option<&'a Focus>,
}

/// One function at one place of the tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// Place in [`Tree::names`].
    pub name: u32,
    /// Place of its caller; of the root its own.
    pub parent: u32,
    /// What it has by itself. In a tree of callers: what the function it begins with has by itself when it is called this way.
    pub own: u64,
    /// With all that is below it.
    pub total: u64,
    /// The same in the next profile.
    pub identity: u64,
    /// Largest first.
    pub children: Vec<u32>,
    /// Whose samples.
    pub whose: Whose,
}

impl Node {
    /// The root, with nothing below it.
    const EMPTY: Self = Self {
        name: u32::MAX,
        parent: 0,
        own: 0,
        total: 0,
        identity: 0,
        children: Vec::new(),
        whose: Whose::Nobody,
    };
}

/// The call tree. Node 0 is the root, which is no function.
#[derive(Clone, Debug)]
pub struct Tree {
    /// What functions are called.
    pub names: Vec<Name>,
    /// Parents stand before their children. Those with a total of 0 are in no list of children.
    pub nodes: Vec<Node>,
    /// Who [`Whose`] speaks of.
    pub owners: Owners,
}

/// Nodes while they are made.
struct Builder<'a> {
    names: &'a [Name],
    nodes: Vec<Node>,
    known: FxHashMap<(u32, u32), u32>,
}

impl<'a> Builder<'a> {
    fn new(names: &'a [Name]) -> Self {
        Self {
            names,
            nodes: vec![Node::EMPTY],
            known: FxHashMap::default(),
        }
    }

    fn child(&mut self, parent: u32, name: u32) -> u32 {
        let (nodes, names) = (&mut self.nodes, self.names);
        *self.known.entry((parent, name)).or_insert_with(|| {
            let above = nodes[parent as usize].identity;
            nodes.push(Node {
                name,
                parent,
                identity: identity(above, &names[name as usize].text),
                ..Node::EMPTY
            });
            nodes.len() as u32 - 1
        })
    }
}

impl Tree {
    /// The tree of what is wanted.
    pub fn new(profile: &Profile, query: &Query<'_>) -> Self {
        let (mut names, of_frame) = names(profile, query.detail);
        let no_stack = names.len() as u32;
        names.push(Name {
            text: "[no stack]".to_owned(),
            kind: FrameKind::Marker,
        });
        let owners = Owners::new(profile);
        let mut builder = Builder::new(&names);
        let places = places(profile, query, &of_frame, &mut builder);
        let is_wanted: Vec<bool> = profile
            .label_sets()
            .iter()
            .map(|labels| query.only.is_none_or(|only| only.holds(labels)))
            .collect();
        for sample in profile.samples() {
            let value = sample.values.get(query.value).copied().unwrap_or(0);
            let Ok(value @ 1..) = u64::try_from(value) else {
                continue;
            };
            if !is_wanted[sample.labels.index()] {
                continue;
            }
            let place = match sample.stack {
                Some(stack) => places[stack.index()],
                None if query.focus.is_some() || !query.find.is_empty() => None,
                None => Some(Place {
                    node: builder.child(0, no_stack),
                    is_own: true,
                }),
            };
            let Some(place) = place else { continue };
            let whose = owners.whose(sample.labels);
            let node = &mut builder.nodes[place.node as usize];
            if place.is_own {
                node.own = node.own.saturating_add(value);
            }
            node.total = node.total.saturating_add(value);
            node.whose = node.whose.with(whose, &owners);
        }
        let nodes = builder.nodes;
        let mut tree = Self { names, nodes, owners };
        let is_of_callers = query
            .focus
            .is_some_and(|focus| focus.direction == Direction::Callers);
        tree.sum_up(is_of_callers);
        tree
    }

    /// Adds up from the leaves to the root, and lists children. In a tree of callers the own part is that of the function
    /// it begins with.
    fn sum_up(&mut self, is_of_callers: bool) {
        for number in (1..self.nodes.len()).rev() {
            let node = &self.nodes[number];
            let (own, total, whose) = (node.own, node.total, node.whose);
            let parent = node.parent as usize;
            let parent = &mut self.nodes[parent];
            if is_of_callers {
                parent.own = parent.own.saturating_add(own);
            }
            parent.total = parent.total.saturating_add(total);
            parent.whose = parent.whose.with(whose, &self.owners);
            if total > 0 {
                parent.children.push(number as u32);
            }
        }
        for number in 0..self.nodes.len() {
            let mut children = std::mem::take(&mut self.nodes[number].children);
            children.sort_by(|&a, &b| {
                let key = |node: u32| std::cmp::Reverse(self.nodes[node as usize].total);
                key(a).cmp(&key(b)).then_with(|| self.text(a).cmp(self.text(b)))
            });
            self.nodes[number].children = children;
        }
    }

    /// What a node is called.
    pub fn text(&self, node: u32) -> &str {
        self.name(node).map_or("all", |name| &name.text)
    }

    /// The name of a node; `None` for the root.
    pub fn name(&self, node: u32) -> Option<&Name> {
        self.names.get(self.nodes[node as usize].name as usize)
    }

    /// What all of it has.
    pub fn total(&self) -> u64 {
        self.nodes[0].total
    }

    /// The node with this identity.
    pub fn find(&self, identity: u64) -> Option<u32> {
        let place = self.nodes.iter().position(|node| node.identity == identity)?;
        (self.nodes[place].total > 0 || place == 0).then_some(place as u32)
    }
}

/// Where in the tree the value of a stack goes.
#[derive(Clone, Copy)]
struct Place {
    node: u32,
    /// Does it count as what the node has by itself?
    is_own: bool,
}

/// The places of all stacks that are wanted, by their numbers.
fn places(
    profile: &Profile,
    query: &Query<'_>,
    of_frame: &[u32],
    builder: &mut Builder<'_>,
) -> Vec<Option<Place>> {
    let stacks = profile.stacks();
    let name_of = |stack: usize| of_frame[stacks[stack].frame.index()];
    let is_found: Vec<bool> = builder
        .names
        .iter()
        .map(|name| query.find.is_empty() || contains(&name.text, query.find))
        .collect();
    // parents stand before their children
    let mut has_found: Vec<bool> = Vec::with_capacity(stacks.len());
    for (stack, node) in stacks.iter().enumerate() {
        let above = node.parent.is_some_and(|parent| has_found[parent.index()]);
        has_found.push(above || is_found[name_of(stack) as usize]);
    }
    let mut is_used = vec![false; stacks.len()];
    let has_value = |values: &[i64]| values.get(query.value).is_some_and(|value| *value > 0);
    for sample in profile.samples().filter(|sample| has_value(sample.values)) {
        if let Some(stack) = sample.stack.map(StackId::index) {
            is_used[stack] = has_found[stack];
        }
    }
    let Some(focus) = query.focus else {
        return downwards(profile, &is_used, |at, stack| {
            Some(builder.child(at.unwrap_or(0), name_of(stack)))
        });
    };
    let is_focus: Vec<bool> = builder.names.iter().map(|name| name.text == focus.name).collect();
    match focus.direction {
        Direction::Callees => downwards(profile, &is_used, |at, stack| {
            let name = name_of(stack);
            let at = at.or_else(|| is_focus[name as usize].then_some(0))?;
            Some(builder.child(at, name))
        }),
        Direction::Callers => {
            let ids = profile.samples().filter_map(|sample| sample.stack);
            let mut places = vec![None; stacks.len()];
            for id in ids.filter(|stack| is_used[stack.index()]) {
                let mut names = profile
                    .leaf_to_root(Some(id))
                    .map(|frame| of_frame[frame.index()]);
                let Some(depth) = names.position(|name| is_focus[name as usize]) else {
                    continue;
                };
                let path = profile.leaf_to_root(Some(id)).skip(depth);
                let node = path.fold(0, |at, frame| builder.child(at, of_frame[frame.index()]));
                let is_own = depth == 0;
                places[id.index()] = Some(Place { node, is_own });
            }
            places
        }
    }
}

/// The places of stacks that grow as they do: `child` has the node of the caller and the number of the stack.
fn downwards(
    profile: &Profile,
    is_ended: &[bool],
    mut child: impl FnMut(Option<u32>, usize) -> Option<u32>,
) -> Vec<Option<Place>> {
    let mut is_used = is_ended.to_vec();
    for (stack, node) in profile.stacks().iter().enumerate().rev() {
        if let (true, Some(parent)) = (is_used[stack], node.parent) {
            is_used[parent.index()] = true;
        }
    }
    let mut places: Vec<Option<Place>> = Vec::with_capacity(is_used.len());
    for (stack, node) in profile.stacks().iter().enumerate() {
        let above = node.parent.and_then(|parent| places[parent.index()]);
        let place = match is_used[stack] {
            true => child(above.map(|place| place.node), stack),
            false => None,
        };
        places.push(place.map(|node| Place { node, is_own: true }));
    }
    let ends = places.iter().zip(is_ended);
    ends.map(|(place, is_ended)| place.filter(|_| *is_ended))
        .collect()
}

#[cfg(test)]
#[path = "tree/tests.rs"]
mod tests;
