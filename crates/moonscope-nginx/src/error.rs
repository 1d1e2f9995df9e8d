//! Why nginx cannot be looked into.

use moonscope_process::ProcessError;

/// What went wrong; each is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum NginxError {
    /// The process cannot be read.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It is some other program.
    #[error("process {pid} is no nginx: its program has no symbol {symbol}")]
    NotNginx {
        /// The process.
        pid: u32,
        /// What every nginx exports.
        symbol: &'static str,
    },
    /// Its master has no connections, and its helpers none of interest.
    #[error("process {pid} is {role} of nginx and serves nobody")]
    NotAWorker {
        /// The process.
        pid: u32,
        /// What it is instead.
        role: &'static str,
    },
    /// It is starting or ending.
    #[error("nginx in process {pid} has no configuration yet")]
    NoCycle {
        /// The process.
        pid: u32,
    },
    /// It never stood still.
    #[error("{what} changes faster than it can be read")]
    Changing {
        /// What was read.
        what: String,
    },
    /// Where a field is could not be found, or two witnesses disagree.
    #[error("the layout of this nginx is not known: {field}: {why}")]
    Layout {
        /// The field, as the sources call it: `ngx_http_request_t.uri`.
        field: &'static str,
        /// What was looked for and not found, or what disagrees.
        why: String,
    },
}

impl NginxError {
    pub(crate) fn layout(field: &'static str, why: impl Into<String>) -> Self {
        Self::Layout {
            field,
            why: why.into(),
        }
    }
}
