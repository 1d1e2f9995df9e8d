//! The phase that a request is in: `r->phase_handler` is its place in the engine (src/http/ngx_http_core_module.c).
//!
//! The engine is an array of {checker, handler, next}. Checkers are exported functions, and the order of phases is fixed, so
//! that the kind of a checker and what came before it say which phase a place belongs to.

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
}

impl Phase {
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
        }
    }

    /// The phase of a place with this checker, behind one of the phase `before`.
    fn of(checker: &str, before: Option<Self>) -> Option<Self> {
        let before = before.unwrap_or(Self::PostRead);
        Some(match checker {
            "ngx_http_core_generic_phase" => match before {
                Self::PostRead => Self::PostRead,
                Self::PostRewrite | Self::Rewrite | Self::FindConfig | Self::Preaccess => Self::Preaccess,
                _ => Self::Precontent,
            },
            "ngx_http_core_rewrite_phase" if before < Self::FindConfig => Self::ServerRewrite,
            "ngx_http_core_rewrite_phase" => Self::Rewrite,
            "ngx_http_core_find_config_phase" => Self::FindConfig,
            "ngx_http_core_post_rewrite_phase" => Self::PostRewrite,
            "ngx_http_core_access_phase" => Self::Access,
            "ngx_http_core_post_access_phase" => Self::PostAccess,
            "ngx_http_core_content_phase" => Self::Content,
            // up to 1.13.3
            "ngx_http_core_try_files_phase" => Self::Precontent,
            _ => return None,
        })
    }
}

impl<M: RemoteMemory> Worker<M> {
    /// The phase of each place of the engine; `None` for a checker that is not known.
    pub(crate) fn phases(&self) -> Vec<Option<Phase>> {
        let engine = self.layout.request.as_ref().map(|layout| layout.engine);
        let handlers = engine
            .zip(self.http_main_conf("ngx_http_core_module"))
            .and_then(|(engine, conf)| self.memory.read_u64(conf.wrapping_add(engine)).ok());
        let Some(handlers) = handlers else {
            return Vec::new();
        };
        let mut phases = Vec::new();
        let mut before = None;
        for number in 0..MAX_HANDLERS {
            let Ok(place) = Block::read(&self.memory, handlers.wrapping_add(number * SIZE), SIZE) else {
                break;
            };
            if place.word(0) == 0 {
                break;
            }
            let phase = self
                .image
                .name_at(place.word(0))
                .and_then(|checker| Phase::of(checker, before));
            before = phase.or(before);
            phases.push(phase);
        }
        phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_checker_and_what_was_before_it_say_the_phase() {
        let checkers = [
            ("generic", Phase::PostRead),
            ("rewrite", Phase::ServerRewrite),
            ("find_config", Phase::FindConfig),
            ("rewrite", Phase::Rewrite),
            ("post_rewrite", Phase::PostRewrite),
            ("generic", Phase::Preaccess),
            ("generic", Phase::Preaccess),
            ("access", Phase::Access),
            ("post_access", Phase::PostAccess),
            ("generic", Phase::Precontent),
            ("content", Phase::Content),
        ];
        let mut before = None;
        for (checker, expected) in checkers {
            let phase = Phase::of(&format!("ngx_http_core_{checker}_phase"), before);
            assert_eq!(phase, Some(expected), "{checker}");
            before = phase;
        }
    }

    #[test]
    fn an_engine_without_handlers_in_the_first_phases_begins_later() {
        let rewrite = Phase::of("ngx_http_core_rewrite_phase", None);
        assert_eq!(rewrite, Some(Phase::ServerRewrite));
        assert_eq!(
            Phase::of("ngx_http_core_find_config_phase", None),
            Some(Phase::FindConfig)
        );
        assert_eq!(Phase::of("other", None), None);
    }
}
