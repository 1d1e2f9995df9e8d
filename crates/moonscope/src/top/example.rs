//! Ten seconds of two workers of a gateway, for tests.

use moonscope_profile::{Frame, FrameKind, Profile, ValueType};

use super::state::{Facts, State};
use std::time::Duration;

const STACKS: [(u32, i64, &str); 8] = [
    (
        4321,
        300,
        "n:main n:ngx_worker_process_cycle n:ngx_http_lua_access_handler n:lj_vm_call L:phase_func@apisix/init.lua:601 L:access@plugins/limit-count.lua:87 b:string.gsub",
    ),
    (
        4321,
        200,
        "n:main n:ngx_worker_process_cycle n:ngx_http_lua_access_handler n:lj_vm_call L:phase_func@apisix/init.lua:601 j:match@resty/radixtree.lua:512",
    ),
    (
        4322,
        150,
        "n:main n:ngx_worker_process_cycle n:ngx_http_lua_access_handler n:lj_vm_call L:phase_func@apisix/init.lua:601 j:match@resty/radixtree.lua:512",
    ),
    (
        4321,
        120,
        "n:main n:ngx_worker_process_cycle n:ngx_epoll_process_events k:do_epoll_wait",
    ),
    (
        4322,
        90,
        "n:main n:ngx_worker_process_cycle n:ngx_http_write_filter n:writev k:tcp_sendmsg",
    ),
    (
        4321,
        60,
        "n:main n:ngx_worker_process_cycle n:ngx_http_log_handler L:log@plugins/http-logger.lua:140",
    ),
    (
        4322,
        40,
        "n:main n:ngx_worker_process_cycle n:ngx_epoll_process_events k:do_epoll_wait",
    ),
    (4322, 25, "m:[truncated] n:memcpy"),
];

fn frame(text: &str) -> Frame {
    let (kind, text) = text.split_at(2);
    let kind = match kind {
        "k:" => FrameKind::Kernel,
        "L:" => FrameKind::LuaInterpreted,
        "j:" => FrameKind::LuaCompiled,
        "b:" => FrameKind::LuaBuiltin,
        "m:" => FrameKind::Marker,
        _ => FrameKind::Native,
    };
    match text.split_once('@') {
        Some((function, place)) => {
            let (file, line) = place.split_once(':').unwrap();
            Frame {
                file: Some(file.into()),
                defined_at: line.parse().ok(),
                ..Frame::named(kind, function)
            }
        }
        None => Frame::named(kind, text),
    }
}

/// What was recorded.
pub fn profile() -> Profile {
    let mut profile = Profile::new(vec![ValueType::samples(), ValueType::cpu()]);
    for (pid, count, stack) in STACKS {
        let frames: Vec<_> = stack.split(' ').map(|text| profile.frame(frame(text))).collect();
        let stack = profile.stack(frames);
        let labels = profile.labels(&[
            ("comm", "nginx".into()),
            ("pid", pid.into()),
            ("tid", pid.into()),
            ("lua-state", if count > 100 { "interpreted" } else { "c" }.into()),
        ]);
        profile.add(stack, labels, &[count, count * 10_101_010]);
    }
    profile.meta.duration = Some(10_000_000_000);
    profile.accounting.fired = 1980;
    profile.accounting.filtered = 995;
    profile.accounting.complete = 960;
    profile.accounting.truncated.insert("no unwind row".into(), 25);
    profile
}

/// The same on the screen.
pub fn state() -> State {
    let facts = Facts {
        target: "nginx (master 4320, 3 processes)".into(),
        event: "cpu at 99 Hz by cpu-clock".into(),
    };
    let mut state = State::new(Duration::from_secs(10), facts);
    state.value = Some("cpu".into());
    state.add(profile());
    state
}
