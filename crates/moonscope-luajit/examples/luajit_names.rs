//! Names of Lua functions in a live process, by hand.
//!
//!     cargo run --example luajit_names -- PID PROTOTYPE...      addresses as `%p` of `jit.util.funcinfo(f).proto`
//!     cargo run --example luajit_names -- PID builtins THREAD   address of a coroutine
//!     cargo run --example luajit_names -- source FILE           functions of a source file

use moonscope_luajit::{Builtins, GcMode, LuaNames, Prototype, SourceFile, StrLayout, globals};
use moonscope_process::ProcessMemory;
use std::error::Error;
use std::time::SystemTime;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["source", file] => functions(file),
        [pid, "builtins", thread] => builtins(pid.parse()?, address(thread)?),
        [pid, ref prototypes @ ..] if !prototypes.is_empty() => names(pid.parse()?, prototypes),
        _ => Err("arguments: PID PROTOTYPE... | PID builtins THREAD | source FILE".into()),
    }
}

fn address(text: &str) -> Result<u64, Box<dyn Error>> {
    Ok(u64::from_str_radix(text.trim_start_matches("0x"), 16)?)
}

fn functions(file: &str) -> Result<(), Box<dyn Error>> {
    for span in SourceFile::parse(&std::fs::read(file)?)?.functions() {
        let vararg = if span.is_vararg { " ..." } else { "" };
        println!(
            "{}-{}\t{}{vararg}\t{}",
            span.first_line, span.last_line, span.params, span.name
        );
    }
    Ok(())
}

fn builtins(pid: u32, thread: u64) -> Result<(), Box<dyn Error>> {
    let memory = ProcessMemory::new(pid);
    let of_mode = |mode| StrLayout::of_thread(&memory, mode, thread);
    let strings = of_mode(GcMode::Gc64).or_else(|_| of_mode(GcMode::Gc32))?;
    let tables = globals::of_thread(&memory, strings.mode(), thread)?;
    let builtins = Builtins::read(&memory, strings.mode(), &strings, &tables);
    for ffid in 2..=255 {
        println!("{ffid}\t{}", builtins.name_or_number(ffid));
    }
    Ok(())
}

fn names(pid: u32, prototypes: &[&str]) -> Result<(), Box<dyn Error>> {
    let memory = ProcessMemory::new(pid);
    let mut names = LuaNames::new(pid, SystemTime::now(), None);
    for prototype in prototypes {
        let at = address(prototype)?;
        let read = |strings: StrLayout| Prototype::read(&memory, strings.mode(), &strings, at);
        let found = [GcMode::Gc64, GcMode::Gc32]
            .into_iter()
            .flat_map(|mode| [StrLayout::with_sid(mode), StrLayout::without_sid(mode)])
            .find_map(|strings| read(strings).ok())
            .ok_or("no prototype there")?;
        println!("{prototype}\t{}", names.name_of(&found).display(None));
    }
    Ok(())
}
