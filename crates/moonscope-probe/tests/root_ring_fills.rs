//! While nobody empties the ring buffer, copies of stacks make room for samples: none is lost that would fit without.
//!
//! The truth is arithmetic: the copies are several times what the ring buffer holds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{Program, program, root};
use moonscope_probe::{EventSettings, Limits, Options, Scope, Session};

const RING: u32 = 2 << 20;
/// What `deep` has on its stack, at least: 900 frames of 16 bytes and more.
const COPY: u32 = 900 * 16;

/// A quarter of the ring buffer is for samples without a copy, of 600 bytes at most: 128 of head, 32 frames, 17 registers.
const FIT: u64 = (RING / 4 / 600) as u64;

#[test]
fn root_copies_of_stacks_do_not_fill_the_ring_buffer() {
    let Some(deep) = root().then(|| program("deep")).flatten() else {
        return;
    };
    let target = Program::start(&deep, &["600"]);
    let options = Options {
        scope: Scope::Processes([target.pid()].into()),
        events: Vec::new(),
        settings: EventSettings::default(),
        program: None,
        hz: 1999,
        max_depth: 32,
        kernel_stacks: false,
        user_stacks: true,
        follow_forks: false,
        report_all_execs: false,
        measure_cost: false,
        always_copy_stack: true,
        coroutine_parents: false,
        force_loop: None,
        limits: Some(Limits {
            ring_bytes: RING,
            ..Limits::new(false)
        }),
    };
    let mut nap = Duration::from_millis(200);
    for _ in 0..10 {
        let mut session = Session::prepare(&options).unwrap();
        session.start().unwrap();
        // it is not to look at the ring buffer meanwhile
        std::thread::sleep(nap);
        let (totals, _) = session.finish().unwrap();
        let ticks = totals.ticks;
        println!("{ticks:?} {:?}", totals.received);
        let wanted = ticks.kept() + ticks.lost();
        // on a busy machine the program may run too little, or the test sleep too long
        if wanted * u64::from(COPY) < u64::from(RING) {
            nap *= 2;
        } else if wanted > FIT {
            nap /= 2;
        } else {
            assert_eq!(ticks.lost(), 0, "{ticks:?}");
            assert_eq!(totals.received.samples(), wanted);
            return;
        }
    }
    panic!("the program never ran for as long as the test slept");
}
