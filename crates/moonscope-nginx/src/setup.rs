//! What modules set up when the configuration is read: which functions they make filters and handlers.
//!
//! A filter is put in front of a chain by
//!
//! ```text
//! ngx_http_next_header_filter = ngx_http_top_header_filter;       a static variable of the module
//! ngx_http_top_header_filter = ngx_http_gzip_header_filter;       a static function of the module
//! ```
//!
//! and a handler is put into its phase by its address. Neither the function nor the variable has a name in a stripped
//! program, but the functions that do this can be reached: each module names its `postconfiguration` in its context. They are
//! decoded ([`walk`]), with the functions that they call.

mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use moonscope_process::RemoteMemory;

use crate::modules::Module;
use walk::Summary;

/// Functions called by functions called by `postconfiguration`: ngx_lua goes two deep, and one is for luck.
const MAX_DEPTH: usize = 3;
/// Functions of one module that are looked at.
const MAX_FUNCTIONS: usize = 512;

/// `"HTTP"`: `NGX_HTTP_MODULE` (src/http/ngx_http_config.h)
const HTTP_MODULE: u64 = 0x5054_5448;
/// `ngx_http_module_t`: preconfiguration, postconfiguration, six more
const POSTCONFIGURATION: u64 = 8;

/// Machine code of a process, wherever it was mapped from.
pub(crate) trait Code {
    /// Bytes from this address on; `None`: it is no address of code.
    fn code(&self, addr: u64) -> Option<&[u8]>;

    /// What stands there never changes while the process runs: it was written by the dynamic linker.
    fn is_fixed(&self, addr: u64) -> bool;
}

/// A chain of filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chain {
    /// Of the header of an answer.
    Header,
    /// Of its body.
    Body,
    /// Of the body of a request.
    RequestBody,
}

impl Chain {
    /// All, in the order of a request.
    pub const ALL: [Self; 3] = [Self::RequestBody, Self::Header, Self::Body];

    /// For people and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Body => "body",
            Self::RequestBody => "request_body",
        }
    }

    /// The exported variable that holds its first filter.
    pub(crate) fn top(self) -> &'static str {
        match self {
            Self::Header => "ngx_http_top_header_filter",
            Self::Body => "ngx_http_top_body_filter",
            Self::RequestBody => "ngx_http_top_request_body_filter",
        }
    }

    /// What modules call the variable that holds the filter behind theirs.
    pub(crate) fn next(self) -> &'static str {
        match self {
            Self::Header => "ngx_http_next_header_filter",
            Self::Body => "ngx_http_next_body_filter",
            Self::RequestBody => "ngx_http_next_request_body_filter",
        }
    }
}

/// The variables that hold the first filter of each chain.
pub(crate) type Tops = Vec<(Chain, u64)>;

/// Where a filter finds the one behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Next {
    /// It is the last: whoever set it up did not keep the one before.
    Last,
    /// In the variable at this address.
    At(u64),
    /// It was kept, and where could not be seen.
    Unknown,
}

/// A filter as a module sets it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Installed {
    pub(crate) chain: Chain,
    pub(crate) filter: u64,
    pub(crate) next: Next,
}

/// What modules set up; they are named by their place in the list of modules.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    filters: BTreeMap<(Chain, u64), BTreeSet<(usize, Next)>>,
    /// Functions whose address a module takes, and how many calls below `postconfiguration`.
    taken: BTreeMap<u64, BTreeSet<(usize, usize)>>,
}

impl Setup {
    /// Looks at all HTTP modules.
    pub(crate) fn find(
        memory: &impl RemoteMemory,
        code: &impl Code,
        modules: &[Module],
        tops: &Tops,
    ) -> Self {
        let mut setup = Self::default();
        let mut known = HashMap::new();
        for (number, module) in modules.iter().enumerate() {
            if module.kind != HTTP_MODULE {
                continue;
            }
            let post = memory.read_u64(module.ctx.wrapping_add(POSTCONFIGURATION));
            let Some(post) = post.ok().filter(|&post| post != 0) else {
                continue;
            };
            setup.add(number, post, |function| {
                let summary = known
                    .entry(function)
                    .or_insert_with(|| Rc::new(walk::summary(memory, code, tops, function)));
                Rc::clone(summary)
            });
        }
        setup
    }

    /// Adds what this function of a module does, and those that it calls.
    fn add(&mut self, module: usize, function: u64, mut summary: impl FnMut(u64) -> Rc<Summary>) {
        let mut seen = BTreeSet::from([function]);
        let mut now = vec![function];
        for depth in 0..=MAX_DEPTH {
            let mut deeper = Vec::new();
            for function in now {
                let summary = summary(function);
                for installed in &summary.installed {
                    self.insert(installed.chain, installed.filter, module, installed.next);
                }
                for &taken in &summary.taken {
                    self.taken.entry(taken).or_default().insert((depth, module));
                }
                let new = summary.calls.iter().copied();
                deeper.extend(new.filter(|&call| seen.len() < MAX_FUNCTIONS && seen.insert(call)));
            }
            now = deeper;
        }
    }

    pub(crate) fn insert(&mut self, chain: Chain, filter: u64, module: usize, next: Next) {
        let of = self.filters.entry((chain, filter));
        of.or_default().insert((module, next));
    }

    /// Whose filter this is and what is behind it; several: nobody can tell.
    pub(crate) fn filter(&self, chain: Chain, filter: u64) -> Vec<(usize, Next)> {
        let found = self.filters.get(&(chain, filter));
        found.into_iter().flatten().copied().collect()
    }

    /// The one module that makes a handler of this function; `None`: none, or several that are equally near to it.
    pub(crate) fn handler(&self, function: u64) -> Option<usize> {
        let found = self.taken.get(&function)?;
        let (depth, module) = *found.first()?;
        let equals = found.iter().filter(|(other, _)| *other == depth);
        (equals.count() == 1).then_some(module)
    }
}

#[cfg(test)]
mod tests;
