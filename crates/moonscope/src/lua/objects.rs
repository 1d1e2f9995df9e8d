//! The heap by type of object.

use std::fmt::Write;

use clap::Args;
use moonscope_luajit::heap::{Census, HeapBudget, HeapEnd, Holders, Kind, Names, Spending};
use serde_json::{Map, Value, json};

use super::progress::Progress;
use super::vms::OneVm;
use super::{Show, ViewArgs, who};
use crate::exit::Failure;
use crate::number;
use crate::table::{Table, size};

/// The heap by type of object.
#[derive(Args)]
pub struct ObjectsArgs {
    #[command(flatten)]
    pub(super) view: ViewArgs,

    /// Shows who holds it: ways from loaded modules, globals and coroutines to what takes most
    #[arg(long)]
    who: bool,

    /// Holders that are shown at most
    #[arg(long, value_name = "N", default_value_t = 40, requires = "who",
          value_parser = number::whole(0_usize.., "40"))]
    holders: usize,

    /// Shows all keys of tables, also those that may be data
    #[arg(long, requires = "who")]
    show_values: bool,
}

/// A heap, and who holds it if that was asked for.
pub struct Found {
    census: Census,
    who: Option<Holders>,
}

/// Parts of a VM that are no objects.
fn own(found: &Census) -> [(&'static str, u64); 5] {
    let own = &found.own;
    [
        ("state", own.state),
        ("string_table", own.string_table),
        ("compiler", own.compiler),
        ("c_types", own.c_types),
        ("buffer", own.buffer),
    ]
}

/// What is not as it should be, for people.
pub fn remarks(vm: &OneVm, torn: u64, end: HeapEnd) -> String {
    let mut text = String::new();
    if torn > 0 {
        let _ = writeln!(text, "process {}: {torn} changed while being read", vm.name());
    }
    let why = match end {
        HeapEnd::Complete => return text,
        HeapEnd::Changed => "its lists changed each time they were read: objects are missing",
        HeapEnd::Budget => "it is larger than is read: objects are missing",
    };
    let _ = writeln!(text, "process {}: {why}", vm.name());
    text
}

impl Show for ObjectsArgs {
    const KIND: &'static str = "moonscope-lua-objects";
    type Found = Found;

    fn look(&self, vm: &OneVm) -> Result<Found, Failure> {
        let progress = Progress::new(vm);
        let mut show = |objects| progress.show(objects);
        let budget = HeapBudget::default();
        let census = Census::take(vm.memory(), &vm.heap, budget, &mut show)?;
        let names = match self.show_values {
            true => Names::All,
            false => Names::OfCode,
        };
        let find = |_| {
            Holders::find(
                vm.memory(),
                &vm.heap,
                names,
                &mut Spending::new(budget, &mut show),
            )
        };
        let who = self.who.then_some(()).map(find).transpose()?;
        Ok(Found { census, who })
    }

    fn json(&self, _: &OneVm, Found { census: found, who }: &Found) -> Value {
        let kinds: Map<String, Value> = Kind::ALL
            .iter()
            .map(|&kind| {
                let of = found.of(kind);
                let value = json!({
                    "count": of.count, "bytes": of.bytes, "largest_bytes": of.largest, "smallest_bytes": of.smallest,
                    "largest": (of.count > 0).then(|| format!("{:#x}", of.largest_at)),
                });
                (kind.as_str().to_owned(), value)
            })
            .collect();
        let own = own(found).map(|(name, bytes)| (name.to_owned(), bytes.into()));
        json!({
            "total_bytes": found.total.1,
            "total_bytes_before": found.total.0,
            "types": kinds,
            "own_bytes": own.into_iter().collect::<Map<String, Value>>(),
            "unexplained_bytes": found.unexplained(),
            "strings_counted": found.strings.counted,
            "torn": found.torn(),
            "end": found.end.as_str(),
            "who": who.as_ref().map(|who| who::json(who, found, self.holders)),
        })
    }

    fn table(&self, all: &[(OneVm, Found)]) -> String {
        let mut table = Table::new(&["PID", "TYPE", "COUNT", "BYTES", "SHARE%", "AVERAGE", "LARGEST"]);
        let mut holders = Table::new(&["PID", "HELD", "SHARE%", "OBJECTS", "ITSELF", "HOLDER"]);
        let mut text = String::new();
        for (vm, Found { census: found, who }) in all {
            let total = found.total.1.max(1) as f64;
            let share = |bytes: u64| format!("{:.1}", 100.0 * bytes as f64 / total);
            let pid = vm.name();
            let mut kinds = Kind::ALL;
            kinds.sort_by_key(|&kind| std::cmp::Reverse(found.of(kind).bytes));
            for kind in kinds {
                let of = found.of(kind);
                let average = of.bytes.checked_div(of.count).unwrap_or(0);
                table.row([
                    pid.clone(),
                    kind.as_str().to_owned(),
                    of.count.to_string(),
                    size(of.bytes),
                    share(of.bytes),
                    size(average),
                    size(of.largest),
                ]);
            }
            let own = found.own.bytes();
            let row = |name: &str, bytes: u64| {
                [
                    pid.clone(),
                    name.to_owned(),
                    "-".to_owned(),
                    size(bytes),
                    share(bytes),
                    "-".to_owned(),
                    "-".to_owned(),
                ]
            };
            table.row(row("(the VM itself)", own));
            if found.unexplained() > 0 {
                table.row(row("(not explained)", found.unexplained().unsigned_abs()));
            }
            table.row(row("(its own count)", found.total.1));
            let (before, after) = found.total;
            if before != after {
                let (name, before, after) = (vm.name(), size(before), size(after));
                let _ = writeln!(
                    text,
                    "process {name}: its own count went from {before} to {after} meanwhile"
                );
            }
            text += &remarks(vm, found.torn(), found.end);
            if let Some(who) = who {
                who::rows(&mut holders, vm, who, found, self.holders);
                text += &remarks(vm, who.torn, who.end);
            }
        }
        match self.who {
            true => format!("{table}\n{holders}{text}"),
            false => format!("{table}{text}"),
        }
    }

    fn orig(&self, _: &OneVm, Found { census: found, .. }: &Found) -> String {
        let mut text = String::new();
        for kind in Kind::ALL {
            let of = found.of(kind);
            if let Some(average) = of.bytes.checked_div(of.count) {
                let _ = writeln!(
                    text,
                    "{} {} objects: max={}, avg={average}, min={}, sum={}",
                    of.count,
                    old_name(kind),
                    of.largest,
                    of.smallest,
                    of.bytes
                );
            }
        }
        let _ = writeln!(text, "sizeof strtab: {} bytes", found.own.string_table);
        let _ = writeln!(
            text,
            "total sz {}\ng->strnum {}, g->gc.total {}",
            found.bytes(),
            found.strings.counted,
            found.total.1
        );
        text
    }
}

/// As the old tool has it.
fn old_name(kind: Kind) -> &'static str {
    match kind {
        Kind::String => "string",
        Kind::Upvalue => "upvalue",
        Kind::Thread => "thread",
        Kind::Prototype => "proto",
        Kind::Function => "function",
        Kind::Trace => "trace",
        Kind::Cdata => "cdata",
        Kind::Table => "table",
        Kind::Userdata => "userdata",
    }
}
