//! One thing that was tried.

use serde::Serialize;

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// It works.
    Ok,
    /// It works in part, or something optional is not there.
    Limited,
    /// Recording needs it, and it does not work.
    Missing,
    /// A fact that neither helps nor harms.
    Info,
}

/// What was tried, what came out, what follows.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    /// `kernel`, `privilege`, `bpf`, `perf`.
    pub(super) group: &'static str,
    /// What was tried.
    pub(super) name: &'static str,
    pub(super) state: State,
    /// What came out, in a few words.
    pub(super) found: String,
    /// What does not work without it; empty if nothing is lost.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) lost: String,
    /// What to do, one step a line; empty if there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) remedy: String,
}

impl Check {
    /// It works.
    pub(super) fn ok(group: &'static str, name: &'static str, found: impl Into<String>) -> Self {
        Self {
            group,
            name,
            state: State::Ok,
            found: found.into(),
            lost: String::new(),
            remedy: String::new(),
        }
    }

    /// A fact.
    pub(super) fn info(group: &'static str, name: &'static str, found: impl Into<String>) -> Self {
        Self {
            state: State::Info,
            ..Self::ok(group, name, found)
        }
    }

    /// Not (fully) there, but recording works without it.
    pub(super) fn limited(self, lost: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            state: State::Limited,
            lost: lost.into(),
            remedy: remedy.into(),
            ..self
        }
    }

    /// Not there, and recording needs it.
    pub(super) fn missing(self, lost: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            state: State::Missing,
            lost: lost.into(),
            remedy: remedy.into(),
            ..self
        }
    }

    pub(super) fn prevents_recording(&self) -> bool {
        self.state == State::Missing
    }
}
