//! Every script of openresty-systemtap-toolkit and of stapxx, and what it is here. `docs/from-systemtap.md` has the same
//! table for people; a test compares the two.

use super::options::{self, Old};

/// A script.
pub struct Tool {
    pub name: &'static str,
    pub now: Now,
}

/// What became of it. Commands are without `moonscope`.
pub enum Now {
    /// A command that takes its options too.
    Is {
        command: &'static str,
        options: &'static [Old],
    },
    /// Something like it that is to be typed by hand: a command, and how it differs.
    Instead(&'static str, &'static str),
    /// It is not there yet; perhaps a command that helps meanwhile.
    NotYet(Option<&'static str>),
    /// Why it has no meaning any more.
    Never(&'static str),
}

const fn is(name: &'static str, command: &'static str, options: &'static [Old]) -> Tool {
    let now = Now::Is { command, options };
    Tool { name, now }
}

const fn instead(name: &'static str, command: &'static str, how: &'static str) -> Tool {
    let now = Now::Instead(command, how);
    Tool { name, now }
}

const fn not_yet(name: &'static str) -> Tool {
    let now = Now::NotYet(None);
    Tool { name, now }
}

const fn near(name: &'static str, command: &'static str) -> Tool {
    let now = Now::NotYet(Some(command));
    Tool { name, now }
}

const fn never(name: &'static str, why: &'static str) -> Tool {
    let now = Now::Never(why);
    Tool { name, now }
}

const LUA_WAITS: &str = "record --nginx -e lua-wait -d 30 -o waits.svg";
const LEAKS: &str = "lua objects -p PID --who";
const WITH_TIME: &str = "where requests wait and how long, by Lua stack; no histogram";

/// All of them.
pub const TOOLS: &[Tool] = &[
    // requests and connections
    is("ngx-active-reqs", "nginx requests", options::REQUESTS),
    is("ngx-count-conns", "nginx connections", &[]),
    not_yet("ngx-conn-timers"),
    not_yet("ngx-req-distr"),
    not_yet("ngx-rps"),
    not_yet("ngx-req-latency"),
    not_yet("ngx-req-latency-distr"),
    not_yet("ngx-rewrite-latency-distr"),
    near("ngx-single-req-latency", "nginx requests --min-age 1s"),
    not_yet("ngx-slow-purge-reqs"),
    not_yet("ngx-orig-resp-body-len"),
    not_yet("ngx-sr-trunc"),
    not_yet("ngx-timeout-settings"),
    not_yet("ngx-open-file-cache-misses"),
    not_yet("ngx-upstream-latency"),
    not_yet("ngx-upstream-next"),
    not_yet("ngx-upstream-err-log"),
    not_yet("ngx-upstream-post-conn"),
    not_yet("ngx-ssl-session-resumption-stats"),
    not_yet("ngx-ssl-session-ticket-keys"),
    not_yet("ngx-ssl-session-ticket-resumption-stats"),
    not_yet("openssl-handshake-diagnosis"),
    // memory of nginx
    is("ngx-shm", "nginx shm", &[]),
    is("ngx-cycle-pool", "nginx pool", &[]),
    not_yet("ngx-leaked-pools"),
    instead(
        "ngx-req-pool-size",
        "nginx requests --json",
        "pool_bytes of each request in flight; no histogram of those that ended",
    ),
    not_yet("ngx-req-pool-allocs"),
    not_yet("ngx-chain-bufs"),
    // what a request runs through
    is("ngx-header-filters", "nginx filters --chain=header", &[]),
    is("ngx-body-filters", "nginx filters --chain=body", &[]),
    is("ngx-phase-handlers", "nginx phases", &[]),
    not_yet("ngx-zlib-deflate-time"),
    not_yet("ngx-zlib-total-deflate-time"),
    not_yet("ngx-zlib-deflate-chunk-size"),
    // ngx_lua
    is("ngx-lua-bt", "stack", &[]),
    is("ngx-lua-shdict", "nginx shdict", options::SHDICT),
    not_yet("ngx-lua-shdict-writes"),
    near("ngx-lua-shdict-info", "nginx shdict"),
    is("ngx-lua-conn-pools", "nginx pools", options::POOLS),
    is("ngx-lua-count-timers", "nginx timers", &[]),
    instead(
        "ngx-lua-exec-time",
        "record --nginx -d 30 --by phase -o phases.svg",
        "CPU time by phase, from samples; not for each request",
    ),
    instead("ngx-lua-tcp-recv-time", LUA_WAITS, WITH_TIME),
    instead("ngx-lua-tcp-total-recv-time", LUA_WAITS, WITH_TIME),
    instead("ngx-lua-udp-recv-time", LUA_WAITS, WITH_TIME),
    instead("ngx-lua-udp-total-recv-time", LUA_WAITS, WITH_TIME),
    near("ngx-lua-slow-udp-query", LUA_WAITS),
    not_yet("ngx-lua-useless-cosockets"),
    // LuaJIT
    is("lj-gc", "lua gc", &[]),
    is("ngx-lj-gc", "lua gc", &[]),
    is("lj-gc-objs", "lua objects", &[]),
    is("ngx-lj-gc-objs", "lua objects", &[]),
    is("lj-str-tab", "lua strings", &[]),
    is("ngx-lj-str-tab", "lua strings", &[]),
    near("lj-find-str", "lua strings -p PID"),
    near("lj-bucket-depth-accessed", "lua strings -p PID"),
    instead(
        "lj-lua-string-leaks",
        LEAKS,
        "who holds the memory now; call it twice and compare",
    ),
    instead(
        "lj-lua-table-leaks",
        LEAKS,
        "who holds the memory now; call it twice and compare",
    ),
    near(
        "ngx-lj-gc-speed",
        "record --nginx -e lua-alloc -d 30 --value lua_gc -o gc.svg",
    ),
    is("lj-lua-bt", "stack", &[]),
    is("ngx-lj-lua-bt", "stack", &[]),
    is("lj-vm-states", "record -e cpu --by lua-state", options::RECORD),
    is(
        "ngx-lj-vm-states",
        "record -e cpu --by lua-state",
        options::RECORD,
    ),
    not_yet("lj-trace-exit-rate"),
    not_yet("ngx-lj-trace-exits"),
    // regular expressions
    not_yet("ngx-pcre-stats"),
    not_yet("ngx-pcre-top"),
    not_yet("ngx-pcre-dist"),
    not_yet("ngx-pcrejit"),
    // stacks
    is("sample-bt", "record -e cpu", options::RECORD),
    is("ngx-sample-bt", "record -e cpu", options::RECORD),
    is("ngx-sample-lua-bt", "record -e cpu", options::LUA),
    is("ngx-lj-sample-lua-bt", "record -e cpu", options::LUA),
    is("lj-lua-stacks", "record -e cpu", options::LUA),
    is("ngx-lj-lua-stacks", "record -e cpu", options::LUA),
    is("sample-bt-off-cpu", "record -e offcpu", options::OFF_CPU),
    is("ngx-sample-bt-off-cpu", "record -e offcpu", options::OFF_CPU),
    is("sample-bt-vfs", "record -e io", options::IO),
    is("ngx-sample-bt-vfs", "record -e io", options::IO),
    is(
        "sample-bt-leaks",
        "record -e alloc --value inuse_space",
        options::RECORD,
    ),
    near(
        "sample-bt-leaks-wrapalloc",
        "record -p PID -e alloc --value inuse_space -d 60 -o leaks.svg",
    ),
    is("epoll-loop-blocking", "record -e lua-loop:200ms", options::LOOP),
    is(
        "epoll-loop-blocking-vfs",
        "record -e lua-loop:200ms",
        options::LOOP,
    ),
    near(
        "epoll-loop-blocking-distr",
        "record -p PID -e lua-loop -d 30 -o blocked.svg",
    ),
    instead(
        "func-latency-distr",
        "record -p PID -e probe:p:FILE:FUNCTION -d 30 -o calls.svg",
        "with the histogram at its end, and the stacks of those who call",
    ),
    instead(
        "line-prof-by-func",
        "record -p PID --lines -d 30 -o lines.svg",
        "lines of all functions; needs debug information",
    ),
    instead(
        "resolve-src-lines",
        "record -p PID --lines -d 30 -o lines.svg",
        "while recording; needs debug information",
    ),
    instead(
        "resolve-inlines",
        "record -p PID --inline -d 30 -o inlined.svg",
        "while recording; needs debug information",
    ),
    not_yet("ngx-backtrace"),
    never(
        "fix-lua-bt",
        "Lua functions have their names, files and lines from the beginning",
    ),
    instead(
        "ngx-filter-lua-vm-bt",
        "convert IN.json --only '^ngx_http_lua_run_thread$' -o lua.svg",
        "keeps whole stacks that go through it, not the part below it only",
    ),
    instead(
        "ngx-filter-zlib-bt",
        "convert IN.json --only '^deflate' -o zlib.svg",
        "keeps whole stacks that go through it",
    ),
    never(
        "merge-incomplete-bts",
        "stacks that are cut are marked with the reason, and those with the same frames are one",
    ),
    not_yet("reverse-bts"),
    // system
    is("accessed-files", "record -e io --paths --by io-path", options::IO),
    near(
        "slow-vfs-reads",
        "record -p PID -e io --value io_time -d 30 -o io.svg",
    ),
    near(
        "file-io-blocking",
        "record -p PID -e io --value io_time -d 30 -o io.svg",
    ),
    near(
        "disk-io-blocking-vfs",
        "record -p PID -e block -d 30 -o block.svg",
    ),
    not_yet("vfs-page-cache-misses"),
    is("ctx-switches", "record -e context-switches", options::RECORD),
    is("cpu-hogs", "record -a -e cpu --by comm", options::RECORD),
    not_yet("cpu-robbers"),
    not_yet("tcp-accept-queue"),
    not_yet("tcp-recv-queue"),
    not_yet("unix-stream-socks"),
    not_yet("epoll-et-lt"),
    not_yet("probe-rate"),
    is("check-debug-info", "doctor", &[]),
];
