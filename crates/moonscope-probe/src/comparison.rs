//! The walk in the kernel beside the walk of user space on the same registers and stack: each is the other's
//! oracle. Only for samples that came with a stack copy though nobody needed it
//! ([`Options::always_copy_stack`](crate::Options::always_copy_stack)), so only in tests.

use moonscope_unwind::{Walk, WalkEnd, WalkFrame, abi};

use crate::sample::RawSample;

/// How far the two walks agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Samples that were walked both ways.
    pub samples: u64,
    /// Their user frames, of the longer walk if they differ.
    pub frames: u64,
    /// Frames with the same address, and the same frames below them.
    pub equal_frames: u64,
    /// Samples whose walks ended in another way: one complete and the other not, or cut for another reason.
    pub other_ends: u64,
    /// One line for each of the first few samples that differ.
    pub differences: Vec<String>,
}

/// Differences that are kept.
const MAX_DIFFERENCES: usize = 8;

/// Did a sample come with a copy of its stack though the walk in the kernel was not in want of anything?
pub(crate) fn was_copied_for_comparison(sample: &RawSample<'_>) -> bool {
    let is_needed = sample.head.flags & abi::MS_SAMPLE_MAPS_CHANGED != 0
        || matches!(sample.end(), WalkEnd::NewProcess | WalkEnd::NoTable);
    sample.copy().is_some() && !is_needed
}

impl Comparison {
    /// Counts a sample that was walked both ways. A copy of the stack has an end; what lies beyond it was not
    /// compared.
    pub(crate) fn add(&mut self, kernel: &[WalkFrame], kernel_end: WalkEnd, user: &Walk) {
        let same = |(a, b): &(&WalkFrame, &WalkFrame)| a.addr == b.addr && a.exact == b.exact;
        let equal = kernel.iter().zip(&user.frames).take_while(same).count();
        let copy_ended = user.end == WalkEnd::Unreadable && equal == user.frames.len();
        let frames = if copy_ended {
            equal
        } else {
            kernel.len().max(user.frames.len())
        };
        let other_end = !copy_ended && kernel_end != user.end;
        self.samples += 1;
        self.frames += frames as u64;
        self.equal_frames += equal as u64;
        self.other_ends += u64::from(other_end);
        if (other_end || equal < frames) && self.differences.len() < MAX_DIFFERENCES {
            let show = |frames: &[WalkFrame]| {
                let rest = frames.iter().skip(equal.saturating_sub(1)).take(3);
                rest.map(|frame| format!(" {:#x}", frame.addr))
                    .collect::<String>()
            };
            self.differences.push(format!(
                "after {equal} frames: kernel{} ({kernel_end:?}), user space{} ({:?})",
                show(kernel),
                show(&user.frames),
                user.end
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(addrs: &[u64]) -> Vec<WalkFrame> {
        let frame = |&addr| WalkFrame {
            addr,
            exact: false,
            fp: false,
        };
        addrs.iter().map(frame).collect()
    }

    #[test]
    fn only_what_both_walks_have_in_common_counts_as_equal() {
        let mut comparison = Comparison::default();
        let user = |addrs: &[u64], end| Walk {
            frames: frames(addrs),
            end,
        };
        comparison.add(
            &frames(&[1, 2, 3]),
            WalkEnd::Root,
            &user(&[1, 2, 3], WalkEnd::Root),
        );
        assert_eq!(
            (comparison.frames, comparison.equal_frames, comparison.other_ends),
            (3, 3, 0)
        );
        comparison.add(&frames(&[1, 9]), WalkEnd::NoRow, &user(&[1, 2, 3], WalkEnd::Root));
        assert_eq!(
            (comparison.frames, comparison.equal_frames, comparison.other_ends),
            (6, 4, 1)
        );
        // the copy was too short
        comparison.add(
            &frames(&[1, 2, 3]),
            WalkEnd::Root,
            &user(&[1, 2], WalkEnd::Unreadable),
        );
        assert_eq!(
            (comparison.frames, comparison.equal_frames, comparison.other_ends),
            (8, 6, 1)
        );
        assert_eq!((comparison.samples, comparison.differences.len()), (3, 1));
    }
}
