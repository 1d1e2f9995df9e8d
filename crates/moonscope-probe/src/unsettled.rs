//! Stacks of which something is not known yet: a trace younger than the last look at those of its VM, the name of a function,
//! whether a file has Lua in it. Each came once, so it must be told again from what came then.

use std::sync::Arc;

use moonscope_unwind::{WalkFrame, abi};

use crate::generation::Generation;
use crate::lua::UserFrame;
use crate::sample::RawSample;

/// How often a stack is tried again, each time with values for it, half a second apart: what is not known by then was
/// gone before it could be read.
const TRIES: u8 = 4;

/// What a stack was told from.
#[derive(Debug)]
pub struct Unsettled {
    head: abi::ms_sample,
    words: Box<[u64]>,
    /// User frames, as walked here or by the kernel side.
    pub user: Vec<UserFrame>,
    /// Why the walk ended early.
    pub cut: Option<&'static str>,
    /// The mappings with which it was walked.
    pub generation: Option<Arc<Generation>>,
    tries: u8,
}

impl Unsettled {
    /// The stack of a sample, with its user frames and why these end early.
    pub fn new(
        sample: &RawSample<'_>,
        (user, cut): (Vec<UserFrame>, Option<&'static str>),
        generation: Option<Arc<Generation>>,
    ) -> Self {
        Self {
            head: sample.head,
            words: sample.frames().into(),
            user,
            cut,
            generation,
            tries: 0,
        }
    }

    /// The sample, without the copy of its stack.
    pub fn sample(&self) -> RawSample<'_> {
        RawSample::without_copy(self.head, &self.words)
    }

    /// Its native frames.
    pub fn native(&self) -> impl Iterator<Item = &WalkFrame> {
        self.user.iter().filter_map(|frame| match frame {
            UserFrame::Native(native) => Some(native),
            UserFrame::Lua(_) => None,
        })
    }

    /// To be tried once more, if it was not tried often.
    pub fn again(mut self) -> Option<Self> {
        self.tries += 1;
        (self.tries < TRIES).then_some(self)
    }
}
