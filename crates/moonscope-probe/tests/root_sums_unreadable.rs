//! A map of sums that cannot be read does not end a recording: what else there is comes out, and the rest is counted as lost.
//!
//! The truth is the map itself, which the test holds under a descriptor of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use common::{Program, program, root};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use moonscope_probe::{EventSettings, EventSpec, Options, Scope, Session};
use moonscope_unwind::abi;

/// The descriptors of this process that are maps of sums, each with the number of its map.
fn maps_of_sums() -> Vec<(RawFd, u32)> {
    let number = |text: &str, what: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(what))?;
        line.strip_prefix(':')?.trim().parse::<u32>().ok()
    };
    let of = |fd: RawFd| {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        let sizes = (number(&text, "key_size")?, number(&text, "value_size")?);
        let is_sums = sizes
            == (
                size_of::<abi::ms_sum_key>() as u32,
                size_of::<abi::ms_sum>() as u32,
            );
        is_sums.then(|| number(&text, "map_id")).flatten()
    };
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let fds = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    fds.filter_map(|fd| Some((fd, of(fd)?))).collect()
}

/// Everything that a map counted.
fn counted(map: &MapHandle) -> u64 {
    let count = |key: Vec<u8>| {
        let value = map.lookup(&key, MapFlags::ANY).unwrap().unwrap();
        u64::from_ne_bytes(value[..8].try_into().unwrap())
    };
    map.keys().map(count).sum()
}

#[test]
fn root_what_is_in_a_map_that_cannot_be_read_is_lost_and_counted_and_the_rest_is_recorded() {
    let Some(waits) = root().then(|| program("waits")).flatten() else {
        return;
    };
    // each of its threads waits 40 times, in the third second
    let target = Program::start(&waits, &["2"]);
    let options = Options {
        scope: Scope::Processes([target.pid()].into()),
        events: vec![EventSpec::parse("offcpu")],
        settings: EventSettings::default(),
        program: None,
        hz: 99,
        max_depth: 32,
        kernel_stacks: true,
        user_stacks: true,
        follow_forks: true,
        report_all_execs: false,
        measure_cost: false,
        always_copy_stack: false,
        coroutine_parents: false,
        force_loop: None,
        limits: None,
    };
    let mut session = Session::prepare(&options).unwrap();
    let fds = maps_of_sums();
    let broken = fds.iter().map(|(_, map)| *map).max().unwrap();
    let held = MapHandle::from_map_id(broken).unwrap();
    let nothing = File::open("/dev/null").unwrap();
    for (fd, _) in fds.iter().filter(|(_, map)| *map == broken) {
        // SAFETY: both are open; whoever uses this descriptor for a map gets an error.
        assert!(unsafe { libc::dup2(nothing.as_raw_fd(), *fd) } >= 0);
    }
    session.start().unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        session.poll(Duration::from_millis(50)).unwrap();
    }
    let (totals, recorded) = session.finish().unwrap();
    let (ticks, received) = (&totals.ticks, &totals.received);
    println!("{ticks:?} {received:?} {:?}", totals.failed_reads);
    let unread: u64 = received.unread.iter().sum();
    assert!(unread > 0 && unread == counted(&held), "{unread}");
    assert!(totals.failed_reads.count > 0 && !totals.failed_reads.reason.is_empty());
    assert!(received.samples() > 0);
    let in_stacks: u64 = recorded.stacks.sums().map(|(.., sum)| sum.count).sum();
    assert!(in_stacks > 0);
    assert_eq!(
        ticks.fired,
        ticks.idle
            + ticks.filtered
            + ticks.unwanted
            + ticks.lost()
            + received.samples()
            + received.malformed
            + received.without_stack.iter().sum::<u64>()
            + unread
    );
}
