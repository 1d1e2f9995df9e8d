//! The table of strings.

use std::fmt::Write;

use moonscope_luajit::heap::{HeapBudget, HeapEnd, Spending, Strings};
use serde_json::{Value, json};

use super::Show;
use super::objects::remarks;
use super::progress::Progress;
use super::vms::OneVm;
use crate::exit::Failure;
use crate::table::{Table, size};

/// The table of strings.
pub struct StringsView;

/// Chains of so many strings and more are shown as one row.
const LONG: usize = 16;

fn load(found: &Strings) -> f64 {
    found.all.count as f64 / found.buckets.max(1) as f64
}

/// How many buckets have no string.
fn empty(found: &Strings) -> u64 {
    found.buckets.saturating_sub(found.chains.iter().sum())
}

impl Show for StringsView {
    const KIND: &'static str = "moonscope-lua-strings";
    type Found = (Strings, HeapEnd);

    fn look(&self, vm: &OneVm) -> Result<Self::Found, Failure> {
        let progress = Progress::new(vm);
        let mut show = |objects| progress.show(objects);
        let mut spending = Spending::new(HeapBudget::default(), &mut show);
        Ok(Strings::read(vm.memory(), &vm.heap, &mut spending)?)
    }

    fn json(&self, _: &OneVm, (found, end): &Self::Found) -> Value {
        json!({
            "counted": found.counted,
            "count": found.all.count,
            "bytes": found.all.bytes,
            "largest_bytes": found.all.largest,
            "buckets": found.buckets,
            "empty_buckets": empty(found),
            "load": load(found),
            "longest_chain": found.longest_chain(),
            "chains": found.chains,
            "second_hash_buckets": found.second_hash,
            "cut_chains": found.too_long,
            "torn": found.torn,
            "end": end.as_str(),
        })
    }

    fn table(&self, all: &[(OneVm, Self::Found)]) -> String {
        let mut table = Table::new(&[
            "PID", "STRINGS", "BYTES", "AVERAGE", "LARGEST", "BUCKETS", "LOAD", "LONGEST", "2ND HASH",
        ]);
        let mut chains = Table::new(&["PID", "IN BUCKET", "BUCKETS", "SHARE%"]);
        let mut text = String::new();
        for (vm, (found, end)) in all {
            let of = found.all;
            table.row([
                vm.name(),
                of.count.to_string(),
                size(of.bytes),
                size(of.bytes.checked_div(of.count).unwrap_or(0)),
                size(of.largest),
                found.buckets.to_string(),
                format!("{:.2}", load(found)),
                found.longest_chain().to_string(),
                found.second_hash.to_string(),
            ]);
            let short = found.chains.iter().take(LONG - 1).copied();
            let long: u64 = found.chains.iter().skip(LONG - 1).sum();
            for (length, count) in std::iter::once(empty(found))
                .chain(short)
                .chain([long])
                .enumerate()
            {
                if count > 0 {
                    chains.row([
                        vm.name(),
                        format!("{length}{}", if length == LONG { "+" } else { "" }),
                        count.to_string(),
                        format!("{:.1}", 100.0 * count as f64 / found.buckets.max(1) as f64),
                    ]);
                }
            }
            if found.too_long > 0 {
                let _ = writeln!(
                    text,
                    "process {}: {} chains are longer than is followed",
                    vm.name(),
                    found.too_long
                );
            }
            text += &remarks(vm, found.torn, *end);
        }
        format!("{table}\n{chains}{text}")
    }

    fn orig(&self, _: &OneVm, (found, _): &Self::Found) -> String {
        format!(
            "string count: {}\nstring table buckets: {}\nload factor: {:.2}\nlongest chain: {}\n",
            found.all.count,
            found.buckets,
            load(found),
            found.longest_chain()
        )
    }
}
