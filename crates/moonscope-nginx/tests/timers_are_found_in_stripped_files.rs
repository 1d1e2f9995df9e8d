//! The function that runs timers of ngx_lua, found in files without a symbol for it.
//!
//! The truth: the symbol table of the same file before it was stripped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::Range;
use std::path::Path;
use std::process::Command;

use moonscope_nginx::timer_handlers;
use object::{Object, ObjectSymbol, SymbolKind};

/// The shape of ngx_http_lua_timer.c: three functions of `ngx.timer` of which two share one, a handler, and what ends it early.
const SOURCE: &str = r#"
struct event { void *data; unsigned long flags; void (*handler)(struct event *); void *log; };
int lua_push(void *, int (*)(void *));
struct event *event_of(void *);
int counter;
__attribute__((noinline)) int ngx_http_lua_run_thread(void *L) { return counter += L != 0; }
/* exported, and called by the handler: it is not the handler itself */
__attribute__((noinline)) int ngx_http_lua_run_posted_threads(void *L) { return ngx_http_lua_run_thread(L) + 1; }
static void handler(struct event *ev) {
    if (ngx_http_lua_run_thread(ev->data) == 4) counter += 7;
    ngx_http_lua_run_posted_threads(ev->data);
}
static void abort_timers(struct event *ev) { struct event *other = ev->data; other->handler(other); counter++; }
__attribute__((noinline)) static int helper(void *L, int every) {
    struct event *ev = event_of(L), *end = event_of(ev);
    ev->handler = handler; ev->data = L; ev->log = end;
    end->handler = abort_timers; end->data = ev;
    return every + counter;
}
static int at(void *L) { return helper(L, 0); }
static int every(void *L) { return helper(L, 1); }
static int running(void *L) { return counter + (L == 0); }
void ngx_http_lua_inject_timer_api(void *L) { lua_push(L, at); lua_push(L, every); lua_push(L, running); }
"#;

/// What the program itself has to have, if it is no library.
const REST: &str = r#"
int lua_push(void *L, int (*f)(void *)) { return f(L); }
struct event events[2];
struct event *event_of(void *of) { return &events[of == 0]; }
int main(void) { ngx_http_lua_inject_timer_api(0); return counter; }
"#;

/// Compiles, looks where `handler` is, and strips.
fn built(dir: &Path, flags: &[&str], source: &str) -> (Vec<u8>, Vec<Range<u64>>, u64) {
    let (code, file) = (dir.join("timer.c"), dir.join("built"));
    std::fs::write(&code, source).unwrap();
    let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
    run(Command::new("gcc").args(flags).arg("-o").arg(&file).arg(&code));
    let data = std::fs::read(&file).unwrap();
    let elf = object::File::parse(&*data).unwrap();
    let functions = elf
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0);
    let (mut ranges, mut truth) = (Vec::new(), None);
    for function in functions {
        ranges.push(function.address()..function.address() + function.size());
        truth = truth.or((function.name() == Ok("handler")).then(|| function.address()));
    }
    run(Command::new("strip").arg(&file));
    (std::fs::read(&file).unwrap(), ranges, truth.unwrap())
}

fn found(data: &[u8], functions: &[Range<u64>]) -> Vec<(u64, &'static str)> {
    let function_at = |vaddr: u64| functions.iter().find(|range| range.contains(&vaddr)).cloned();
    timer_handlers(data, &function_at)
}

#[test]
fn the_handler_is_found_however_it_was_compiled() {
    let dir = tempfile::tempdir().unwrap();
    let program = format!("{SOURCE}{REST}");
    for (flags, source) in [
        (&["-shared", "-fPIC", "-O2"][..], SOURCE),
        (&["-shared", "-fPIC", "-O0"], SOURCE),
        (&["-shared", "-fPIC", "-Os"], SOURCE),
        (&["-shared", "-fPIC", "-O2", "-fno-plt"], SOURCE),
        (
            &["-shared", "-fPIC", "-O2", "-fcf-protection=full", "-Wl,-z,ibtplt"],
            SOURCE,
        ),
        (&["-shared", "-fPIC", "-O2", "-Wl,-Bsymbolic"], SOURCE),
        (&["-pie", "-fPIE", "-O2", "-Wl,-E"], &program),
        (&["-no-pie", "-fno-pie", "-O2", "-Wl,-E"], &program),
    ] {
        let (data, functions, truth) = built(dir.path(), flags, source);
        assert_eq!(
            found(&data, &functions),
            [(truth, "ngx_http_lua_timer_handler")],
            "{flags:?}"
        );
    }
}

#[test]
fn where_two_could_be_it_none_is() {
    let dir = tempfile::tempdir().unwrap();
    let source = SOURCE.replace("other->handler(other);", "ngx_http_lua_run_thread(other);");
    assert_ne!(source, SOURCE);
    let (data, functions, _) = built(dir.path(), &["-shared", "-fPIC", "-O2"], &source);
    assert_eq!(found(&data, &functions), []);
}

#[test]
fn other_files_and_damaged_ones_have_none() {
    let dir = tempfile::tempdir().unwrap();
    let (data, functions, truth) = built(dir.path(), &["-shared", "-fPIC", "-O2"], SOURCE);
    let renamed = SOURCE.replace("ngx_http_lua_inject_timer_api", "inject");
    let (other, its_functions, _) = built(dir.path(), &["-shared", "-fPIC", "-O2"], &renamed);
    assert_eq!(found(&other, &its_functions), []);
    assert_eq!(found(&[], &functions), []);
    assert_eq!(found(&data, &[]), []);
    // one byte is another one, or the rest is missing: no panic, and no other function
    for at in (0..data.len()).step_by(7) {
        let mut damaged = data.clone();
        damaged[at] ^= 0x55;
        let answer = found(&damaged, &functions);
        assert!(answer.len() <= 1, "{at}: {answer:?}, not {truth:#x}");
        found(&data[..at], &functions);
    }
}
