//! New executable mappings, as perf's side band tells of them (PERF_RECORD_MMAP2), and what for; when a process began
//! its program; and new names of processes.
//!
//! The kernel side notices most changes by itself, for `mm->exec_vm` changes. It cannot notice that a
//! library was replaced by another one of the same size at the same place, and it knows nothing of a
//! process that ended before its mappings could be read. These records, which the kernel writes before
//! the mapping can run, close both gaps. They can get lost, and that is counted; `/proc/PID/maps` is the
//! truth for all else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;

use moonscope_process::{Mapping, MappingName, Pid};

use crate::side_band::SideBand;

/// Mappings remembered of a process that was not looked at yet.
const REMEMBERED_MAPPINGS: usize = 256;
/// Processes of which mappings are remembered; the oldest knowledge goes first.
const REMEMBERED_PROCESSES: usize = 4096;
/// Of how many of them at least there is room again when some go.
const FORGOTTEN_AT_ONCE: usize = REMEMBERED_PROCESSES / 8;
/// Beginnings remembered of a pid. Those between a sample and the look at its process matter: some milliseconds.
const REMEMBERED_BEGINNINGS: usize = 16;

const RECORD_LOST: u32 = 2;
const RECORD_COMM: u32 = 3;
const RECORD_FORK: u32 = 7;
const RECORD_MMAP2: u32 = 10;
/// PERF_RECORD_MISC_COMM_EXEC: the name changed because of an exec.
const MISC_COMM_EXEC: u16 = 1 << 13;
/// PERF_RECORD_MISC_MMAP_BUILD_ID: inode numbers are replaced by a build id. We did not ask for it.
const MISC_MMAP_BUILD_ID: u16 = 1 << 14;

/// Watches all processes of the machine.
pub struct MmapWatch {
    side_band: SideBand,
    /// What was mapped by processes, since they began to run their program.
    remembered: BTreeMap<Pid, Remembered>,
    /// Processes that have given themselves another name, since this was last taken.
    renamed: BTreeSet<Pid>,
    /// Records that did not fit the ring.
    pub lost: u64,
}

#[derive(Default)]
struct Remembered {
    mappings: Vec<Mapping>,
    /// When it was born, or began to run another program; the last ones.
    beginnings: VecDeque<u64>,
    last: u64,
}

impl Remembered {
    /// Of this process, which did something at this time.
    fn at(all: &mut BTreeMap<Pid, Self>, pid: Pid, time: u64) -> &mut Self {
        let one = all.entry(pid).or_default();
        one.last = time;
        one
    }
}

/// Something that a record says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Mapped(Mapping),
    /// A process with this pid was born, or runs another program.
    Began,
    Renamed,
}

impl MmapWatch {
    /// Begins to watch on these CPUs.
    pub fn start(cpus: &[u32]) -> io::Result<Self> {
        Ok(Self {
            side_band: SideBand::start(cpus)?,
            remembered: BTreeMap::new(),
            renamed: BTreeSet::new(),
            lost: 0,
        })
    }

    /// What becomes readable when something was mapped.
    pub fn events(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.side_band.events()
    }

    /// Does so much happen that [`MmapWatch::events`] do not tell of everything at once?
    pub fn is_storm(&self) -> bool {
        self.side_band.is_storm()
    }

    /// Reads what came since the last call, in the order of time (CLOCK_MONOTONIC).
    pub fn read(&mut self) -> Vec<(u64, Pid, Mapping)> {
        let mut said = Vec::new();
        let take = |kind, misc, body: &[u8]| match kind {
            RECORD_LOST => self.lost += word(body, 8).unwrap_or(1),
            _ => said.extend(parse(kind, misc, body)),
        };
        self.side_band.drain(take);
        // a process may have moved from one CPU to another between two records
        said.sort_by_key(|&(time, ..)| time);
        let mut changed = Vec::new();
        for (time, pid, said) in said {
            match said {
                Said::Renamed => {
                    self.renamed.insert(pid);
                }
                Said::Began => {
                    let remembered = Remembered::at(&mut self.remembered, pid, time);
                    remembered.mappings.clear();
                    remembered.beginnings.truncate(REMEMBERED_BEGINNINGS - 1);
                    remembered.beginnings.push_front(time);
                }
                Said::Mapped(mapping) => {
                    let remembered = Remembered::at(&mut self.remembered, pid, time);
                    changed.push((time, pid, mapping.clone()));
                    // what was there before is gone
                    remembered
                        .mappings
                        .retain(|old| old.end <= mapping.start || mapping.end <= old.start);
                    if remembered.mappings.len() < REMEMBERED_MAPPINGS {
                        remembered.mappings.push(mapping);
                    }
                }
            }
        }
        self.forget_oldest();
        changed
    }

    /// Processes that have given themselves another name since the last call.
    pub fn take_renamed(&mut self) -> BTreeSet<Pid> {
        std::mem::take(&mut self.renamed)
    }

    fn forget_oldest(&mut self) {
        if self.remembered.len() <= REMEMBERED_PROCESSES {
            return;
        }
        let mut by_age: Vec<_> = self
            .remembered
            .iter()
            .map(|(&pid, one)| (one.last, pid))
            .collect();
        by_age.sort_unstable();
        by_age.truncate(self.remembered.len() + FORGOTTEN_AT_ONCE - REMEMBERED_PROCESSES);
        for (_, pid) in by_age {
            self.remembered.remove(&pid);
        }
    }

    /// The executable mappings that a process was seen to make, by address. Not all that it has: what it
    /// inherited or made before the watch began is missing, and so is the vDSO.
    pub fn seen(&self, pid: Pid) -> Option<Vec<Mapping>> {
        let mut mappings = self.remembered.get(&pid)?.mappings.clone();
        mappings.sort_by_key(|mapping| mapping.start);
        Some(mappings).filter(|mappings| !mappings.is_empty())
    }

    /// Did a process with this pid begin in this time, by birth or with another program? The kernel says so before a
    /// new process runs (`copy_process`, kernel/fork.c) and before anything of a new program is mapped
    /// (`begin_new_exec`, fs/exec.c), so what is known after a look at its mappings and a call of
    /// [`MmapWatch::read`] is all there is to know.
    pub fn began_within(&self, pid: Pid, after: u64, until: u64) -> bool {
        let within = |&at: &u64| after < at && at <= until;
        self.remembered
            .get(&pid)
            .is_some_and(|one| one.beginnings.iter().any(within))
    }

    /// The process ended at this time; what came after is another one's.
    pub fn forget(&mut self, pid: Pid, at: u64) {
        if self.remembered.get(&pid).is_some_and(|one| one.last <= at) {
            self.remembered.remove(&pid);
        }
    }
}

/// Time, process and content of a record; the layouts: include/uapi/linux/perf_event.h.
fn parse(kind: u32, misc: u16, body: &[u8]) -> Option<(u64, Pid, Said)> {
    let (body, time) = body.split_last_chunk::<8>()?;
    let time = u64::from_ne_bytes(*time);
    let pid = half(body, 0)?;
    match kind {
        RECORD_COMM if misc & MISC_COMM_EXEC != 0 => Some((time, pid, Said::Began)),
        // pid, that of the parent, tid: others are threads
        RECORD_FORK if half(body, 8)? == pid => Some((time, pid, Said::Began)),
        // a process is called what its first thread is called
        RECORD_COMM if half(body, 4)? == pid => Some((time, pid, Said::Renamed)),
        RECORD_MMAP2 if misc & MISC_MMAP_BUILD_ID == 0 => {
            let start = word(body, 8)?;
            let protection = half(body, 56)?;
            let name = body.get(64..)?;
            let name = &name[..name.iter().position(|&byte| byte == 0).unwrap_or(name.len())];
            let mapping = Mapping {
                start,
                end: start.checked_add(word(body, 16)?)?,
                offset: word(body, 24)?,
                readable: protection & 1 != 0,
                writable: protection & 2 != 0,
                executable: protection & 4 != 0,
                shared: half(body, 60)? & 1 != 0,
                device: (half(body, 32)?, half(body, 36)?),
                inode: word(body, 40)?,
                name: mapping_name(name),
            };
            Some((time, pid, Said::Mapped(mapping)))
        }
        _ => None,
    }
}

fn mapping_name(name: &[u8]) -> MappingName {
    use std::os::unix::ffi::OsStrExt;
    match name {
        [b'/', b'/', ..] | b"" => MappingName::Anonymous,
        b"[vdso]" => MappingName::Vdso,
        b"[heap]" => MappingName::Heap,
        b"[stack]" => MappingName::Stack,
        [b'/', ..] => MappingName::File {
            path: std::ffi::OsStr::from_bytes(name).into(),
            deleted: false,
        },
        other => MappingName::Other(String::from_utf8_lossy(other).into_owned()),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u64::from_ne_bytes(*bytes))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_record_is_no_record() {
        for len in 0..72 {
            assert_eq!(parse(RECORD_MMAP2, 0, &vec![0; len]), None, "{len}");
        }
        assert!(parse(RECORD_MMAP2, 0, &[0; 72]).is_some());
    }

    #[test]
    fn a_process_is_born_and_a_thread_is_not() {
        // pid, that of the parent, tid, that of the parent's thread; the time, twice
        let record = |pid: u32, tid: u32| {
            let mut body: Vec<u8> = [pid, 7, tid, 7].map(u32::to_ne_bytes).concat();
            body.extend([1000u64, 1000].map(u64::to_ne_bytes).concat());
            body
        };
        assert_eq!(
            parse(RECORD_FORK, 0, &record(21, 21)),
            Some((1000, 21, Said::Began))
        );
        assert_eq!(parse(RECORD_FORK, 0, &record(21, 22)), None);
    }
}
