//! Profiles that the tests share.

use std::collections::BTreeMap;
use std::sync::Arc;

use moonscope_profile::{Accounting, Frame, FrameId, FrameKind, LabelsId, Meta, Module, Profile, ValueType};

/// A gateway: every kind of frame, inlined code, unknown code, two processes.
pub fn gateway() -> Profile {
    let mut profile = Profile::new(vec![ValueType::samples(), ValueType::cpu()]);
    profile.meta = Meta {
        start: Some(1_769_860_800_123_456_789),
        duration: Some(10_000_000_000),
        period: Some((ValueType::cpu(), 10_101_010)),
        event: "cpu-clock".to_owned(),
        frequency_hz: Some(99),
        target: "process 4321 (nginx)".to_owned(),
        host: "web1".to_owned(),
        kernel: "6.1.0-18-amd64".to_owned(),
        producer: "moonscope 0.1.0".to_owned(),
        comments: vec!["kernel names are missing: kptr_restrict is 2".to_owned()],
    };
    profile.accounting = Accounting {
        fired: 1980,
        idle: 1760,
        filtered: 0,
        complete: 212,
        truncated: BTreeMap::from([
            ("no unwind row".to_owned(), 6),
            ("unreadable stack".to_owned(), 2),
        ]),
        lost: BTreeMap::new(),
    };

    let nginx = profile.module(Module {
        path: "/usr/sbin/nginx".to_owned(),
        build_id: Some("0badc0de".to_owned()),
    });
    let libfoo = profile.module(Module::new("/usr/lib/libfoo.so"));
    let mut native = |name: &str, offset: u64, line: u32, inlined: bool| {
        let file: Option<Arc<str>> = (line > 0).then(|| "src/core/nginx.c".into());
        profile.frame(Frame {
            module: Some(nginx),
            offset: Some(offset),
            line: (line > 0).then_some(line),
            file,
            inlined,
            ..Frame::named(FrameKind::Native, name)
        })
    };
    let main = native("main", 0x1000, 383, false);
    let cycle = native("ngx_worker_process_cycle", 0x2040, 721, false);
    let phases = native("ngx_http_core_run_phases", 0x3080, 0, false);
    let outer = native("ngx_http_lua_access_handler", 0x4100, 120, false);
    let inner = native("ngx_http_lua_access_by_chunk", 0x4100, 88, true);
    let unknown = profile.frame(Frame {
        module: Some(libfoo),
        offset: Some(0x1234),
        ..Frame::unknown(FrameKind::Native)
    });
    let mut kernel = |name: &str| profile.frame(Frame::named(FrameKind::Kernel, name));
    let syscall = kernel("do_syscall_64");
    let sendmsg = kernel("tcp_sendmsg");
    let mut lua = |kind, name: &str, file: Option<&str>, line: u32, defined_at: u32| {
        profile.frame(Frame {
            file: file.map(Into::into),
            line: (line > 0).then_some(line),
            defined_at: (defined_at > 0).then_some(defined_at),
            function: (!name.is_empty()).then(|| name.into()),
            ..Frame::unknown(kind)
        })
    };
    let access = lua(
        FrameKind::LuaInterpreted,
        "access",
        Some("plugins/limit-count.lua"),
        87,
        80,
    );
    let hash = lua(FrameKind::LuaCompiled, "hash", Some("core/hash.lua"), 12, 10);
    let anonymous = lua(
        FrameKind::LuaInterpreted,
        "",
        Some("access_by_lua(nginx.conf:12)"),
        3,
        1,
    );
    let gsub = lua(FrameKind::LuaBuiltin, "string.gsub", None, 0, 0);
    let truncated = profile.frame(Frame::marker("truncated"));

    let worker1 = labels(&mut profile, "nginx", 4321, 4321);
    let worker2 = labels(&mut profile, "nginx", 4322, 4322);
    let pool = labels(&mut profile, "pool", 4321, 4330);
    let base = [main, cycle, phases];
    let handler = [main, cycle, phases, outer, inner];
    let with = |base: &[FrameId], more: &[FrameId]| [base, more].concat();
    for (labels, stack, count) in [
        (worker1, with(&base, &[]), 10),
        (worker1, with(&handler, &[]), 5),
        (worker1, with(&handler, &[access]), 20),
        (worker1, with(&handler, &[access, hash]), 60),
        (worker1, with(&handler, &[access, gsub]), 15),
        (worker2, with(&handler, &[anonymous]), 8),
        (worker2, with(&handler, &[access, hash]), 22),
        (worker1, with(&base, &[syscall, sendmsg]), 40),
        (worker2, with(&base, &[syscall]), 12),
        (pool, vec![truncated, unknown], 8),
        (pool, vec![main, unknown], 12),
        (pool, vec![], 8),
    ] {
        let stack = profile.stack(stack);
        profile.add(stack, labels, &[count, count * 10_101_010]);
    }
    profile
}

fn labels(profile: &mut Profile, comm: &str, pid: i64, tid: i64) -> LabelsId {
    profile.labels(&[("comm", comm.into()), ("pid", pid.into()), ("tid", tid.into())])
}

/// Names that try to break out of every format.
pub const HOSTILE: [&str; 14] = [
    "std::array::from_fn::<[u8; 8]>",
    "two\nlines 99\nroot;evil 5",
    "foo 12",
    " ",
    "# comment",
    "</title><script>alert(1)</script>",
    "]]><script>alert(2)</script>",
    "\" onload=\"alert(3)",
    "\u{1b}[2J\u{1b}]0;owned\u{7}",
    "nul\0byte\u{7f}\u{85}\u{2028}\u{202e}txt",
    "\u{fffe}\u{ffff}\u{f8ff}\u{f8fe}",
    "back\\slash \\x3b",
    "_[k]",
    "--",
];

/// A profile in which every name is hostile.
pub fn hostile() -> Profile {
    let mut profile = Profile::new(vec![ValueType::samples()]);
    profile.meta.event = "evil\u{1b}[31m-->".to_owned();
    profile.meta.target = "process 1 (</text><script>alert(4)</script>\n)".to_owned();
    profile.meta.comments = vec!["--> \u{1b}[0m <b>".to_owned()];
    profile.accounting.fired = 42;
    profile.accounting.lost.insert("<\u{1b}>".to_owned(), 42);
    for (nr, name) in HOSTILE.iter().enumerate() {
        let module = profile.module(Module::new(*name));
        let kinds = [
            FrameKind::Native,
            FrameKind::Kernel,
            FrameKind::LuaCompiled,
            FrameKind::Marker,
        ];
        let frames: Vec<_> = kinds
            .into_iter()
            .map(|kind| {
                profile.frame(Frame {
                    file: Some((*name).into()),
                    ..Frame::named(kind, *name)
                })
            })
            .collect();
        let unknown = Frame {
            module: Some(module),
            offset: Some(1),
            ..Frame::unknown(FrameKind::Native)
        };
        let unknown = profile.frame(unknown);
        let labels = profile.labels(&[("comm", (*name).into()), ("pid", (nr as i64).into())]);
        let deep = profile.stack(frames.iter().copied().chain([unknown]));
        let leaf = profile.stack([frames[0]]);
        profile.add(deep, labels, &[2]);
        profile.add(leaf, labels, &[1]);
    }
    profile
}
