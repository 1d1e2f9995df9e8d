//! The stack of a thread that waited, and behind it the one of who woke it.

use std::sync::Arc;

use crate::definitions::Definition;
use crate::stacks::{RawFrame, RawStackId, RawStacks};

impl RawStacks {
    /// The blocked stack root first, a mark, and then the waker's leaf first, with its name at the end: in a graph the one
    /// stands on the other, as in those of offwaketime. `None` if there is no room.
    pub fn join(&mut self, blocked: RawStackId, waker: Option<&Definition>) -> Option<RawStackId> {
        let mut frames = vec![RawFrame::WokenBy];
        match waker {
            Some(waker) => {
                frames.extend(self.leaf_to_root(waker.stack).cloned());
                frames.push(RawFrame::Waker(name(&waker.thread.comm)));
            }
            None => frames.push(RawFrame::WakerUnknown),
        }
        self.extend(Some(blocked), frames)
    }
}

fn name(comm: &[u8; 16]) -> Arc<str> {
    let len = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..len]).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definitions::Verdict;
    use crate::stacks::Thread;

    #[test]
    fn the_wakers_stack_stands_upside_down_on_the_one_that_it_woke() {
        let mut stacks = RawStacks::default();
        let blocked = stacks.intern([1, 2].map(RawFrame::Kernel)).unwrap();
        let stack = stacks.intern([8, 9].map(RawFrame::Kernel)).unwrap();
        let mut comm = [0; 16];
        comm[..4].copy_from_slice(b"post");
        let waker = Definition {
            stack,
            thread: Thread {
                process: None,
                pid: 1,
                tid: 1,
                comm,
                lua: None,
            },
            verdict: Verdict {
                site: None,
                lacks: None,
                by_frame_pointer: false,
                is_provisional: false,
            },
            lua: None,
        };
        let joined = stacks.join(blocked, Some(&waker)).unwrap();
        let mut frames: Vec<_> = stacks.leaf_to_root(joined).cloned().collect();
        frames.reverse();
        let kernel = |addr| RawFrame::Kernel(addr);
        let expected = [
            kernel(1),
            kernel(2),
            RawFrame::WokenBy,
            kernel(9),
            kernel(8),
            RawFrame::Waker("post".into()),
        ];
        assert_eq!(frames, expected);
        let unknown = stacks.join(blocked, None).unwrap();
        assert_eq!(stacks.leaf_to_root(unknown).next(), Some(&RawFrame::WakerUnknown));
    }
}
