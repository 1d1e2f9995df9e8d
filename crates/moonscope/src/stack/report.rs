//! A process with all names: what both forms of output show.

use std::collections::HashMap;

use moonscope_luajit::coroutines::CoroutineStatus;
use moonscope_probe::live::{LiveCoroutine, LiveProcess, LiveStack};
use moonscope_process::Pid;
use moonscope_profile::{Frame, FrameKind, FrameText, Profile, StackId};

use crate::record::resolve::{self, Namer};

/// A process, and the names of its stacks.
pub struct Report {
    /// What was read.
    pub live: LiveProcess,
    profile: Profile,
    /// By number of the raw stack.
    stacks: Vec<Option<StackId>>,
}

/// A frame as it is shown.
pub struct ShownFrame<'a> {
    /// Its text, not escaped.
    pub text: String,
    /// What is known of it.
    pub frame: &'a Frame,
    /// Path of its file.
    pub module: Option<&'a str>,
}

/// Coroutines that cannot be told apart by what they do.
pub struct Group<'a> {
    /// The first ones, by address.
    pub members: Vec<&'a LiveCoroutine>,
}

impl Report {
    /// Names everything.
    pub fn new(live: LiveProcess, namer: &mut Namer) -> Self {
        let mut profile = Profile::new(Vec::new());
        let stacks = resolve::name_stacks(&live.recorded, namer, &mut profile);
        Self {
            live,
            profile,
            stacks,
        }
    }

    /// The frames of a stack, innermost first; without the mark of a cut one, which `stack` says.
    pub fn frames(&self, stack: LiveStack) -> Vec<ShownFrame<'_>> {
        let id = stack
            .id
            .and_then(|id| self.stacks.get(id.0 as usize).copied().flatten());
        let frames = self.profile.leaf_to_root(id).map(|id| {
            let frame = self.profile.frame_of(id);
            let module = frame.module.map(|module| self.profile.module_of(module));
            ShownFrame {
                text: text(frame, self.profile.text_of(id)),
                frame,
                module: module.map(|module| module.path.as_str()),
            }
        });
        let is_cut_mark = |frame: &ShownFrame<'_>| {
            frame.frame.kind == FrameKind::Marker
                && frame.text == Frame::marker("truncated").function.unwrap_or_default().as_ref()
        };
        frames.filter(|frame| !is_cut_mark(frame)).collect()
    }

    /// The coroutines of a VM: those that run first, then the most frequent stacks.
    pub fn groups(coroutines: &[LiveCoroutine]) -> Vec<Group<'_>> {
        type Key = (CoroutineStatus, bool, Option<Pid>, LiveStack);
        let mut at: HashMap<Key, usize> = HashMap::new();
        let mut groups: Vec<Group<'_>> = Vec::new();
        for coroutine in coroutines {
            let key = (
                coroutine.status,
                coroutine.is_main,
                coroutine.in_thread,
                coroutine.stack,
            );
            let next = groups.len();
            let index = *at.entry(key).or_insert(next);
            match groups.get_mut(index) {
                Some(group) => group.members.push(coroutine),
                None => groups.push(Group {
                    members: vec![coroutine],
                }),
            }
        }
        groups.sort_by_key(|group| {
            let first = group.members.first();
            let is_waiting = first
                .is_some_and(|one| !matches!(one.status, CoroutineStatus::Running | CoroutineStatus::Normal));
            let status = first.map(|one| one.status);
            (
                is_waiting,
                (!is_waiting).then_some(status),
                std::cmp::Reverse(group.members.len()),
                status,
            )
        });
        groups
    }
}

/// The text of a frame; here frames may be missing for want of a register, not only of unwind information.
fn text(frame: &Frame, text: FrameText<'_>) -> String {
    let is_gap = frame.kind == FrameKind::Marker && frame.name() == Some("[no unwind info]");
    match is_gap {
        true => "[native frames missing]".to_owned(),
        false => text.to_string(),
    }
}

/// A word for what a coroutine does.
pub fn status(status: CoroutineStatus) -> &'static str {
    match status {
        CoroutineStatus::Running => "running",
        CoroutineStatus::Normal => "normal",
        CoroutineStatus::Suspended => "suspended",
        CoroutineStatus::NotStarted => "not-started",
        CoroutineStatus::Failed => "failed",
        CoroutineStatus::Ended => "ended",
    }
}
