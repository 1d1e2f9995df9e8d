//! Writing is quick: 10,000 stacks of 100,000 samples in all formats, well under a second.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use moonscope_profile::{Format, Frame, FrameKind, Profile, ValueType, WriteOptions};

fn large() -> Profile {
    let mut profile = Profile::new(vec![ValueType::samples(), ValueType::cpu()]);
    let frames: Vec<_> = (0..3000)
        .map(|nr| {
            let file = Some(format!("src/module{}.c", nr % 50).into());
            let line = Some(nr);
            let name = format!("some_function_of_a_usual_length_{nr}");
            profile.frame(Frame {
                file,
                line,
                ..Frame::named(FrameKind::Native, name)
            })
        })
        .collect();
    let labels: Vec<_> = (0..8i64)
        .map(|nr| profile.labels(&[("comm", "nginx".into()), ("pid", nr.into()), ("tid", nr.into())]))
        .collect();
    // A fixed sequence (the constants are those of a common linear congruential generator).
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for nr in 0..10_000 {
        let depth = 20 + random(30);
        let mut stack = None;
        for level in 0..depth {
            // Few choices near the root, many near the leaf, as in real programs.
            let frame = frames[level * 40 + random(if level < 10 { 1 } else { 40 })];
            stack = Some(profile.child(stack, frame));
        }
        profile.add(stack, labels[nr % 8], &[10, 101_010]);
    }
    profile
}

#[test]
fn all_formats_are_written_in_well_under_a_second() {
    let profile = large();
    let mut all = 0.0;
    for format in Format::all() {
        let mut out = Vec::new();
        let start = Instant::now();
        format
            .write(&profile, &WriteOptions::default(), &mut out)
            .unwrap();
        let seconds = start.elapsed().as_secs_f64();
        all += seconds;
        println!("{format:>10}: {:6.1} ms, {:8} bytes", seconds * 1e3, out.len());
    }
    println!("{:>10}: {:6.1} ms", "all", all * 1e3);
    // Without optimisation, beside other tests, on a small machine: ten times what a release takes.
    let limit = if cfg!(debug_assertions) { 10.0 } else { 1.0 };
    assert!(all < limit, "{all} s");
}
