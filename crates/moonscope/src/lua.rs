//! `moonscope lua`: what the memory of Lua VMs holds.

mod gc;
mod objects;
mod progress;
mod strings;
mod vms;
mod who;

use clap::{Args, Subcommand};
use moonscope_probe::live::LiveFiles;
use serde_json::{Value, json};

use crate::exit::{Code, Failure};
use crate::inspect::{self, Format, Looked, ViewArgs};
use vms::{OneVm, Vms};

/// Shows what Lua VMs hold in memory: the garbage collector, objects by type, strings.
///
/// All of it is read out of the memory of the processes, nginx or any other program with LuaJIT in it: nothing is probed,
/// stopped or restarted, and no debug information or symbols are needed.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct LuaArgs {
    #[command(subcommand)]
    view: View,
}

const EXAMPLES: &str = "\
Examples:
  sudo moonscope lua gc --nginx --watch         how much memory Lua uses in each worker, again and again
  sudo moonscope lua objects -p 4321            what it is: strings, tables, functions, …
  sudo moonscope lua objects -p 4321 --who      who holds it: modules, their fields, variables of functions
  sudo moonscope lua strings -p 4321 --json     the table of strings, and how full its buckets are

The old names are understood too: lj-gc, lj-gc-objs, lj-str-tab, also with ngx- before them. Keys of tables that may be data
are shown with --show-values only.

Exit status: 0 if everything was shown, 3 if it is not permitted, 4 if there is no such process or no Lua in it,
6 if one of several could not be looked at.";

#[derive(Subcommand)]
enum View {
    /// The garbage collector: bytes in use, what it is doing, its settings
    #[command(aliases = ["lj-gc", "ngx-lj-gc"])]
    Gc(ViewArgs),
    /// The heap by type of object: how many, how large, the largest
    #[command(visible_alias = "objs", aliases = ["lj-gc-objs", "ngx-lj-gc-objs"])]
    Objects(objects::ObjectsArgs),
    /// The table of strings: how many, how large, how long its chains are
    #[command(aliases = ["lj-str-tab", "ngx-lj-str-tab"])]
    Strings(ViewArgs),
}

/// A view of VMs.
trait Show {
    /// What it is called in JSON.
    const KIND: &'static str;
    /// What is found in one VM.
    type Found;

    /// Looks at a VM.
    fn look(&self, vm: &OneVm) -> Result<Self::Found, Failure>;

    /// What one VM has, as JSON: an object.
    fn json(&self, vm: &OneVm, found: &Self::Found) -> Value;

    /// What all have, for people.
    fn table(&self, all: &[(OneVm, Self::Found)]) -> String;

    /// What one VM has, in the words of the old tool.
    fn orig(&self, vm: &OneVm, found: &Self::Found) -> String;
}

/// Runs the verb.
pub fn run(args: &LuaArgs) -> Result<Code, Failure> {
    match &args.view {
        View::Gc(args) => show(args, &gc::GcView),
        View::Objects(args) => show(&args.view, args),
        View::Strings(args) => show(args, &strings::StringsView),
    }
}

fn show<S: Show>(args: &ViewArgs, view: &S) -> Result<Code, Failure> {
    let mut files = LiveFiles::new()?;
    inspect::show(args.watch, || {
        let Vms { open, mut failed } = Vms::find(&args.target, &mut files)?;
        let (mut all, mut first) = (Vec::new(), None);
        for vm in open {
            match view.look(&vm) {
                Ok(found) => all.push((vm, found)),
                Err(failure) => {
                    failed.push((vm.pid, failure.lines().join(" ").replacen("moonscope: ", "", 1)));
                    first = first.or(Some(failure));
                }
            }
        }
        if let (true, Some(failure)) = (all.is_empty(), first) {
            return Err(failure);
        }
        Ok(Looked {
            text: render(args, view, &all)?,
            failed,
        })
    })
}

fn render<S: Show>(args: &ViewArgs, view: &S, all: &[(OneVm, S::Found)]) -> Result<String, Failure> {
    if args.json {
        let each = all.iter().map(|(vm, found)| {
            let mut value = json!({
                "pid": vm.pid,
                "name": vm.comm,
                "vm": format!("{:#x}", vm.heap.g),
                "reference_bits": u32::from(vm.heap.layout.fields().ref_size) * 8,
                "file": vm.file,
            });
            if let (Some(into), Value::Object(from)) = (value.as_object_mut(), view.json(vm, found)) {
                into.extend(from);
            }
            value
        });
        return inspect::document(S::KIND, "vms", each.collect(), args.watch);
    }
    Ok(match args.format {
        Format::Table => view.table(all),
        Format::Orig => all.iter().map(|(vm, found)| view.orig(vm, found)).collect(),
    })
}
