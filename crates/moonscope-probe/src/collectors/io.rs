//! The event `io`: system calls that read, write, send, receive, copy and sync (`bpf/io.bpf.h`), and requests of
//! io_uring (`bpf/io_uring.bpf.h`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use libbpf_rs::{MapCore, MapFlags};
use moonscope_unwind::abi;

use crate::collector::{Collector, Column, Context, Programs, Unfinished, stacks_in};
use crate::error::ProbeError;
use crate::files::{FileNames, has_too_many_files};
use crate::kernel_types::has_tracepoint;
use crate::limits::Limits;
use crate::processes::monotonic_now;
use crate::skeleton::{MoonscopeSkel, OpenMoonscopeSkel};

/// Calls and requests.
#[derive(Debug, Default)]
pub struct Io {
    /// Does the kernel not tell of both ends of a request of io_uring?
    lacks_io_uring: bool,
    /// `io_calls` of `bpf/io.bpf.h`.
    calls: Vec<u8>,
    /// Are the paths of files wanted?
    has_paths: bool,
    /// Were there more files than have room?
    has_too_many_files: bool,
    files: Arc<FileNames>,
    /// When measuring began and ended (CLOCK_MONOTONIC, nanoseconds).
    started: u64,
    stopped: u64,
}

/// The setting that asks for the paths of files.
pub const PATHS: &str = "paths";

/// The label with the path.
const PATH: &str = "io-path";

/// Since Linux 6.3; what told of a submission before had no request that `io_uring_complete` speaks of.
const SUBMITTED: &str = "io_uring_submit_req";

const OPERATIONS: [(u32, &str); 4] = [
    (abi::MS_IO_READ, "read"),
    (abi::MS_IO_WRITE, "write"),
    (abi::MS_IO_COPY, "copy"),
    (abi::MS_IO_SYNC, "sync"),
];

const KINDS: [(u32, &str); 7] = [
    (abi::MS_IO_FILE, "file"),
    (abi::MS_IO_TCP, "tcp"),
    (abi::MS_IO_UDP, "udp"),
    (abi::MS_IO_UNIX, "unix"),
    (abi::MS_IO_PIPE, "pipe"),
    (abi::MS_IO_DEVICE, "device"),
    (abi::MS_IO_OTHER, "other"),
];

fn operation(tag: u32) -> u32 {
    tag & abi::MS_IO_OP_MASK
}

fn name_of(names: &[(u32, &'static str)], number: u32) -> &'static str {
    let found = names.iter().find(|(other, _)| *other == number);
    found.map_or("unknown", |(_, name)| name)
}

impl Collector for Io {
    fn name(&self) -> &'static str {
        "io"
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: [Column; 5] = [
            Column::new("io_bytes", "bytes"),
            Column::new("io_time", "nanoseconds"),
            Column::new("io_ops", "count"),
            Column::new("io_errors", "count"),
            Column::new("io_again", "count"),
        ];
        &COLUMNS
    }

    fn prepare(&mut self, context: &Context<'_>) -> Result<(), ProbeError> {
        self.has_paths = context.settings.get(PATHS).is_some();
        self.lacks_io_uring = !has_tracepoint(SUBMITTED);
        Ok(())
    }

    fn programs(&self) -> &'static [&'static str] {
        if !self.lacks_io_uring {
            &[
                "io_enter",
                "io_exit",
                "io_thread_ends",
                "io_submit",
                "io_complete",
            ]
        } else {
            &["io_enter", "io_exit", "io_thread_ends"]
        }
    }

    fn sums_up(&self) -> bool {
        true
    }

    fn configure(
        &mut self,
        number: u32,
        open: &mut OpenMoonscopeSkel<'static>,
        limits: &Limits,
    ) -> Result<(), libbpf_rs::Error> {
        if let Some(constants) = open.maps.rodata_data.as_deref_mut() {
            constants.io_event = number;
            constants.io_wants_paths = self.has_paths;
            self.calls = constants.io_calls.to_vec();
        }
        if self.has_paths {
            open.maps.file_numbers.set_max_entries(limits.files as u32)?;
        }
        open.maps.io_requests.set_max_entries(limits.threads as u32)?;
        open.maps.io_threads.set_max_entries(limits.threads as u32)
    }

    fn attach(&mut self, programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        self.programs()
            .iter()
            .try_for_each(|program| programs.attach(program))
    }

    fn start(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        self.started = monotonic_now();
        set_since(skel, self.started);
        Ok(())
    }

    fn stop(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        set_since(skel, 0);
        self.stopped = monotonic_now();
        self.has_too_many_files = has_too_many_files(skel);
        Ok(())
    }

    /// Threads that are in a call still: of what it will do, only the time so far is known.
    fn unfinished(&mut self, skel: &mut MoonscopeSkel<'static>) -> Option<Unfinished> {
        let lasted = |since: u64| {
            let mut sum = abi::ms_sum {
                count: 1,
                ..Default::default()
            };
            sum.value[abi::MS_IO_TIME as usize] = self.stopped.saturating_sub(since);
            sum
        };
        let map = &skel.maps.io_threads;
        let mut known = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for key in map.keys() {
            // `struct io_call`: since, messages, number, tag
            let Ok(Some(value)) = map.lookup(&key, MapFlags::ANY) else {
                continue;
            };
            let Ok(tid) = key.try_into().map(u32::from_ne_bytes) else {
                continue;
            };
            seen.insert(tid);
            let since = value.get(..8).and_then(|bytes| bytes.try_into().ok());
            let tag = value.get(20..24).and_then(|bytes| bytes.try_into().ok());
            if let (Some(since), Some(tag)) = (since.map(u64::from_ne_bytes), tag.map(u32::from_ne_bytes))
                && since != 0
            {
                known.insert(tid, (tag | abi::MS_IO_UNFINISHED, lasted(since)));
            }
        }
        let state = skel.maps.bss_io_data.as_deref();
        let was_full = state.is_some_and(|state| state.io_was_full != 0);
        Some(Unfinished {
            known,
            seen,
            unseen: (!was_full).then_some((abi::MS_IO_UNFINISHED, lasted(self.started))),
        })
    }

    /// Requests of io_uring have the stack of their submission.
    fn held(&mut self, skel: &mut MoonscopeSkel<'static>) -> Vec<abi::ms_stack_id> {
        // `struct io_request`: since, stack, …
        stacks_in(&skel.maps.io_requests, 8)
    }

    fn how(&self) -> String {
        let io_uring = if !self.lacks_io_uring {
            "io_uring too"
        } else {
            "without io_uring, which this kernel does not tell of (Linux 6.3)"
        };
        let paths = match (self.has_paths, self.has_too_many_files) {
            (false, _) => "",
            (true, false) => ", with paths",
            (true, true) => ", with paths of the first files only: there were too many",
        };
        format!("by sys_enter and sys_exit, {io_uring}{paths}")
    }

    fn row(&self, tag: u32, sum: &abi::ms_sum) -> Vec<i64> {
        let value = |place: u32| i64::try_from(sum.value[place as usize]).unwrap_or(i64::MAX);
        // what has not ended is counted where it ends
        let count = if tag & abi::MS_IO_UNFINISHED == 0 {
            i64::try_from(sum.count).unwrap_or(i64::MAX)
        } else {
            0
        };
        vec![
            value(abi::MS_IO_BYTES),
            value(abi::MS_IO_TIME),
            count,
            value(abi::MS_IO_ERRORS),
            value(abi::MS_IO_AGAIN),
        ]
    }

    fn tag_in_call(&self, tag: u32, call: Option<u32>) -> Option<u32> {
        let wanted = self.calls.get(usize::try_from(call?).ok()?).copied()?;
        let now = u32::from(wanted) & abi::MS_IO_OP_MASK;
        let before = operation(tag);
        // of one that was not seen to begin nothing is known; one that was may have ended since
        match (now, before) {
            (abi::MS_IO_NO_OP, _) => None,
            (now, abi::MS_IO_NO_OP) => Some(tag | now),
            (now, before) => (now == before).then_some(tag),
        }
    }

    fn label_names(&self) -> &'static [&'static str] {
        &["io-kind", "io-op", PATH]
    }

    fn labels(&self, tag: u32, _kernel: &[&str]) -> Vec<(&'static str, String)> {
        let kind = (tag & abi::MS_IO_KIND_MASK) >> abi::MS_IO_KIND_SHIFT;
        let mut labels = vec![
            ("io-op", name_of(&OPERATIONS, operation(tag)).to_owned()),
            ("io-kind", name_of(&KINDS, kind).to_owned()),
        ];
        if self.has_paths {
            labels.push((PATH, self.path(kind, tag >> abi::MS_IO_FILE_SHIFT)));
        }
        labels
    }

    fn learn_files(&mut self, files: &Arc<FileNames>) {
        self.files = Arc::clone(files);
    }
}

impl Io {
    /// The path of a file; of what has none, its kind in brackets.
    fn path(&self, kind: u32, number: u32) -> String {
        match kind {
            abi::MS_IO_FILE | abi::MS_IO_DEVICE => {
                self.files.name(number).unwrap_or_else(|| "[unknown]".to_owned())
            }
            other => format!("[{}]", name_of(&KINDS, other)),
        }
    }
}

fn set_since(skel: &mut MoonscopeSkel<'static>, at: u64) {
    if let Some(state) = skel.maps.bss_io_data.as_deref_mut() {
        state.io_since = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io() -> Io {
        Io {
            lacks_io_uring: true,
            calls: vec![abi::MS_IO_READ as u8, abi::MS_IO_WRITE as u8, 0],
            ..Io::default()
        }
    }

    #[test]
    fn of_what_lasts_only_the_time_counts() {
        let mut sum = abi::ms_sum {
            count: 1,
            ..Default::default()
        };
        sum.value[abi::MS_IO_TIME as usize] = 7;
        assert_eq!(
            io().row(abi::MS_IO_READ | abi::MS_IO_UNFINISHED, &sum),
            [0, 7, 0, 0, 0]
        );
        assert_eq!(io().row(abi::MS_IO_READ, &sum), [0, 7, 1, 0, 0]);
    }

    #[test]
    fn a_thread_that_waits_in_another_call_waits_for_no_file() {
        let unseen = abi::MS_IO_UNFINISHED;
        assert_eq!(io().tag_in_call(unseen, Some(0)), Some(unseen | abi::MS_IO_READ));
        assert_eq!(io().tag_in_call(unseen, Some(2)), None);
        assert_eq!(io().tag_in_call(unseen, Some(600)), None);
        assert_eq!(io().tag_in_call(unseen, None), None);
        // it read when measuring ended, and writes now
        assert_eq!(io().tag_in_call(unseen | abi::MS_IO_READ, Some(1)), None);
    }

    #[test]
    fn labels_name_operation_and_kind() {
        let labels = io().labels(abi::MS_IO_SYNC | abi::MS_IO_TCP << abi::MS_IO_KIND_SHIFT, &[]);
        assert_eq!(
            labels,
            [("io-op", "sync".to_owned()), ("io-kind", "tcp".to_owned())]
        );
        assert_eq!(io().labels(abi::MS_IO_READ, &[])[1].1, "unknown");
    }

    #[test]
    fn what_has_no_path_has_its_kind_in_brackets() {
        let with_paths = Io {
            has_paths: true,
            ..io()
        };
        let path = |kind: u32| with_paths.labels(kind << abi::MS_IO_KIND_SHIFT, &[])[2].1.clone();
        assert_eq!(path(abi::MS_IO_TCP), "[tcp]");
        assert_eq!(path(abi::MS_IO_FILE), "[unknown]");
    }
}
