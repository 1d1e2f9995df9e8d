//! Options of the old scripts, and what they are here.
//!
//! Sources: the scripts' own usage texts, and that of stap++, which runs those of stapxx (`-x PID --arg NAME=VALUE`).

/// An option.
pub struct Old {
    /// `-t`, `--min`, or `arg NAME` for stapxx's `--arg NAME=VALUE`.
    pub name: &'static str,
    pub takes: Takes,
    pub does: Does,
}

/// Does a value follow?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Nothing,
    Value,
}

/// What an option is here.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    /// These words, `{}` is its value.
    Becomes(&'static str),
    /// These words instead of those that the tool stands for.
    Replaces(&'static str),
    /// Kernel frames are left out, unless [`Does::Kernel`] is there too.
    User,
    /// Kernel frames are wanted.
    Kernel,
    /// The dictionary whose key is asked for.
    Dict,
    /// The key that is asked for.
    Key,
    /// It has no meaning, or another one: that is said, and all goes on.
    Remark(&'static str),
    /// What was asked for cannot be done: what to do instead.
    Refused(&'static str),
}

use Does::{Becomes, Dict, Kernel, Key, Refused, Remark, Replaces, User};

const fn flag(name: &'static str, does: Does) -> Old {
    let takes = Takes::Nothing;
    Old { name, takes, does }
}

const fn value(name: &'static str, does: Does) -> Old {
    let takes = Takes::Value;
    Old { name, takes, does }
}

const NO_SYSTEMTAP: Does = Remark("there is no SystemTap here that it could be for");
const NO_SOURCE: Does =
    Refused("there is no SystemTap script that could be shown; to say how long, use -t SECONDS");
const ALL_STACKS: Does = Remark("all stacks are written, not the most frequent only");
const FINDS_LUAJIT: Does = Remark("which LuaJIT it is need not be said");

/// Those that all scripts have.
pub const COMMON: &[Old] = &[
    value("-x", Becomes("-p {}")),
    value("-a", NO_SYSTEMTAP),
    value("-D", NO_SYSTEMTAP),
    value("-I", NO_SYSTEMTAP),
    flag("-d", NO_SOURCE),
    flag("--dump-src", NO_SOURCE),
    flag("--luajit20", FINDS_LUAJIT),
    flag("--lj64", FINDS_LUAJIT),
    flag(
        "--lua51",
        Refused("Lua of the PUC interpreter is not understood; if it is LuaJIT, leave it out"),
    ),
];

pub const REQUESTS: &[Old] = &[
    flag("-m", Remark("the memory of each request is pool_bytes of --json")),
    flag(
        "-u",
        Remark("of upstreams there is has_upstream of --json, and what is done with them under DOING"),
    ),
    value(
        "-c",
        Refused("take the one you want from moonscope nginx requests --json, by connection.fd"),
    ),
    flag(
        "-k",
        Refused("moonscope nginx requests --watch looks again and again"),
    ),
];

pub const SHDICT: &[Old] = &[
    flag("-f", Remark("the value is read once, as always")),
    value("--dict", Dict),
    value("--key", Key),
    flag("--raw", Remark("values are written as they are, always")),
    flag("-w", Refused("writes cannot be followed yet")),
];

pub const POOLS: &[Old] = &[flag(
    "--distr",
    Remark("how often connections were used again is there as most, mean and fewest"),
)];

/// What all that record have.
const TIME: Old = value("-t", Becomes("-d {}"));
const ARG_TIME: Old = value("arg time", Becomes("-d {}"));
const LIMIT: Old = value("-l", ALL_STACKS);
const ARG_LIMIT: Old = value("arg limit", ALL_STACKS);
const USER: Old = flag("-u", User);
const KERNEL: Old = flag("-k", Kernel);

pub const RECORD: &[Old] = &[TIME, ARG_TIME, LIMIT, ARG_LIMIT, USER, KERNEL];

const WITH_NATIVE: Does =
    Remark("interpreted and compiled Lua are both there; --by lua-state tells them apart");

pub const LUA: &[Old] = &[
    TIME,
    ARG_TIME,
    LIMIT,
    ARG_LIMIT,
    USER,
    KERNEL,
    value("arg min", Remark("stacks that are rare are written too")),
    value("arg nojit", WITH_NATIVE),
    value("arg nointerp", WITH_NATIVE),
    value("arg detailed", Remark("frames have the lines that ran, always")),
    value(
        "arg probe",
        Refused("moonscope record -e probe:SPEC has stacks, Lua too, of any probe"),
    ),
];

pub const OFF_CPU: &[Old] = &[
    TIME,
    ARG_TIME,
    LIMIT,
    ARG_LIMIT,
    USER,
    KERNEL,
    value("--min", Becomes("--min-block {}us")),
    flag(
        "--distr",
        Refused("there is no histogram of times yet; without it there are stacks with their times"),
    ),
];

const BOTH: Does = Remark("what is read and what is written are both there; --by io-op tells them apart");

pub const IO: &[Old] = &[
    TIME,
    ARG_TIME,
    LIMIT,
    ARG_LIMIT,
    flag("-r", BOTH),
    flag("-w", BOTH),
    flag("--latency", Becomes("--value io_time")),
];

pub const LOOP: &[Old] = &[
    TIME,
    ARG_TIME,
    value("arg limit", Replaces("record -e lua-loop:{}ms")),
];
