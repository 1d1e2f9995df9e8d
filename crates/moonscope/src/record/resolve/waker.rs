//! Frames of who woke a thread, which stand behind those of the thread itself, leaf first.
//!
//! In an interrupt no task wakes anybody: the stack goes on into whatever was interrupted. It ends where the kernel was
//! entered for the interrupt, and says so.

use moonscope_probe::{RawFrame, RawStackId};
use moonscope_profile::{Frame, FrameId, FrameKind, Profile, StackId};

/// Between a stack that waited and the one that woke it.
const WOKEN_BY: &str = "woken by";
const INTERRUPT: &str = "interrupt";
const UNKNOWN: &str = "waker unknown";

/// Where interrupts enter the kernel: the beginnings of names, x86 and arm64, Linux 5.10 to 7.2.
const ENTRIES: [&str; 7] = [
    "asm_sysvec_",
    "asm_common_interrupt",
    "asm_call_irq_on_stack",
    "el1h_64_irq",
    "el0t_64_irq",
    "el1_irq",
    "el0_irq",
];

/// What a frame that says something about the waker is called.
pub fn frame(raw: &RawFrame) -> Frame {
    match raw {
        RawFrame::Waker(name) => Frame::marker(name),
        RawFrame::WokenBy => Frame::marker(WOKEN_BY),
        _ => Frame::marker(UNKNOWN),
    }
}

/// The frames of a stack, leaf first, without those of who woke it.
pub fn without(profile: &Profile, stack: Option<StackId>) -> impl Iterator<Item = &Frame> {
    let frames = || profile.leaf_to_root(stack).map(|frame| profile.frame_of(frame));
    let mark = frames().position(|frame| is_marker(frame, WOKEN_BY));
    frames().skip(mark.map_or(0, |mark| mark + 1))
}

fn is_marker(frame: &Frame, text: &str) -> bool {
    let inside = || frame.name()?.strip_prefix('[')?.strip_suffix(']');
    frame.kind == FrameKind::Marker && inside() == Some(text)
}

/// Which part of a joined stack a node is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Own,
    Waker,
    Interrupted,
}

/// Whether a node's frame is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Yes,
    No,
    /// With this one behind it.
    And(FrameId),
    /// This one in its place.
    As(FrameId),
}

impl Shown {
    /// The frames to show of these.
    pub fn frames(self, named: &[FrameId]) -> impl Iterator<Item = FrameId> {
        let (of_node, other) = match self {
            Self::Yes => (named, None),
            Self::No => (&[][..], None),
            Self::And(more) => (named, Some(more)),
            Self::As(other) => (&[][..], Some(other)),
        };
        of_node.iter().copied().chain(other)
    }
}

/// Goes along the nodes of a tree of stacks.
pub struct Wakers {
    parts: Vec<Part>,
    has_kernel_names: bool,
}

impl Wakers {
    /// Before the first node.
    pub fn new(has_kernel_names: bool) -> Self {
        Self {
            parts: Vec::new(),
            has_kernel_names,
        }
    }

    /// The next node: a parent comes before its children.
    pub fn next(
        &mut self,
        parent: Option<RawStackId>,
        raw: &RawFrame,
        named: &[FrameId],
        profile: &mut Profile,
    ) -> Shown {
        let before = parent.map_or(Part::Own, |RawStackId(id)| self.parts[id as usize]);
        let is_entry = |frame: &FrameId| {
            let name = profile.frame_of(*frame).name().unwrap_or_default();
            ENTRIES.iter().any(|entry| name.starts_with(entry))
        };
        let is_kernel = matches!(raw, RawFrame::Kernel(_) | RawFrame::KernelTracing(_));
        let (part, shown) = match before {
            Part::Own if *raw == RawFrame::WokenBy => (Part::Waker, Shown::Yes),
            Part::Own => (Part::Own, Shown::Yes),
            // it may be one that was interrupted
            Part::Waker if is_kernel && !self.has_kernel_names => {
                let unknown = profile.frame(Frame::marker(UNKNOWN));
                (Part::Interrupted, Shown::As(unknown))
            }
            Part::Waker if is_kernel && named.iter().any(is_entry) => {
                let interrupt = profile.frame(Frame::marker(INTERRUPT));
                (Part::Interrupted, Shown::And(interrupt))
            }
            Part::Waker => (Part::Waker, Shown::Yes),
            Part::Interrupted => (Part::Interrupted, Shown::No),
        };
        self.parts.push(part);
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interrupt_interrupted_is_not_shown_as_waker() {
        let mut profile = Profile::new(Vec::new());
        let names = [
            "do_nanosleep",
            "hrtimer_wakeup",
            "asm_sysvec_apic_timer_interrupt",
            "sys_read",
        ];
        let frames = names.map(|name| profile.frame(Frame::named(FrameKind::Kernel, name)));
        let mark = profile.frame(frame(&RawFrame::WokenBy));
        let raws = [
            (RawFrame::Kernel(1), frames[0]),
            (RawFrame::WokenBy, mark),
            (RawFrame::Kernel(2), frames[1]),
            (RawFrame::Kernel(3), frames[2]),
            (RawFrame::Kernel(4), frames[3]),
        ];
        let shown = |has_names: bool, profile: &mut Profile| {
            let mut wakers = Wakers::new(has_names);
            let nodes = raws.iter().enumerate().map(|(place, (raw, frame))| {
                let parent = place.checked_sub(1).map(|parent| RawStackId(parent as u32));
                wakers.next(parent, raw, &[*frame], profile)
            });
            nodes.collect::<Vec<_>>()
        };
        let with_names = shown(true, &mut profile);
        assert_eq!(with_names[..3], [Shown::Yes; 3]);
        assert!(
            matches!(with_names[3], Shown::And(marker) if is_marker(profile.frame_of(marker), INTERRUPT))
        );
        assert_eq!(with_names[4], Shown::No);
        let without_names = shown(false, &mut profile);
        assert!(
            matches!(without_names[2], Shown::As(marker) if is_marker(profile.frame_of(marker), UNKNOWN))
        );
        assert_eq!(without_names[3..], [Shown::No; 2]);
    }

    #[test]
    fn the_reason_of_a_wait_is_not_looked_for_in_the_waker() {
        let mut profile = Profile::new(Vec::new());
        let own = profile.frame(Frame::named(FrameKind::Kernel, "pipe_read"));
        let mark = profile.frame(frame(&RawFrame::WokenBy));
        let waker = profile.frame(Frame::named(FrameKind::Kernel, "futex_wake"));
        let joined = profile.stack([own, mark, waker]);
        let names: Vec<_> = without(&profile, joined).filter_map(Frame::name).collect();
        assert_eq!(names, ["pipe_read"]);
    }
}
