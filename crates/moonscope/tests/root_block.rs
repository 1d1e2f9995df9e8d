//! Requests to block devices: who makes them, how many, how large, how long, and which fail.
//!
//! The truth is what the program's own calls gave it and its own clock (`tests/programs/blocks.c`), and what the kernel
//! counts of the device, which nobody else uses (`/sys/block/loopN/stat`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Profile, Program, Sample, Truth, moonscope, program, root, skip};

/// Seconds in which a recording has begun, also on a busy machine.
const BEFORE: &str = "5";

/// What came of a recording of `blocks`.
struct Recorded {
    profile: Profile,
    device: String,
    truth: Truth,
    words: String,
}

/// Records the program to its end; `None`: there are no loop devices.
fn record(args: &[&str], events: &[&str]) -> Option<Recorded> {
    let mut command = std::process::Command::new(program("blocks")?);
    command.arg(BEFORE).args(args);
    let (program, code) = Program::try_spawn(&mut command);
    if let Some(code) = code {
        assert_eq!(code, 77, "blocks ended before it was ready");
        skip("no loop device can be made");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("x.json");
    let pid = program.pid_text();
    let run = moonscope(&[&["record", "-p", &pid, "-o", json.to_str().unwrap()], events].concat());
    let profile = Profile::read(&json);
    // partial: what is lost is looked at by whoever asked
    assert!([0, 6].contains(&run.code), "{}", run.stderr);
    assert!(run.stderr.contains("; unexplained 0"), "{}", run.stderr);
    Some(Recorded {
        profile,
        device: program.said("device"),
        truth: program.wait(),
        words: run.stderr,
    })
}

/// Most requests whose end may be missed. A virtual machine's kernel may run no BPF program while some of its tasks are
/// interrupted, whatever kind of program it is; a few requests in a thousand ended so where this was measured.
const MISSED: f64 = 0.05;

impl Recorded {
    /// Sum of a column over the requests of the device of one operation.
    fn sum(&self, column: &str, op: &str) -> u64 {
        self.profile.sum(column, |sample| self.is_of(sample, op))
    }

    fn is_of(&self, sample: &Sample, op: &str) -> bool {
        let label = |key: &str| sample.labels.get(key).map(String::as_str);
        label("block-device") == Some(&self.device) && label("block-op") == Some(op)
    }

    /// Requests of the device that the kernel counted; to it a flush that was asked for is a write of nothing.
    fn counted(&self) -> i64 {
        let kernel = self.truth.numbers("kernel ");
        (kernel[0] + kernel[3] + kernel[6]) as i64
    }

    /// How many of them are missing.
    fn missed(&self) -> i64 {
        let found = |op| self.sum("block_ops", op).cast_signed();
        self.counted()
            - ["read", "write", "flush", "discard"]
                .map(found)
                .iter()
                .sum::<i64>()
    }

    /// Nothing is missing but requests whose end was not seen: those whose place was used again are counted.
    #[track_caller]
    fn assert_only_ends_are_missed(&self) {
        let lost = self.profile.json["accounting"]["lost"].as_object().unwrap();
        let of_ends = lost
            .get("end not seen")
            .map_or(0, |count| count.as_i64().unwrap());
        assert!(lost.keys().all(|why| why == "end not seen"), "{}", self.words);
        let missed = self.missed();
        assert!(
            of_ends <= missed && missed as f64 <= MISSED * self.counted() as f64,
            "{missed} of {} missed, {of_ends} of them counted: {}",
            self.counted(),
            self.words
        );
    }

    /// Seconds of requests of a function, in the queue and at the device.
    fn time(&self, function: &str) -> f64 {
        let of = |column| {
            let time = self.profile.sum(column, |sample| sample.has(function));
            time as f64 / 1e9
        };
        of("block_time") + of("block_queued")
    }
}

#[test]
fn root_requests_are_those_that_the_program_made_and_the_kernel_counted() {
    if !root() {
        return;
    }
    let Some(recorded) = record(&[], &["-e", "block"]) else {
        return;
    };
    recorded.assert_only_ends_are_missed();
    let truth = recorded.truth.lines.iter();
    let mut lines_seen = 0;
    for line in truth.filter_map(|line| line.strip_prefix("truth ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let [function, op] = [words[0], words[1]];
        let [bytes, requests, errors] = [2, 3, 4].map(|at| words[at].parse::<i64>().unwrap());
        let sum = |column| {
            let is_its = |sample: &Sample| sample.has(function) && recorded.is_of(sample, op);
            recorded.profile.sum(column, is_its).cast_signed()
        };
        lines_seen += 1;
        if requests < 0 {
            // the kernel makes several of each call, so what one that is missed had is not known
            let found = sum("block_bytes");
            let least = if recorded.missed() == 0 { bytes } else { bytes / 2 };
            assert!(
                (least..=bytes).contains(&found),
                "{function}: {found} of {bytes} bytes"
            );
            continue;
        }
        // each of them is like the others
        let missed = requests - sum("block_ops");
        assert!(
            (0..=recorded.missed()).contains(&missed),
            "{function}: {missed} requests missed"
        );
        let of_each = |total: i64| total / requests * (requests - missed);
        assert_eq!(sum("block_bytes"), of_each(bytes), "bytes of {function}");
        assert_eq!(sum("block_errors"), of_each(errors), "failures of {function}");
    }
    assert!(lines_seen >= 5, "{:?}", recorded.truth);

    let kernel = recorded.truth.numbers("kernel ");
    let [_, _, read_ms, _, write_bytes, write_ms, _, discard_ms] = kernel[..] else {
        panic!("{kernel:?}")
    };
    assert!(recorded.sum("block_bytes", "write") as f64 <= write_bytes);
    // The kernel counts from just before a request is made to just after it is complete; a thread may lose its CPU there,
    // and it counts in milliseconds.
    let seconds = |op: &str| (recorded.sum("block_time", op) + recorded.sum("block_queued", op)) as f64 / 1e9;
    for (what, found, truth) in [
        ("reads", seconds("read"), read_ms / 1e3),
        ("writes", seconds("write") + seconds("flush"), write_ms / 1e3),
        ("discards", seconds("discard"), discard_ms / 1e3),
    ] {
        let least = if recorded.missed() == 0 {
            0.8 * truth - 0.02
        } else {
            0.0
        };
        assert!(
            found >= least && found <= truth + 0.002,
            "{what}: {found:.4} s found, {truth:.4} s by the kernel"
        );
    }
    // whoever waits for a request waits longer than it lasts
    for function in ["by_read", "by_write", "by_flush"] {
        let waited = recorded.truth.numbers(&format!("time {function}"))[1];
        let lasted = recorded.time(function);
        assert!(
            lasted > 0.0 && lasted <= waited,
            "{function}: {lasted:.4} s found, waited for {waited:.4} s"
        );
    }
}

#[test]
fn root_a_stack_leads_from_the_program_to_the_request() {
    if !root() {
        return;
    }
    let Some(recorded) = record(&[], &["-e", "block"]) else {
        return;
    };
    let reads = |sample: &Sample| sample.has("by_read") && recorded.is_of(sample, "read");
    recorded.profile.assert_all("reads by by_read", |sample| {
        !reads(sample) || sample.has("enter_thread") && !sample.is_truncated()
    });
    // names of the kernel may be hidden, frames are not
    assert!(
        recorded
            .profile
            .samples
            .iter()
            .filter(|sample| reads(sample))
            .all(|sample| sample.kernel().count() > 3)
    );
}

/// Completions come in interrupts, where some kinds of BPF programs are skipped while another one runs on that CPU.
#[test]
fn root_completions_are_seen_beside_other_events_at_a_high_rate() {
    if !root() {
        return;
    }
    let events = [
        "-e", "cpu", "-e", "block", "-e", "io", "-e", "offcpu", "-F", "999",
    ];
    let Some(recorded) = record(&["rush"], &events) else {
        return;
    };
    recorded.assert_only_ends_are_missed();
    let reads = recorded.truth.numbers("kernel ")[0];
    assert!(reads >= 16000.0, "{:?}", recorded.truth);
    let calls = recorded.profile.sum("io_ops", |sample| sample.has("by_rush"));
    assert_eq!(calls as f64, reads, "{}", recorded.words);
}
