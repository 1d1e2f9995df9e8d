//! The phase that a request is in: `r->phase_handler` is its place in the engine (src/http/ngx_http_core_module.c).
//!
//! The engine is an array of {checker, handler, next}. Checkers are exported functions; which phase a place belongs to is
//! told by them and by the lists that the engine was made of ([`crate::handlers`]).

use moonscope_process::RemoteMemory;

use crate::block::Block;
use crate::worker::Worker;

/// sizeof(ngx_http_phase_handler_t)
const SIZE: u64 = 24;
/// Handlers of all modules together; a build has some tens.
const MAX_HANDLERS: u64 = 512;

/// A phase of the engine, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// `NGX_HTTP_POST_READ_PHASE`
    PostRead,
    /// `NGX_HTTP_SERVER_REWRITE_PHASE`
    ServerRewrite,
    /// `NGX_HTTP_FIND_CONFIG_PHASE`
    FindConfig,
    /// `NGX_HTTP_REWRITE_PHASE`
    Rewrite,
    /// `NGX_HTTP_POST_REWRITE_PHASE`
    PostRewrite,
    /// `NGX_HTTP_PREACCESS_PHASE`
    Preaccess,
    /// `NGX_HTTP_ACCESS_PHASE`
    Access,
    /// `NGX_HTTP_POST_ACCESS_PHASE`
    PostAccess,
    /// `NGX_HTTP_PRECONTENT_PHASE`
    Precontent,
    /// `NGX_HTTP_CONTENT_PHASE`
    Content,
    /// `NGX_HTTP_LOG_PHASE`, which is not in the engine: its handlers run when all is done.
    Log,
}

impl Phase {
    /// Those of the engine, in the order of their numbers.
    pub(crate) const ENGINE: [Self; 10] = [
        Self::PostRead,
        Self::ServerRewrite,
        Self::FindConfig,
        Self::Rewrite,
        Self::PostRewrite,
        Self::Preaccess,
        Self::Access,
        Self::PostAccess,
        Self::Precontent,
        Self::Content,
    ];

    /// Its number among all phases.
    pub(crate) fn number(self) -> usize {
        self as usize
    }

    /// As the directives of ngx_lua and JSON call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PostRead => "post_read",
            Self::ServerRewrite => "server_rewrite",
            Self::FindConfig => "find_config",
            Self::Rewrite => "rewrite",
            Self::PostRewrite => "post_rewrite",
            Self::Preaccess => "preaccess",
            Self::Access => "access",
            Self::PostAccess => "post_access",
            Self::Precontent => "precontent",
            Self::Content => "content",
            Self::Log => "log",
        }
    }
}

/// A place of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    checker: Checker,
    handler: u64,
}

/// The function that a place belongs to: what is behind `ngx_http_core_` and before `_phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checker {
    Generic,
    Rewrite,
    FindConfig,
    PostRewrite,
    Access,
    PostAccess,
    Content,
    TryFiles,
    Other,
}

impl Checker {
    fn of(name: Option<&str>) -> Self {
        match name {
            Some("ngx_http_core_generic_phase") => Self::Generic,
            Some("ngx_http_core_rewrite_phase") => Self::Rewrite,
            Some("ngx_http_core_find_config_phase") => Self::FindConfig,
            Some("ngx_http_core_post_rewrite_phase") => Self::PostRewrite,
            Some("ngx_http_core_access_phase") => Self::Access,
            Some("ngx_http_core_post_access_phase") => Self::PostAccess,
            Some("ngx_http_core_content_phase") => Self::Content,
            // up to 1.13.3
            Some("ngx_http_core_try_files_phase") => Self::TryFiles,
            _ => Self::Other,
        }
    }
}

impl Place {
    /// A place with the checker of this name.
    pub(crate) fn new(checker: Option<&str>, handler: u64) -> Self {
        Self {
            checker: Checker::of(checker),
            handler,
        }
    }

    /// Its handler; some phases have none.
    pub(crate) fn handler(&self) -> Option<u64> {
        (self.handler != 0).then_some(self.handler)
    }

    pub(crate) fn is_try_files(&self) -> bool {
        self.checker == Checker::TryFiles
    }

    /// Does this phase have such checkers?
    pub(crate) fn may_be_of(&self, phase: Phase) -> bool {
        match self.checker {
            Checker::Generic => matches!(phase, Phase::PostRead | Phase::Preaccess | Phase::Precontent),
            Checker::Rewrite => matches!(phase, Phase::ServerRewrite | Phase::Rewrite),
            Checker::FindConfig => phase == Phase::FindConfig,
            Checker::PostRewrite => phase == Phase::PostRewrite,
            Checker::Access => phase == Phase::Access,
            Checker::PostAccess => phase == Phase::PostAccess,
            Checker::Content => phase == Phase::Content,
            Checker::TryFiles => phase == Phase::Precontent,
            Checker::Other => false,
        }
    }
}

impl<M: RemoteMemory> Worker<M> {
    /// The places of the engine of this `ngx_http_core_main_conf_t`.
    pub(crate) fn places(&self, conf: u64) -> Vec<Place> {
        let engine = self.layout.request.as_ref().map(|layout| layout.engine);
        let handlers = engine.and_then(|engine| self.memory.read_u64(conf.wrapping_add(engine)).ok());
        let Some(handlers) = handlers else {
            return Vec::new();
        };
        let place = |number| {
            let place = Block::read(&self.memory, handlers.wrapping_add(number * SIZE), SIZE).ok()?;
            let checker = place.word(0);
            (checker != 0).then(|| Place::new(self.image.name_at(checker), place.word(8)))
        };
        (0..MAX_HANDLERS).map_while(place).collect()
    }

    /// The phase of each place of the engine; empty where that could not be told.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        let engine = self.engine().ok().flatten();
        engine.map_or_else(Vec::new, |engine| engine.phases)
    }
}
