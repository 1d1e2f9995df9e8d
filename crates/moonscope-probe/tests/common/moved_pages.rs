//! Stacks that cannot be read while the kernel moves their pages.
//!
//! A page that is being moved (compaction, mm/migrate.c: `try_to_migrate`) has no page table entry for some
//! microseconds. Whoever touches it sleeps until it is back; a sample cannot, and its stack ends there as unreadable. A
//! loop of `echo 1 > /proc/sys/vm/compact_memory` showed one in some 80,000 samples, none came without it; whole test
//! runs make the kernel compact memory too.

use std::collections::BTreeMap;

const UNREADABLE: &str = "stack unreadable";

/// How many pages the kernel had moved at a moment.
pub struct MovedPages(u64);

impl MovedPages {
    pub fn now() -> Self {
        let counters = std::fs::read_to_string("/proc/vmstat").unwrap();
        let mut lines = counters.lines();
        // not there: a kernel that does not move pages (CONFIG_MIGRATION)
        let moved = lines.find_map(|line| line.strip_prefix("pgmigrate_success "));
        Self(moved.map_or(0, |count| count.parse().unwrap()))
    }

    /// No stack was cut since then but for unreadable ones: one, and one in a thousand, and only if pages were moved.
    #[track_caller]
    pub fn assert_no_other_cuts(&self, cut: &BTreeMap<&'static str, u64>, samples: u64) {
        let moved = Self::now().0 - self.0;
        let by_moves = moved.min(1 + samples / 1_000);
        assert!(
            cut.iter()
                .all(|(reason, count)| *reason == UNREADABLE && *count <= by_moves),
            "{cut:?} of {samples} samples, while {moved} pages were moved"
        );
    }
}
