//! Text for people: what was sampled, the functions with the largest share, and the call tree.

use std::io::{self, Write};

use crate::error::WriteError;
use crate::headline::{circumstances, subject};
use crate::options::{WriteOptions, readable_unit};
use crate::profile::Profile;
use crate::summary::Summary;
use crate::text::{Grouped, more_functions, visible, wrapped};
use crate::view::{Row, View};

/// Functions in the table; the rest is summed up in one line.
const MAX_FUNCTIONS: usize = 60;
/// Nodes of the call tree with a smaller share are left out, and counted.
const MIN_SHARE: f64 = 0.005;
/// Deeper nodes of the call tree are left out, and counted.
const MAX_TREE_DEPTH: usize = 200;

/// Writes the tables.
pub(crate) fn write(
    profile: &Profile,
    options: &WriteOptions,
    out: &mut dyn Write,
) -> Result<(), WriteError> {
    let view = View::new(profile, options)?;
    let mut page = Page {
        out,
        width: options.width.unwrap_or(usize::MAX),
    };
    let title = options
        .title
        .as_deref()
        .map_or_else(|| subject(profile), |title| visible(title).into_owned());
    page.paragraph(&title)?;
    page.paragraph(&circumstances(profile))?;
    if !profile.accounting.is_empty() {
        page.paragraph(&profile.accounting.to_string())?;
    }
    for comment in &profile.meta.comments {
        page.paragraph(&visible(comment))?;
    }
    summary(profile, options, &mut page)?;
    let (unit, factor) = readable_unit(&view.value, view.total);
    let columns = Columns {
        factor,
        total: view.total,
    };
    functions(&view, unit, columns, &mut page)?;
    tree(&view, unit, columns, &mut page)?;
    Ok(())
}

/// Lines that are cut at a width.
struct Page<'a> {
    out: &'a mut dyn Write,
    width: usize,
}

impl Page<'_> {
    /// Columns, and a text that may be cut at its end.
    fn line(&mut self, columns: &str, text: &str) -> io::Result<()> {
        let room = self.width.saturating_sub(columns.chars().count()).max(10);
        if text.chars().count() <= room {
            return writeln!(self.out, "{columns}{text}");
        }
        let cut: String = text.chars().take(room - 1).collect();
        writeln!(self.out, "{columns}{cut}…")
    }

    /// Words, broken into lines where they are too many for one.
    fn paragraph(&mut self, text: &str) -> io::Result<()> {
        wrapped(text, self.width)
            .iter()
            .try_for_each(|line| self.line("", line))
    }
}

/// How values are printed.
#[derive(Clone, Copy)]
struct Columns {
    factor: f64,
    total: u64,
}

impl Columns {
    /// `     1,234  56.7 %`
    fn value(&self, value: u64) -> String {
        let share = if self.total == 0 {
            0.0
        } else {
            value as f64 / self.total as f64
        };
        let readable = (value as f64 * self.factor).round() as u64;
        format!("{:>12} {:>5.1} %", Grouped(readable), share * 100.0)
    }
}

/// What a name has by itself and with everything it calls, by place in [`View::names`].
pub(crate) struct Shares {
    pub own: Vec<u64>,
    pub total: Vec<u64>,
}

impl Shares {
    /// Sums up rows; a name that is in a path more than once counts once.
    pub fn new<'a>(names: usize, rows: impl Iterator<Item = (&'a [u32], u64)>) -> Self {
        let mut shares = Self {
            own: vec![0; names],
            total: vec![0; names],
        };
        let mut seen_in = vec![usize::MAX; names];
        for (nr, (path, value)) in rows.enumerate() {
            for name in path {
                let name = *name as usize;
                if seen_in[name] != nr {
                    seen_in[name] = nr;
                    shares.total[name] = shares.total[name].saturating_add(value);
                }
            }
            if let Some(leaf) = path.last() {
                let own = &mut shares.own[*leaf as usize];
                *own = own.saturating_add(value);
            }
        }
        shares
    }
}

/// What the label has by which the tree is split.
fn summary(profile: &Profile, options: &WriteOptions, page: &mut Page<'_>) -> Result<(), WriteError> {
    let Some(summary) = Summary::of(profile, options)? else {
        return Ok(());
    };
    page.line("", "")?;
    page.line("", &summary.title())?;
    page.line("", "")?;
    for (columns, name) in summary.lines() {
        page.line(&columns, &name)?;
    }
    Ok(())
}

fn functions(view: &View, unit: &str, columns: Columns, page: &mut Page<'_>) -> io::Result<()> {
    let shares = Shares::new(
        view.names.len(),
        view.rows.iter().map(|row| (&*row.path, row.value)),
    );
    let mut order: Vec<usize> = (0..view.names.len()).collect();
    order.retain(|name| shares.total[*name] > 0);
    order.sort_by_key(|name| std::cmp::Reverse((shares.own[*name], shares.total[*name])));

    page.line("", "")?;
    page.line(
        "",
        &format!("FUNCTIONS by their own {unit}; TOTAL is with everything they call"),
    )?;
    page.line("", "")?;
    page.line(
        &format!("{:>12} {:>7}  {:>12} {:>7}  ", "SELF", "", "TOTAL", ""),
        "FUNCTION",
    )?;
    for name in order.iter().take(MAX_FUNCTIONS) {
        let values = format!(
            "{}  {}  ",
            columns.value(shares.own[*name]),
            columns.value(shares.total[*name])
        );
        page.line(&values, &visible(&view.names[*name].text))?;
    }
    let rest = order.get(MAX_FUNCTIONS..).unwrap_or_default();
    if !rest.is_empty() {
        let own = rest
            .iter()
            .fold(0u64, |sum, name| sum.saturating_add(shares.own[*name]));
        let values = format!("{}  {:>20}  ", columns.value(own), "");
        page.line(&values, &more_functions(rest.len()))?;
    }
    Ok(())
}

/// A node of the call tree that is still to be printed.
struct Node<'a> {
    rows: &'a [Row],
    total: u64,
    depth: usize,
    /// The lines that lead here from above.
    indent: String,
    is_last: bool,
}

fn tree(view: &View, unit: &str, columns: Columns, page: &mut Page<'_>) -> io::Result<()> {
    let least = ((view.total as f64 * MIN_SHARE).ceil() as u64).max(1);
    page.line("", "")?;
    page.line(
        "",
        &format!(
            "CALL TREE, {unit}; branches under {:.1} % are left out",
            MIN_SHARE * 100.0
        ),
    )?;
    page.line("", "")?;
    page.line(
        &format!("{:>12} {:>7}  {:>12} {:>7}  ", "TOTAL", "", "SELF", ""),
        "FUNCTION",
    )?;
    let mut left_out = 0u64;
    let mut todo = children(&view.rows, 0, "", least, &mut left_out);
    // Printed depth first; a list instead of recursion, since stacks can be thousands deep.
    while let Some(node) = todo.pop() {
        let name = &view.names[node.rows[0].path[node.depth] as usize];
        let own = node.rows[0].path.len() == node.depth + 1;
        let own = if own { node.rows[0].value } else { 0 };
        let (branch, below) = match (node.depth, node.is_last) {
            (0, _) => ("", ""),
            (_, true) => ("└ ", "  "),
            (_, false) => ("├ ", "│ "),
        };
        let values = format!("{}  {}  ", columns.value(node.total), columns.value(own));
        page.line(
            &values,
            &format!("{}{branch}{}", node.indent, visible(&name.text)),
        )?;
        if node.depth + 1 < MAX_TREE_DEPTH {
            let indent = format!("{}{below}", node.indent);
            todo.extend(children(node.rows, node.depth + 1, &indent, least, &mut left_out));
        } else {
            left_out = left_out.saturating_add(node.total - own);
        }
    }
    if left_out > 0 {
        page.line(
            &format!("{}  {:>20}  ", columns.value(left_out), ""),
            "(in branches left out)",
        )?;
    }
    Ok(())
}

/// The nodes that rows with a common start have at a depth, the largest last.
fn children<'a>(
    rows: &'a [Row],
    depth: usize,
    indent: &str,
    least: u64,
    left_out: &mut u64,
) -> Vec<Node<'a>> {
    let mut nodes: Vec<Node<'a>> = rows
        .chunk_by(|a, b| a.path.get(depth) == b.path.get(depth))
        .filter(|rows| rows[0].path.len() > depth)
        .map(|rows| {
            let total = rows.iter().fold(0u64, |sum, row| sum.saturating_add(row.value));
            Node {
                rows,
                total,
                depth,
                indent: indent.to_owned(),
                is_last: false,
            }
        })
        .collect();
    nodes.retain(|node| {
        let keep = node.total >= least;
        if !keep {
            *left_out = left_out.saturating_add(node.total);
        }
        keep
    });
    nodes.sort_by_key(|node| node.total);
    if let Some(last) = nodes.first_mut() {
        last.is_last = true;
    }
    nodes
}
