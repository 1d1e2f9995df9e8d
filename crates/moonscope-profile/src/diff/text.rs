//! The functions whose share changed most, as a table.

use std::io::{self, Write};

use super::Comparison;
use crate::error::WriteError;
use crate::options::readable_unit;
use crate::table::Shares;
use crate::text::{Grouped, more_functions, visible};

/// Functions in each direction.
const MAX_FUNCTIONS: usize = 30;

/// One function in both profiles.
struct Change {
    name: usize,
    own: [f64; 2],
    total: [f64; 2],
}

impl Change {
    fn own_change(&self) -> f64 {
        self.own[1] - self.own[0]
    }

    fn total_change(&self) -> f64 {
        self.total[1] - self.total[0]
    }
}

/// Writes the table.
pub(super) fn write(comparison: &Comparison, out: &mut dyn Write) -> Result<(), WriteError> {
    writeln!(
        out,
        "before: {}, {}",
        comparison.before.subject, comparison.before.circumstances
    )?;
    writeln!(
        out,
        "after:  {}, {}",
        comparison.after.subject, comparison.after.circumstances
    )?;
    let (unit, factor) = readable_unit(
        &comparison.value,
        comparison.before.total.max(comparison.after.total),
    );
    let changes = changes(comparison, factor);
    let what = if comparison.raw {
        format!("{unit}, as recorded")
    } else {
        format!("% of all {unit}, CHANGE in percentage points")
    };
    for (title, sign) in [("GREW", 1.0), ("SHRANK", -1.0)] {
        section(comparison, title, &what, sign, &changes, out)?;
    }
    Ok(())
}

fn changes(comparison: &Comparison, factor: f64) -> Vec<Change> {
    let names = comparison.names.len();
    let pairs = &comparison.pairs;
    let before = Shares::new(names, pairs.iter().map(|pair| (&*pair.path, pair.before)));
    let after = Shares::new(names, pairs.iter().map(|pair| (&*pair.path, pair.after)));
    let in_column = |value: u64, total: u64| match (comparison.raw, total) {
        (true, _) => value as f64 * factor,
        (false, 0) => 0.0,
        (false, total) => value as f64 / total as f64 * 100.0,
    };
    let totals = (comparison.before.total, comparison.after.total);
    let both = |old: u64, new: u64| [in_column(old, totals.0), in_column(new, totals.1)];
    (0..names)
        .map(|name| Change {
            name,
            own: both(before.own[name], after.own[name]),
            total: both(before.total[name], after.total[name]),
        })
        .collect()
}

fn section(
    comparison: &Comparison,
    title: &str,
    what: &str,
    sign: f64,
    changes: &[Change],
    out: &mut dyn Write,
) -> io::Result<()> {
    let key = |change: &Change| (change.own_change() * sign, change.total_change() * sign);
    // What rounds to nothing is noise in a table.
    let least = if comparison.raw { 0.5 } else { 0.005 };
    let mut order: Vec<&Change> = changes
        .iter()
        .filter(|change| change.own_change() * sign >= least)
        .collect();
    order.sort_by(|a, b| {
        let (a, b) = (key(a), key(b));
        b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1))
    });
    writeln!(
        out,
        "\n{title}: functions by the change of what they take themselves ({what})\n"
    )?;
    if order.is_empty() {
        return writeln!(out, "{:>12}", "none");
    }
    writeln!(
        out,
        "{:>12} {:>12} {:>12}  {:>12} {:>12} {:>12}  FUNCTION",
        "SELF CHANGE", "BEFORE", "AFTER", "TOTAL CHANGE", "BEFORE", "AFTER"
    )?;
    for change in order.iter().take(MAX_FUNCTIONS) {
        let text = |value: f64, signed: bool| number(value, signed, comparison.raw);
        writeln!(
            out,
            "{} {} {}  {} {} {}  {}",
            text(change.own_change(), true),
            text(change.own[0], false),
            text(change.own[1], false),
            text(change.total_change(), true),
            text(change.total[0], false),
            text(change.total[1], false),
            visible(&comparison.names[change.name].text)
        )?;
    }
    if order.len() > MAX_FUNCTIONS {
        writeln!(out, "{:>79}  {}", "", more_functions(order.len() - MAX_FUNCTIONS))?;
    }
    Ok(())
}

fn number(value: f64, signed: bool, raw: bool) -> String {
    let sign = match (signed, value) {
        (true, value) if value > 0.0 => "+",
        (true, value) if value < 0.0 => "-",
        _ => "",
    };
    let digits = if raw {
        Grouped(value.abs().round() as u64).to_string()
    } else {
        format!("{:.2}", value.abs())
    };
    format!("{:>12}", format!("{sign}{digits}"))
}
