use super::*;
use crate::layout::GcMode;
use crate::testing::{Image, MODES, Noise, layout};
use crate::trace::tests::{TRACE, trace};
use proptest::prelude::*;

const G: u64 = Image::START + 0x200;
const ARRAY: u64 = Image::START + 0xb000;
const MCODE: u64 = Image::START + 0x8000;

/// A VM with one trace of this number.
fn vm(mode: GcMode, traceno: u16) -> Image {
    let (mut image, _) = trace(mode, traceno);
    let build = layout(mode).build;
    image.put(G + u64::from(build.trace), &ARRAY.to_le_bytes());
    image.put(G + u64::from(build.sizetrace), &10_u32.to_le_bytes());
    let slot = ARRAY + u64::from(traceno) * u64::from(mode.fields().ref_size);
    image.reference(slot, TRACE);
    image
}

fn seconds(start: Instant, count: u64) -> Instant {
    start + Duration::from_secs(count)
}

#[test]
fn a_trace_is_copied_once_and_found_by_address() {
    for mode in MODES {
        let (image, now) = (vm(mode, 3), Instant::now());
        let mut keeper = TraceKeeper::new(layout(mode), G);
        let first = keeper.poll(&image, now).unwrap();
        assert_eq!((first.live, first.copied), (1, 1));
        let second = keeper.poll(&image, seconds(now, 1)).unwrap();
        assert_eq!((second.live, second.copied, second.died), (1, 0, 0));
        assert_eq!(keeper.find(MCODE + 0xff, now).unwrap().traceno, 3);
        assert_eq!(keeper.find(MCODE + 0x100, now), Err(NoTrace::Unknown));
        assert_eq!(keeper.find(MCODE - 1, now), Err(NoTrace::Unknown));
        let areas = keeper.areas([(MCODE - 0x100, MCODE), (MCODE - 0x100, MCODE + 0x1000)]);
        assert_eq!(areas, [(MCODE - 0x100, MCODE + 0x1000)]);
    }
}

#[test]
fn a_flushed_trace_is_known_for_a_minute_at_the_times_when_it_lived() {
    let (image, now) = (vm(GcMode::Gc64, 3), Instant::now());
    let mut flushed = image.clone();
    flushed.reference(ARRAY + 3 * 8, 0);
    let mut keeper = TraceKeeper::new(layout(GcMode::Gc64), G);
    keeper.poll(&image, now).unwrap();
    assert_eq!(keeper.poll(&flushed, seconds(now, 10)).unwrap().died, 1);
    assert!(keeper.find(MCODE, seconds(now, 9)).is_ok());
    assert_eq!(keeper.find(MCODE, seconds(now, 11)), Err(NoTrace::Unknown));
    keeper.poll(&flushed, seconds(now, 71)).unwrap();
    assert_eq!(keeper.find(MCODE, seconds(now, 9)), Err(NoTrace::Unknown));
    assert_eq!(keeper.weight, 0);
}

#[test]
fn a_place_used_twice_is_ambiguous_only_between_the_polls() {
    let (before, after, now) = (vm(GcMode::Gc64, 3), vm(GcMode::Gc64, 4), Instant::now());
    let mut keeper = TraceKeeper::new(layout(GcMode::Gc64), G);
    keeper.poll(&before, now).unwrap();
    keeper.poll(&before, seconds(now, 1)).unwrap();
    keeper.poll(&after, seconds(now, 2)).unwrap();
    let number = |at| keeper.find(MCODE, at).map(|trace| trace.traceno);
    assert_eq!(number(now), Ok(3));
    assert_eq!(number(now + Duration::from_millis(1500)), Err(NoTrace::Ambiguous));
    assert_eq!(number(seconds(now, 3)), Ok(4));
}

#[test]
fn a_list_that_cannot_be_is_refused() {
    let (mut image, now) = (vm(GcMode::Gc64, 3), Instant::now());
    let build = layout(GcMode::Gc64).build;
    image.put(G + u64::from(build.sizetrace), &u32::MAX.to_le_bytes());
    let mut keeper = TraceKeeper::new(layout(GcMode::Gc64), G);
    assert_eq!(
        keeper.poll(&image, now),
        Err(PollError::TooMany {
            g: G,
            count: u32::MAX
        })
    );
    assert!(
        TraceKeeper::new(layout(GcMode::Gc64), 8)
            .poll(&image, now)
            .is_err()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_list_of_noise_is_bounded(seed: u64, gc64: bool, count in 0_u32..3000) {
        let mode = if gc64 { GcMode::Gc64 } else { GcMode::Gc32 };
        let mut image = vm(mode, 3);
        image.put(G + u64::from(layout(mode).build.sizetrace), &count.to_le_bytes());
        let memory = Noise { seed, mask: 0x10_ffff_0010_ffff, image, over: 0xb000 };
        let mut keeper = TraceKeeper::new(layout(mode), G);
        for _ in 0..2 {
            let polled = keeper.poll(&memory, Instant::now()).unwrap();
            prop_assert!(polled.copied + polled.failed <= MAX_COPIES);
        }
    }
}
