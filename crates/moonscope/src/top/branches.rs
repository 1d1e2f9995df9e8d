//! The call tree as lines: which branches are open, and what is seen of it.

use std::collections::HashMap;

use super::tree::Tree;

/// Lines of the tree at most; nobody scrolls further.
const MOST: usize = 10_000;

/// A branch is open by itself if it has this part of everything.
const HOT: u64 = 20;

/// Which branches are open that nobody opened or closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Openness {
    /// Those with much in them.
    #[default]
    Hot,
    /// All.
    All,
    /// None.
    Nothing,
}

/// Which branches are open.
#[derive(Clone, Debug, Default)]
pub struct Branches {
    by_itself: Openness,
    /// Those that somebody opened or closed, by identity.
    by_hand: HashMap<u64, bool>,
}

/// A line of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The node.
    pub node: u32,
    /// How many stand above it.
    pub depth: u32,
    /// `None`: nothing is below it.
    pub is_open: Option<bool>,
}

impl Branches {
    /// Opens or closes a branch.
    pub fn set(&mut self, identity: u64, is_open: bool) {
        // more than a person does by hand
        if self.by_hand.len() < MOST {
            self.by_hand.insert(identity, is_open);
        }
    }

    /// All open, then none, then those with much in them.
    pub fn next(&mut self) {
        self.by_hand.clear();
        self.by_itself = match self.by_itself {
            Openness::Hot => Openness::All,
            Openness::All => Openness::Nothing,
            Openness::Nothing => Openness::Hot,
        };
    }

    /// Is a node's branch open?
    fn is_open(&self, tree: &Tree, node: u32) -> bool {
        let node = &tree.nodes[node as usize];
        let by_itself = match self.by_itself {
            Openness::Hot => node.total.saturating_mul(HOT) >= tree.total(),
            Openness::All => true,
            Openness::Nothing => false,
        };
        self.by_hand.get(&node.identity).copied().unwrap_or(by_itself)
    }

    /// The lines that are to be seen.
    pub fn lines(&self, tree: &Tree) -> Vec<Line> {
        let mut lines = Vec::new();
        let below = |node: u32, depth| {
            let children = tree.nodes[node as usize].children.iter().rev();
            children.map(move |&child| (child, depth))
        };
        let mut todo: Vec<(u32, u32)> = below(0, 0).collect();
        while let Some((node, depth)) = todo.pop() {
            if lines.len() == MOST {
                break;
            }
            let has_more = !tree.nodes[node as usize].children.is_empty();
            let is_open = has_more.then(|| self.is_open(tree, node));
            lines.push(Line { node, depth, is_open });
            if is_open == Some(true) {
                todo.extend(below(node, depth + 1));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::{Detail, identity};
    use super::super::tree::Query;
    use super::*;
    use moonscope_profile::{Frame, FrameKind, Profile, ValueType};

    fn shown(branches: &Branches) -> Vec<String> {
        let mut profile = Profile::new(vec![ValueType::samples()]);
        for (stack, value) in [("main hot deep", 98), ("main cold ice", 2)] {
            let frames: Vec<_> = stack
                .split(' ')
                .map(|name| profile.frame(Frame::named(FrameKind::Native, name)))
                .collect();
            let stack = profile.stack(frames);
            let labels = profile.labels(&[]);
            profile.add(stack, labels, &[value]);
        }
        let query = Query {
            value: 0,
            detail: Detail::Function,
            only: None,
            find: "",
            focus: None,
        };
        let tree = Tree::new(&profile, &query);
        let lines = branches.lines(&tree).into_iter();
        lines
            .map(|line| format!("{}{}", line.depth, tree.text(line.node)))
            .collect()
    }

    #[test]
    fn hot_branches_are_open_until_somebody_closes_them() {
        let mut branches = Branches::default();
        assert_eq!(shown(&branches), ["0main", "1hot", "2deep", "1cold"]);
        let hot = identity(identity(0, "main"), "hot");
        let cold = identity(identity(0, "main"), "cold");
        branches.set(hot, false);
        branches.set(cold, true);
        assert_eq!(shown(&branches), ["0main", "1hot", "1cold", "2ice"]);
        branches.next();
        assert_eq!(shown(&branches), ["0main", "1hot", "2deep", "1cold", "2ice"]);
        branches.next();
        assert_eq!(shown(&branches), ["0main"]);
    }
}
