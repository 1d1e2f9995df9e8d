//! Pages of a process, copied while lists of objects are followed in it: each once as a rule, several neighbours at a time
//! where a list goes through memory in one direction, and never more than so many.

use moonscope_process::RemoteMemory;
use rustc_hash::FxHashMap;

const PAGE: u64 = 4096;
/// Pages that are read at once at most: 256 KiB.
const MAX_RUN: u32 = 64;

/// Copies of pages, each as it was at some moment since this was made.
pub(crate) struct Pages<'a, M> {
    memory: &'a M,
    /// Slot by the page's address.
    slots: FxHashMap<u64, u32>,
    /// Address and content of each slot.
    held: Vec<(u64, u16)>,
    content: Vec<u8>,
    /// Slot that is taken next; those of the oldest pages are taken again.
    next: u32,
    max: u32,
    /// What was read last, and how many pages at once.
    run: (u64, u64, u32),
    /// Page and slot that were asked for last.
    last: (u64, u32),
    bytes: u64,
}

impl<'a, M: RemoteMemory> Pages<'a, M> {
    /// None read yet; `max` is how many are kept.
    pub(crate) fn new(memory: &'a M, max: usize) -> Self {
        Self {
            memory,
            slots: FxHashMap::default(),
            held: Vec::new(),
            content: Vec::new(),
            next: 0,
            max: u32::try_from(max).unwrap_or(u32::MAX).max(MAX_RUN),
            run: (1, 0, 0),
            last: (1, 0),
            bytes: 0,
        }
    }

    /// Where they are from.
    pub(crate) fn memory(&self) -> &'a M {
        self.memory
    }

    /// Bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// 8 bytes at a multiple of 8, which never cross a page.
    pub(crate) fn word(&mut self, at: u64) -> Option<u64> {
        let bytes: [u8; 8] = self.rest_of_page(at)?.get(..8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    /// One byte.
    pub(crate) fn byte(&mut self, at: u64) -> Option<u8> {
        self.rest_of_page(at)?.first().copied()
    }

    /// Fills `into` from the address on.
    pub(crate) fn read(&mut self, at: u64, into: &mut [u8]) -> Option<()> {
        let mut done = 0;
        while done < into.len() {
            let rest = self.rest_of_page(at.checked_add(done as u64)?)?;
            let len = rest.len().min(into.len() - done);
            if len == 0 {
                return None;
            }
            into.get_mut(done..done + len)?.copy_from_slice(rest.get(..len)?);
            done += len;
        }
        Some(())
    }

    /// What is at this address, to the end of its page.
    fn rest_of_page(&mut self, at: u64) -> Option<&[u8]> {
        let offset = at % PAGE;
        let page = at - offset;
        if self.last.0 != page {
            let slot = match self.slots.get(&page) {
                Some(&slot) => slot,
                None => self.fetch(page)?,
            };
            self.last = (page, slot);
        }
        let slot = self.last.1 as usize;
        let (_, len) = self.held.get(slot)?;
        let start = slot * PAGE as usize;
        self.content
            .get(start + offset as usize..start + usize::from(*len))
    }

    /// Reads a page, and those that seem to be next; gives its slot.
    fn fetch(&mut self, page: u64) -> Option<u32> {
        let (start, end, count) = self.run;
        let reach = u64::from(count) * PAGE;
        let is_next_up = (end..end.saturating_add(reach)).contains(&page);
        let is_next_down = (start.saturating_sub(reach)..start).contains(&page);
        let wanted = match is_next_up || is_next_down {
            true => (count * 2).min(MAX_RUN),
            false => 1,
        };
        let mut first = page;
        let mut pages = 1;
        while pages < wanted {
            let more = match is_next_down {
                true => first.checked_sub(PAGE),
                false => first.checked_add(u64::from(pages) * PAGE),
            };
            match more {
                Some(more) if !self.slots.contains_key(&more) => {
                    first = first.min(more);
                    pages += 1;
                }
                _ => break,
            }
        }
        let slot = self
            .fetch_run(first, pages)
            .and_then(|()| self.slots.get(&page).copied());
        if slot.is_some() {
            self.run = (first, first + u64::from(pages) * PAGE, wanted);
            return slot;
        }
        // the others need not be there
        self.run = (page, page + PAGE, 1);
        self.fetch_run(page, 1)?;
        self.slots.get(&page).copied()
    }

    fn fetch_run(&mut self, first: u64, pages: u32) -> Option<()> {
        if self.next.checked_add(pages)? > self.max {
            self.next = 0;
        }
        let slot = self.next as usize;
        let (from, to) = (slot * PAGE as usize, (slot + pages as usize) * PAGE as usize);
        if self.content.len() < to {
            self.content.resize(to, 0);
            self.held.resize(slot + pages as usize, (0, 0));
        }
        for (page, len) in self.held.get_mut(slot..slot + pages as usize)? {
            if std::mem::take(len) > 0 {
                self.slots.remove(page);
            }
        }
        self.last = (1, 0);
        let read = self.memory.read(first, self.content.get_mut(from..to)?).ok()?;
        self.bytes += read as u64;
        for index in 0..pages {
            let begin = u64::from(index) * PAGE;
            let len = (read as u64).saturating_sub(begin).min(PAGE) as u16;
            if len == 0 {
                break;
            }
            *self.held.get_mut(slot + index as usize)? = (first + begin, len);
            self.slots.insert(first + begin, self.next + index);
        }
        self.next += pages;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moonscope_process::{BufferMemory, ProcessError};
    use std::cell::Cell;

    const START: u64 = 0x10_0000;
    const COUNT: u64 = 300;

    /// Each word is its own address; the last page ends in its middle.
    fn memory() -> BufferMemory {
        let words = (START..START + COUNT * PAGE - PAGE / 2).step_by(8);
        BufferMemory::new().with(START, words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
    }

    struct Counted<'a>(&'a BufferMemory, Cell<u32>);

    impl RemoteMemory for Counted<'_> {
        fn read(&self, addr: u64, buf: &mut [u8]) -> Result<usize, ProcessError> {
            self.1.set(self.1.get() + 1);
            self.0.read(addr, buf)
        }
    }

    #[test]
    fn words_are_what_they_are_in_whatever_order_they_are_asked_for() {
        let memory = memory();
        let last = START + COUNT * PAGE - PAGE / 2 - 8;
        let up: Vec<u64> = (START..=last).step_by(1000).map(|at| at / 8 * 8).collect();
        let down = up.iter().rev().copied();
        let wild = (0..5000u64).map(|n| START + n * 0x9e37_79b9 % (last - START) / 8 * 8);
        let all: Vec<u64> = up.iter().copied().chain(down).chain(wild).collect();
        // fewer than there are: some are read again
        for max in [64, 100, 1000] {
            let mut pages = Pages::new(&memory, max);
            for &at in &all {
                assert_eq!(pages.word(at), Some(at), "{at:#x}");
                assert_eq!(pages.byte(at + 2), Some((at >> 16) as u8));
            }
            assert_eq!(pages.word(last + 8), None);
            assert_eq!(pages.word(START - 8), None);
            assert_eq!(pages.word(u64::MAX - 7), None);
            let mut buffer = [0; 24];
            assert_eq!(pages.read(START + PAGE - 8, &mut buffer), Some(()));
            assert_eq!(buffer[..8], (START + PAGE - 8).to_le_bytes());
            assert_eq!(buffer[16..], (START + PAGE + 8).to_le_bytes());
            assert_eq!(pages.read(last, &mut buffer), None);
        }
    }

    #[test]
    fn a_list_that_goes_one_way_is_read_in_large_pieces() {
        let memory = memory();
        for down in [false, true] {
            let counted = Counted(&memory, Cell::new(0));
            let mut pages = Pages::new(&counted, 1000);
            for index in 0..COUNT - 1 {
                let index = if down { COUNT - 2 - index } else { index };
                assert!(pages.word(START + index * PAGE).is_some());
            }
            // at the end of what is there it feels its way
            assert!(counted.1.get() < COUNT as u32 / 8, "{}", counted.1.get());
        }
    }
}
