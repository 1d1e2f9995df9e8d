//! Who holds the heap.

use moonscope_luajit::heap::{Census, Holder, Holders};
use serde_json::{Value, json};

use super::vms::OneVm;
use crate::table::{Table, size};

/// A holder that passes on more than this part of what it holds to one other says nothing that this one does not.
const PASSED_ON: f64 = 0.97;
/// Less than this part of the heap is not worth a line in a table.
const LITTLE: f64 = 0.002;

/// The whole way to a holder.
fn way(holders: &[Holder], place: usize) -> String {
    let mut parts = Vec::new();
    let mut next = Some(place);
    while let Some(holder) = next.and_then(|place| holders.get(place)) {
        parts.push(holder.name.as_str());
        next = holder.parent;
    }
    parts.into_iter().rev().collect()
}

/// Those that hold most, each with its place, the largest first.
fn largest(who: &Holders, count: usize) -> Vec<(usize, &Holder)> {
    let mut largest_part = vec![0; who.all.len()];
    for holder in &who.all {
        if let Some(part) = holder.parent.and_then(|parent| largest_part.get_mut(parent)) {
            *part = holder.held_bytes.max(*part);
        }
    }
    let says_something = |(place, holder): &(usize, &Holder)| {
        let part = largest_part.get(*place).copied().unwrap_or(0);
        holder.held_bytes > 0 && part as f64 <= PASSED_ON * holder.held_bytes as f64
    };
    let mut all: Vec<(usize, &Holder)> = who.all.iter().enumerate().filter(says_something).collect();
    all.sort_by_key(|(place, holder)| (std::cmp::Reverse(holder.held_bytes), *place));
    all.truncate(count);
    all
}

/// For a document.
pub fn json(who: &Holders, census: &Census, count: usize) -> Value {
    let holders: Vec<Value> = largest(who, count)
        .into_iter()
        .map(|(place, holder)| {
            json!({
                "holder": way(&who.all, place),
                "held_bytes": holder.held_bytes, "held_count": holder.held_count,
                "bytes": holder.bytes, "count": holder.count,
            })
        })
        .collect();
    json!({
        "holders": holders,
        "reached_bytes": who.bytes,
        "reached_count": who.reached,
        "not_reached_bytes": who.not_reached(census),
        "torn": who.torn,
        "end": who.end.as_str(),
    })
}

/// For people.
pub fn rows(table: &mut Table, vm: &OneVm, who: &Holders, census: &Census, count: usize) {
    let total = census.total.1.max(1) as f64;
    let share = |bytes: u64| format!("{:.1}", 100.0 * bytes as f64 / total);
    let is_much = |holder: &Holder| holder.held_bytes as f64 >= LITTLE * total;
    for (place, holder) in largest(who, count)
        .into_iter()
        .filter(|(_, holder)| is_much(holder))
    {
        table.row([
            vm.name(),
            size(holder.held_bytes),
            share(holder.held_bytes),
            holder.held_count.to_string(),
            size(holder.bytes),
            way(&who.all, place),
        ]);
    }
    let rest = who.not_reached(census);
    table.row([
        vm.name(),
        size(rest),
        share(rest),
        "-".to_owned(),
        "-".to_owned(),
        "(nobody: garbage that is not collected yet, or the VM itself)".to_owned(),
    ]);
}
