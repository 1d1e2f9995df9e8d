//! Which phase of nginx a stack runs in, as far as its frames tell.
//!
//! Evidence, from root to leaf: functions of ngx_lua (lua-nginx-module, stream-lua-nginx-module) that serve
//! one phase only; the main chunks of inline code, which ngx_lua names after their directive
//! (`access_by_lua(nginx.conf:42)`, ngx_http_lua_gen_chunk_name); and, where neither is on the stack, the
//! functions that APISIX's nginx.conf calls (`apisix/init.lua`). A phase can run inside another: `ngx.say`
//! in a content handler runs the filters of header and body.

use crate::frame::{Frame, FrameKind};

/// A phase of nginx in which Lua runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Reading the configuration, start and end of a worker.
    Init,
    /// TLS handshake: certificate, client hello, sessions.
    Ssl,
    /// First bytes of a stream connection.
    Preread,
    /// Rewrite of the request; also `set_by_lua`.
    Rewrite,
    /// Whether the request may go on.
    Access,
    /// The answer.
    Content,
    /// Choice of an upstream server.
    Balancer,
    /// The headers of the answer.
    HeaderFilter,
    /// A part of the answer's body.
    BodyFilter,
    /// After the answer.
    Log,
    /// `ngx.timer`.
    Timer,
}

impl Phase {
    /// Every phase, in the order of a request.
    pub const ALL: [Self; 11] = [
        Self::Init,
        Self::Ssl,
        Self::Preread,
        Self::Rewrite,
        Self::Access,
        Self::Content,
        Self::Balancer,
        Self::HeaderFilter,
        Self::BodyFilter,
        Self::Log,
        Self::Timer,
    ];

    /// Its name in labels and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Ssl => "ssl",
            Self::Preread => "preread",
            Self::Rewrite => "rewrite",
            Self::Access => "access",
            Self::Content => "content",
            Self::Balancer => "balancer",
            Self::HeaderFilter => "header_filter",
            Self::BodyFilter => "body_filter",
            Self::Log => "log",
            Self::Timer => "timer",
        }
    }
}

/// Phases of a stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Phases {
    /// The innermost.
    pub current: Option<Phase>,
    /// All of them: one bit each.
    all: u16,
    /// The phase that nginx's own core is in, until Lua confirms that it runs there.
    core: Option<Phase>,
    /// The current one is known from a function of APISIX only, with no native frame since.
    is_by_function: bool,
    /// Whether there was a frame of Lua since the last native one.
    in_lua: bool,
}

impl Phases {
    /// The phases of the stack that has one more frame.
    #[must_use]
    pub fn then(mut self, frame: &Frame) -> Self {
        match frame.kind {
            FrameKind::Native => {
                self.in_lua = false;
                self.native(frame.name().unwrap_or_default());
            }
            FrameKind::LuaInterpreted | FrameKind::LuaCompiled => {
                self.lua(frame);
                self.in_lua = true;
            }
            FrameKind::LuaBuiltin => self.in_lua = true,
            FrameKind::Kernel | FrameKind::Marker => {}
        }
        self
    }

    /// Every phase on the stack.
    pub fn iter(self) -> impl Iterator<Item = Phase> {
        Phase::ALL
            .into_iter()
            .filter(move |phase| self.all & bit(*phase) != 0)
    }

    fn enter(&mut self, phase: Phase) {
        self.current = Some(phase);
        self.all |= bit(phase);
        self.is_by_function = false;
    }

    fn native(&mut self, function: &str) {
        if let Some(phase) = of_core(function) {
            self.core = Some(phase);
        } else if is_run_thread(function) {
            // A coroutine of a request, resumed by nginx's core for a handler whose own frame has no name or
            // was left by a tail call.
            if let Some(phase) = self.core.take() {
                self.enter(phase);
            }
        } else if let Some(phase) = of_handler(function) {
            self.core = None;
            self.enter(phase);
        }
    }

    fn lua(&mut self, frame: &Frame) {
        let (name, file) = (
            frame.name().unwrap_or_default(),
            frame.file.as_deref().unwrap_or_default(),
        );
        // A function that inline code defines may be called from anywhere, its main chunk is not.
        if name == MAIN_CHUNK
            && let Some(phase) = of_chunk(file)
        {
            self.enter(phase);
            return;
        }
        let may_be_first = self.current.is_none() || (self.is_by_function && !self.in_lua);
        if may_be_first && let Some(phase) = of_apisix(name, file) {
            self.enter(phase);
            self.is_by_function = true;
        }
    }
}

/// The name of the main chunk of a file or string.
const MAIN_CHUNK: &str = "main chunk";

fn bit(phase: Phase) -> u16 {
    1 << phase as u16
}

/// nginx's own functions that run the handlers of a phase (ngx_http_core_module.c,
/// ngx_stream_core_module.c).
fn of_core(function: &str) -> Option<Phase> {
    Some(match function {
        "ngx_http_core_rewrite_phase" => Phase::Rewrite,
        "ngx_http_core_access_phase" => Phase::Access,
        "ngx_http_core_content_phase" | "ngx_stream_core_content_phase" => Phase::Content,
        "ngx_stream_core_preread_phase" => Phase::Preread,
        _ => return None,
    })
}

/// Runs a coroutine of ngx_lua: of rewrite, access, content, timers and certificates, never of a filter.
fn is_run_thread(function: &str) -> bool {
    matches!(function, "ngx_http_lua_run_thread" | "ngx_stream_lua_run_thread")
}

/// Functions of ngx_lua under which only Lua of one phase runs. `ngx_http_lua_header_filter` and
/// `ngx_http_lua_body_filter` are not among them: they go on to the filters of other modules.
fn of_handler(function: &str) -> Option<Phase> {
    let rest = function
        .strip_prefix("ngx_http_lua_")
        .or_else(|| function.strip_prefix("ngx_stream_lua_"))?;
    Some(match rest {
        "init_by_inline"
        | "init_by_file"
        | "init_worker"
        | "init_worker_by_inline"
        | "init_worker_by_file"
        | "exit_worker"
        | "exit_worker_by_inline"
        | "exit_worker_by_file" => Phase::Init,
        "set_by_chunk" | "filter_set_by_lua_inline" | "filter_set_by_lua_file" => Phase::Rewrite,
        "timer_handler" => Phase::Timer,
        "wev_handler" => return None,
        _ => {
            let (phase, end) = BY_PREFIX
                .into_iter()
                .find_map(|(prefix, phase)| Some((phase, rest.strip_prefix(prefix)?)))?;
            let is_handler = matches!(
                end,
                "_handler"
                    | "_handler_inline"
                    | "_handler_file"
                    | "_by_chunk"
                    | "_inline"
                    | "_file"
                    | "_wev_handler"
            );
            return is_handler.then_some(phase);
        }
    })
}

/// Beginnings of function names, and of the names of directives (with `_by_lua` behind).
const BY_PREFIX: [(&str, Phase); 16] = [
    ("server_rewrite", Phase::Rewrite),
    ("rewrite", Phase::Rewrite),
    ("access", Phase::Access),
    ("content", Phase::Content),
    ("log", Phase::Log),
    ("header_filter", Phase::HeaderFilter),
    ("body_filter", Phase::BodyFilter),
    ("balancer", Phase::Balancer),
    ("preread", Phase::Preread),
    ("ssl_client_hello", Phase::Ssl),
    ("ssl_certificate", Phase::Ssl),
    ("ssl_cert", Phase::Ssl),
    ("ssl_session_fetch", Phase::Ssl),
    ("ssl_sess_fetch", Phase::Ssl),
    ("ssl_session_store", Phase::Ssl),
    ("ssl_sess_store", Phase::Ssl),
];

/// Names of inline code: `access_by_lua(nginx.conf:42)`, before ngx_lua 0.10.2 `access_by_lua`.
fn of_chunk(file: &str) -> Option<Phase> {
    let directive = file.split_once('(').map_or(file, |(directive, _)| directive);
    let of = directive
        .strip_suffix("_by_lua")
        .or_else(|| directive.strip_suffix("_by_lua_block"))?;
    match of {
        "init" | "init_worker" | "exit_worker" => Some(Phase::Init),
        "set" => Some(Phase::Rewrite),
        of => BY_PREFIX
            .into_iter()
            .find_map(|(prefix, phase)| (prefix == of).then_some(phase)),
    }
}

/// What the nginx.conf of APISIX calls (`apisix/cli/ngx_tpl.lua`), and what its timers run
/// (`apisix/core/timer.lua`, `apisix/timers.lua`).
fn of_apisix(function: &str, file: &str) -> Option<Phase> {
    let file_is = |end: &str| {
        file.strip_suffix(end)
            .is_some_and(|before| before.is_empty() || before.ends_with('/'))
    };
    let function = function.rsplit(['.', ':']).next().unwrap_or(function);
    if file_is("apisix/core/timer.lua") || file_is("apisix/timers.lua") {
        return matches!(function, "run_timer" | "_internal" | "background_timer").then_some(Phase::Timer);
    }
    if !file_is("apisix/init.lua") && !file_is("apisix.lua") {
        return None;
    }
    Some(match function {
        "http_init" | "http_init_worker" | "http_exit_worker" | "stream_init" | "stream_init_worker" => {
            Phase::Init
        }
        "http_ssl_phase"
        | "ssl_phase"
        | "ssl_client_hello_phase"
        | "http_ssl_client_hello_phase"
        | "stream_ssl_phase" => Phase::Ssl,
        "stream_preread_phase" => Phase::Preread,
        "http_rewrite_phase" => Phase::Rewrite,
        "http_access_phase"
        | "grpc_access_phase"
        | "dubbo_access_phase"
        | "disable_proxy_buffering_access_phase" => Phase::Access,
        "http_admin" | "http_control" | "http_content_phase" => Phase::Content,
        "http_balancer_phase" | "stream_balancer_phase" => Phase::Balancer,
        "http_header_filter_phase" => Phase::HeaderFilter,
        "http_body_filter_phase" => Phase::BodyFilter,
        "http_log_phase" | "stream_log_phase" => Phase::Log,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Phase::*;

    fn native(name: &str) -> Frame {
        Frame::named(FrameKind::Native, name)
    }

    fn lua(name: &str, file: &str) -> Frame {
        Frame {
            file: Some(file.into()),
            ..Frame::named(FrameKind::LuaInterpreted, name)
        }
    }

    fn chunk(file: &str) -> Frame {
        lua(MAIN_CHUNK, file)
    }

    /// The innermost phase and all of them.
    #[track_caller]
    fn expect(frames: &[Frame], current: Option<Phase>, all: &[Phase]) {
        let phases = frames
            .iter()
            .fold(Phases::default(), |phases, frame| phases.then(frame));
        assert_eq!(phases.current, current, "{frames:?}");
        assert_eq!(phases.iter().collect::<Vec<_>>(), all, "{frames:?}");
    }

    #[test]
    fn functions_of_ngx_lua_tell_the_phase() {
        for (function, phase) in [
            ("ngx_http_lua_access_handler", Some(Access)),
            ("ngx_http_lua_content_by_chunk", Some(Content)),
            ("ngx_http_lua_content_handler_file", Some(Content)),
            ("ngx_http_lua_server_rewrite_handler", Some(Rewrite)),
            ("ngx_http_lua_log_handler_inline", Some(Log)),
            ("ngx_http_lua_header_filter_by_chunk", Some(HeaderFilter)),
            ("ngx_http_lua_body_filter_inline", Some(BodyFilter)),
            ("ngx_http_lua_balancer_by_chunk", Some(Balancer)),
            ("ngx_http_lua_ssl_cert_handler", Some(Ssl)),
            ("ngx_http_lua_ssl_sess_fetch_handler", Some(Ssl)),
            ("ngx_http_lua_timer_handler", Some(Timer)),
            ("ngx_http_lua_init_worker_by_inline", Some(Init)),
            ("ngx_stream_lua_preread_handler", Some(Preread)),
            ("ngx_stream_lua_content_handler", Some(Content)),
            ("ngx_http_lua_set_by_chunk", Some(Rewrite)),
            // these go on to other filters, or serve all phases
            ("ngx_http_lua_header_filter", None),
            ("ngx_http_lua_body_filter", None),
            ("ngx_http_lua_wev_handler", None),
            ("ngx_http_lua_log_ringbuf_write", None),
            ("ngx_http_lua_content_length", None),
            ("ngx_http_access_handler", None),
        ] {
            let all: Vec<Phase> = phase.into_iter().collect();
            expect(&[native("main"), native(function)], phase, &all);
        }
    }

    #[test]
    fn main_chunks_of_inline_code_tell_the_phase() {
        for (file, phase) in [
            ("access_by_lua(nginx.conf:42)", Some(Access)),
            ("header_filter_by_lua", Some(HeaderFilter)),
            ("init_worker_by_lua(nginx.conf:7)", Some(Init)),
            ("ssl_certificate_by_lua(nginx.conf:7)", Some(Ssl)),
            ("balancer_by_lua(nginx.conf:7)", Some(Balancer)),
            ("set_by_lua(a.conf:1)", Some(Rewrite)),
            ("server_rewrite_by_lua(a.conf:1)", Some(Rewrite)),
            ("/etc/access_by_lua.lua", None),
            ("mine_by_lua(a.conf:1)", None),
        ] {
            let all: Vec<Phase> = phase.into_iter().collect();
            expect(&[native("lua_pcall"), chunk(file)], phase, &all);
        }
        // a function defined there may run anywhere
        expect(&[lua("f", "access_by_lua(nginx.conf:42)")], None, &[]);
    }

    #[test]
    fn filters_inside_a_content_handler_are_phases_of_their_own() {
        let frames = [
            native("ngx_http_core_content_phase"),
            native("ngx_http_lua_run_thread"),
            chunk("content_by_lua(nginx.conf:107)"),
            native("ngx_http_lua_send_header_if_needed"),
            native("lua_pcall"),
            chunk("header_filter_by_lua(nginx.conf:111)"),
            lua("burn", "work.lua"),
        ];
        expect(&frames, Some(HeaderFilter), &[Content, HeaderFilter]);
    }

    #[test]
    fn files_as_handlers_are_known_by_nginx_itself() {
        let access = [
            native("ngx_http_core_access_phase"),
            Frame::unknown(FrameKind::Native),
            native("ngx_http_lua_run_thread"),
            chunk("/srv/access.lua"),
        ];
        expect(&access, Some(Access), &[Access]);
        // without Lua below, the core's phase says nothing
        expect(&access[..2], None, &[]);
        // the log phase runs inside whatever ended the request
        let log = [
            native("ngx_http_core_content_phase"),
            native("lua_pcall"),
            chunk("/srv/log.lua"),
        ];
        expect(&log, None, &[]);
    }

    #[test]
    fn functions_of_apisix_tell_the_phase_where_nothing_else_does() {
        let init = "/usr/local/apisix/apisix/init.lua";
        expect(
            &[native("lua_pcall"), lua("http_log_phase", init)],
            Some(Log),
            &[Log],
        );
        expect(&[lua("_M.http_access_phase", init)], Some(Access), &[Access]);
        expect(&[lua("ssl_client_hello_phase", init)], Some(Ssl), &[Ssl]);
        expect(&[lua("http_log_phase", "/srv/init.lua")], None, &[]);
        expect(
            &[lua("run_timer", "/usr/local/apisix/apisix/core/timer.lua")],
            Some(Timer),
            &[Timer],
        );
        // another filter inside, known in the same way
        let nested = [
            lua("http_access_phase", init),
            native("lua_pcall"),
            lua("http_header_filter_phase", init),
        ];
        expect(&nested, Some(HeaderFilter), &[Access, HeaderFilter]);
    }

    #[test]
    fn where_evidence_disagrees_the_handler_decides() {
        let init = "apisix/init.lua";
        let by_native = [
            native("ngx_http_lua_rewrite_handler"),
            lua("http_access_phase", init),
        ];
        expect(&by_native, Some(Rewrite), &[Rewrite]);
        let by_chunk = [
            chunk("rewrite_by_lua(nginx.conf:3)"),
            lua("http_access_phase", init),
        ];
        expect(&by_chunk, Some(Rewrite), &[Rewrite]);
        // one calls the other
        let direct = [lua("http_access_phase", init), lua("http_log_phase", init)];
        expect(&direct, Some(Access), &[Access]);
    }
}
