//! The table of functions: what each has by itself, and with all that it calls.

use std::cmp::Reverse;

use super::names::contains;
use super::owners::Whose;
use super::tree::Tree;

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Those with the most by themselves.
    Own,
    /// Those with the most, with all that they call.
    Total,
}

impl Sort {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Own => Self::Total,
            Self::Total => Self::Own,
        }
    }

    /// The heading of its column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "self",
            Self::Total => "total",
        }
    }
}

/// A function.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// Place in [`Tree::names`].
    pub name: u32,
    /// By itself.
    pub own: u64,
    /// With all that it calls: stacks in which it is more than once count once.
    pub total: u64,
    /// Whose samples.
    pub whose: Whose,
}

/// All functions of a tree whose name has this in it.
pub fn functions(tree: &Tree, find: &str, sort: Sort) -> Vec<Function> {
    let mut all: Vec<Function> = (0..tree.names.len() as u32)
        .map(|name| Function {
            name,
            own: 0,
            total: 0,
            whose: Whose::Nobody,
        })
        .collect();
    // how often each is on the path to the node at hand
    let mut on_path = vec![0u32; all.len()];
    let mut todo: Vec<(u32, bool)> = children(tree, 0);
    while let Some((node, is_left)) = todo.pop() {
        let name = tree.nodes[node as usize].name as usize;
        if is_left {
            on_path[name] -= 1;
            continue;
        }
        let node_of = &tree.nodes[node as usize];
        let function = &mut all[name];
        function.own = function.own.saturating_add(node_of.own);
        if on_path[name] == 0 {
            function.total = function.total.saturating_add(node_of.total);
            function.whose = function.whose.with(node_of.whose, &tree.owners);
        }
        on_path[name] += 1;
        todo.push((node, true));
        todo.extend(children(tree, node));
    }
    all.retain(|function| {
        let text = &tree.names[function.name as usize].text;
        function.total > 0 && (find.is_empty() || contains(text, find))
    });
    all.sort_by(|a, b| {
        let key = |function: &Function| match sort {
            Sort::Own => Reverse((function.own, function.total)),
            Sort::Total => Reverse((function.total, function.own)),
        };
        let text = |function: &Function| &tree.names[function.name as usize].text;
        key(a).cmp(&key(b)).then_with(|| text(a).cmp(text(b)))
    });
    all
}

fn children(tree: &Tree, node: u32) -> Vec<(u32, bool)> {
    let children = tree.nodes[node as usize].children.iter();
    children.map(|&child| (child, false)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::names::Detail;
    use super::super::tree::Query;
    use super::*;
    use moonscope_profile::{Frame, FrameKind, Profile, ValueType};

    #[test]
    fn recursion_counts_once_and_each_order_has_its_first() {
        let mut profile = Profile::new(vec![ValueType::samples()]);
        for (stack, value) in [("main fib fib leaf", 4), ("main fib fib", 2), ("main leaf", 1)] {
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
        let rows = |find, sort| {
            let rows = functions(&tree, find, sort).into_iter();
            let row = |row: Function| (tree.names[row.name as usize].text.clone(), row.own, row.total);
            rows.map(row).collect::<Vec<_>>()
        };
        let row = |name: &str, own, total| (name.to_owned(), own, total);
        assert_eq!(
            rows("", Sort::Own),
            [row("leaf", 5, 5), row("fib", 2, 6), row("main", 0, 7)]
        );
        assert_eq!(
            rows("", Sort::Total),
            [row("main", 0, 7), row("fib", 2, 6), row("leaf", 5, 5)]
        );
        assert_eq!(rows("IB", Sort::Own), []);
        assert_eq!(rows("ib", Sort::Own), [row("fib", 2, 6)]);
    }
}
