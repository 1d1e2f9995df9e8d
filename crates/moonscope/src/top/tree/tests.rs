use super::*;
use moonscope_profile::{Frame, FrameKind, ValueType};

/// Stacks of two workers: `main;work 3`, `main;work;copy 5`, `main;idle 2` (pid 7) and `main;copy 4` (pid 8).
fn example() -> Profile {
    let mut profile = Profile::new(vec![ValueType::samples()]);
    for (pid, stack, value) in [
        (7, "main work", 3),
        (7, "main work copy", 5),
        (7, "main idle", 2),
        (8, "main copy", 4),
        (8, "main never", 0),
    ] {
        let frames: Vec<_> = stack
            .split(' ')
            .map(|name| profile.frame(Frame::named(FrameKind::Native, name)))
            .collect();
        let stack = profile.stack(frames);
        let labels = profile.labels(&[("comm", "nginx".into()), ("pid", pid.into())]);
        profile.add(stack, labels, &[value]);
    }
    profile
}

fn query<'a>() -> Query<'a> {
    Query {
        value: 0,
        detail: Detail::Function,
        only: None,
        find: "",
        focus: None,
    }
}

/// `depth name total own` of each node, as the tree is read.
fn lines(query: &Query<'_>) -> Vec<String> {
    let tree = Tree::new(&example(), query);
    let mut lines = Vec::new();
    let mut todo = vec![(0, 0)];
    while let Some((node, depth)) = todo.pop() {
        let Node {
            own, total, children, ..
        } = &tree.nodes[node as usize];
        lines.push(format!("{depth} {} {total} {own}", tree.text(node)));
        todo.extend(children.iter().rev().map(|&child| (child, depth + 1)));
    }
    lines
}

#[test]
fn nodes_add_up_from_the_leaves_to_the_root_largest_first() {
    assert_eq!(
        lines(&query()),
        [
            "0 all 14 0",
            "1 main 14 0",
            "2 work 8 3",
            "3 copy 5 5",
            "2 copy 4 4",
            "2 idle 2 2"
        ]
    );
}

#[test]
fn a_function_has_its_callers_and_what_each_makes_it_do() {
    let focus = Focus {
        name: "copy".into(),
        direction: Direction::Callers,
    };
    let query = Query {
        focus: Some(&focus),
        ..query()
    };
    assert_eq!(
        lines(&query),
        [
            "0 all 9 9",
            "1 copy 9 9",
            "2 work 5 5",
            "3 main 5 5",
            "2 main 4 4"
        ]
    );
}

#[test]
fn a_function_has_its_callees_wherever_it_is_called() {
    let focus = Focus {
        name: "work".into(),
        direction: Direction::Callees,
    };
    let query = Query {
        focus: Some(&focus),
        ..query()
    };
    assert_eq!(lines(&query), ["0 all 8 0", "1 work 8 3", "2 copy 5 5"]);
}

#[test]
fn a_filter_leaves_the_stacks_that_have_it() {
    let query = Query {
        find: "cop",
        ..query()
    };
    assert_eq!(
        lines(&query),
        [
            "0 all 9 0",
            "1 main 9 0",
            "2 work 5 0",
            "3 copy 5 5",
            "2 copy 4 4"
        ]
    );
}

#[test]
fn one_process_can_be_looked_at_alone() {
    let only = Only {
        grouping: Grouping::by("pid"),
        value: Some("nginx-8".into()),
    };
    let query = Query {
        only: Some(&only),
        ..query()
    };
    assert_eq!(lines(&query), ["0 all 4 0", "1 main 4 0", "2 copy 4 4"]);
}

#[test]
fn a_node_says_whose_it_is_and_keeps_its_identity() {
    let tree = Tree::new(&example(), &query());
    let whose = |path: &[&str]| {
        let id = path.iter().fold(0, |id, name| identity(id, name));
        tree.nodes[tree.find(id).unwrap() as usize]
            .whose
            .text(&tree.owners)
    };
    assert_eq!(whose(&["main"]), "nginx (several)");
    assert_eq!(whose(&["main", "work"]), "nginx-7");
    assert_eq!(whose(&["main", "copy"]), "nginx-8");
    assert_eq!(tree.find(identity(identity(0, "main"), "never")), None);
}
