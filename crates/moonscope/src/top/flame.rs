//! The call tree as boxes: the root on top, each function as wide as its share, those that it calls below it.

use super::tree::Tree;

/// A box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flame {
    /// The node.
    pub node: u32,
    /// How many rows below the top.
    pub row: u32,
    /// The first column.
    pub left: u16,
    /// Columns.
    pub width: u16,
}

/// Rows at most; stacks are cut before.
const DEEPEST: u32 = 512;

/// The boxes of a node and all that is below it, in so many columns. Brothers stand in the order of their names, so that
/// boxes stay where they are while their shares change. What is narrower than a column is left out.
pub fn flames(tree: &Tree, top: u32, columns: u16) -> Vec<Flame> {
    let total = tree.nodes[top as usize].total;
    let mut flames = Vec::new();
    if total == 0 || columns == 0 {
        return flames;
    }
    let column = |value: u64| (u128::from(value) * u128::from(columns) / u128::from(total)) as u16;
    // node, row, and what stands to the left of it
    let mut todo = vec![(top, 0, 0u64)];
    while let Some((node, row, before)) = todo.pop() {
        let of_node = &tree.nodes[node as usize];
        let left = column(before);
        let width = column(before.saturating_add(of_node.total))
            .min(columns)
            .saturating_sub(left);
        if width == 0 {
            continue;
        }
        flames.push(Flame {
            node,
            row,
            left,
            width,
        });
        if row == DEEPEST {
            continue;
        }
        let mut children = of_node.children.clone();
        children.sort_by(|&a, &b| tree.text(a).cmp(tree.text(b)));
        let mut at = before;
        for child in children {
            todo.push((child, row + 1, at));
            at = at.saturating_add(tree.nodes[child as usize].total);
        }
    }
    flames.sort_by_key(|flame| (flame.row, flame.left));
    flames
}

/// Where to go from a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the caller.
    Up,
    /// To the widest function that it calls.
    Down,
    /// To the box beside it.
    Left,
    /// To the box beside it.
    Right,
}

/// The box that lies there; itself if there is none.
pub fn step(tree: &Tree, flames: &[Flame], from: u32, way: Way) -> u32 {
    let Some(at) = flames.iter().find(|flame| flame.node == from) else {
        return flames.first().map_or(0, |first| first.node);
    };
    let beside = |is_there: &dyn Fn(&&Flame) -> bool| {
        let row = flames.iter().filter(|flame| flame.row == at.row);
        row.filter(|flame| is_there(flame))
            .min_by_key(|flame| flame.left.abs_diff(at.left))
    };
    let found = match way {
        Way::Up => flames
            .iter()
            .find(|flame| flame.row + 1 == at.row && flame.node == tree.nodes[from as usize].parent),
        Way::Down => flames
            .iter()
            .filter(|flame| flame.row == at.row + 1 && tree.nodes[flame.node as usize].parent == from)
            .max_by_key(|flame| (flame.width, std::cmp::Reverse(flame.left))),
        Way::Left => beside(&|flame| flame.left < at.left),
        Way::Right => beside(&|flame| flame.left > at.left),
    };
    found.map_or(from, |flame| flame.node)
}

#[cfg(test)]
mod tests {
    use super::super::names::Detail;
    use super::super::tree::Query;
    use super::*;
    use moonscope_profile::{Frame, FrameKind, Profile, ValueType};

    fn tree() -> Tree {
        let mut profile = Profile::new(vec![ValueType::samples()]);
        for (stack, value) in [
            ("main zoo", 20),
            ("main work", 25),
            ("main work copy", 25),
            ("main ant", 30),
            ("tiny", 0),
        ] {
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
        Tree::new(&profile, &query)
    }

    #[test]
    fn boxes_are_as_wide_as_shares_and_stand_in_the_order_of_names() {
        let tree = tree();
        let flames = flames(&tree, 0, 40);
        let boxes: Vec<_> = flames
            .iter()
            .map(|flame| (tree.text(flame.node), flame.row, flame.left, flame.width))
            .collect();
        assert_eq!(
            boxes,
            [
                ("all", 0, 0, 40),
                ("main", 1, 0, 40),
                ("ant", 2, 0, 12),
                ("work", 2, 12, 20),
                ("zoo", 2, 32, 8),
                ("copy", 3, 12, 10),
            ]
        );
    }

    #[test]
    fn one_goes_from_box_to_box() {
        let tree = tree();
        let flames = flames(&tree, 0, 40);
        let go = |ways: &[Way]| {
            let end = ways.iter().fold(0, |at, &way| step(&tree, &flames, at, way));
            tree.text(end).to_owned()
        };
        assert_eq!(go(&[Way::Up]), "all");
        assert_eq!(go(&[Way::Down, Way::Down]), "work");
        assert_eq!(go(&[Way::Down, Way::Down, Way::Right]), "zoo");
        assert_eq!(go(&[Way::Down, Way::Down, Way::Left, Way::Left]), "ant");
        assert_eq!(go(&[Way::Down, Way::Down, Way::Down, Way::Up]), "work");
    }
}
