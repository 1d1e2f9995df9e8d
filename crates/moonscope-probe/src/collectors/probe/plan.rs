//! From what was asked for to the places that get a breakpoint, or a refusal with what comes near.

use std::sync::Arc;

use moonscope_process::Executable;

use super::spec::Spec;
use crate::breakpoints::files::TargetFiles;
use crate::error::ProbeError;

/// Places that one recording can probe: each is a breakpoint in every process that is meant, or a hook in the kernel.
pub const MAX_SITES: usize = 512;

/// Beyond the limit it is only counted how many there are.
pub(super) const MAX_SITES_LOOKED_AT: usize = 16 << 10;

/// One place.
#[derive(Clone, Debug)]
pub struct Site {
    /// Number of what was asked for.
    pub spec: u8,
    /// What is there, for people.
    pub name: String,
    /// Is its return probed too?
    pub is_timed: bool,
    /// Where.
    pub at: At,
}

/// Where a site is.
#[derive(Clone, Debug)]
pub enum At {
    /// In a file.
    User {
        /// The file.
        file: Arc<Executable>,
        /// Where in it.
        offset: u64,
        /// Where its counter is that says that somebody looks; 0: it has none.
        counter: u64,
        /// Where a function is left.
        exits: Vec<u64>,
        /// So many processes map it that are not asked for.
        others: usize,
    },
    /// In a function of the kernel.
    Kernel {
        /// The function.
        function: String,
        /// Bytes from its beginning on.
        offset: u64,
    },
    /// A tracepoint of the kernel, in the way that costs least.
    Raw(String),
    /// A tracepoint by its number: one that is a hook of all system calls is no other.
    Numbered(u64),
}

/// What is to be probed, and what is to be said of it.
#[derive(Debug, Default)]
pub struct Plan {
    /// Places.
    pub sites: Vec<Site>,
    /// Lines for whoever asked.
    pub remarks: Vec<String>,
}

/// A spec as it was typed, and what it means.
pub type Asked = (String, Spec);

/// How it is noticed that a function of a program returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Returns {
    /// By a breakpoint on each return.
    #[default]
    Found,
    /// By another return address on its stack (uretprobe).
    Replaced,
    /// Not at all.
    NotAwaited,
}

/// Finds what is asked for.
pub fn plan(asked: &[Asked], files: &TargetFiles, returns: Returns) -> Result<Plan, ProbeError> {
    let mut plan = Plan::default();
    for (number, (text, spec)) in asked.iter().enumerate() {
        let search = Search {
            text,
            number: number as u8,
            files,
            returns,
        };
        let before = plan.sites.len();
        search.add(spec, &mut plan)?;
        let found = plan.sites.len() - before;
        if plan.sites.len() > MAX_SITES {
            let all = if before > 0 {
                format!(" ({} with those before)", plan.sites.len())
            } else {
                String::new()
            };
            return Err(search.refused(
                format!("{found} places{all} are more than can be probed at a time ({MAX_SITES})"),
                "each is a breakpoint: ask for fewer, with more of the name before and behind the `*`"
                    .to_owned(),
            ));
        }
    }
    Ok(plan)
}

/// The search for one spec.
pub(super) struct Search<'a> {
    pub(super) text: &'a str,
    pub(super) number: u8,
    pub(super) files: &'a TargetFiles,
    pub(super) returns: Returns,
}

impl Search<'_> {
    fn add(&self, spec: &Spec, plan: &mut Plan) -> Result<(), ProbeError> {
        match spec {
            Spec::Function(place) => self.add_function(place, plan),
            Spec::User { file, function } => {
                let files = self.files_named(file)?;
                if !self.add_user(&files, function, plan)? {
                    return Err(self.no_function(&files, function));
                }
                Ok(())
            }
            Spec::Kernel(place) => self.add_kernel(place, plan),
            Spec::Tracepoint { group, name } => self.add_tracepoints(group, name, plan),
            Spec::Usdt { file, provider, name } => {
                self.add_usdt(file.as_deref(), provider.as_ref(), name, plan)
            }
        }
    }

    pub(super) fn refused(&self, reason: String, remedy: String) -> ProbeError {
        ProbeError::ProbeSpec {
            spec: self.text.to_owned(),
            reason,
            remedy,
        }
    }
}
