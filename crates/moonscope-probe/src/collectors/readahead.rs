//! The event `readahead`: pages that the kernel reads before they are asked for, and what becomes of them
//! (`bpf/readahead.bpf.h`).

use std::collections::BTreeMap;
use std::sync::Arc;

use libbpf_rs::{MapCore, MapFlags};
use moonscope_unwind::abi;

use crate::collector::{Collector, Column, Context, Leftover, Programs};
use crate::error::ProbeError;
use crate::files::{FileNames, has_too_many_files};
use crate::kernel_types::has_tracepoint;
use crate::limits::Limits;
use crate::skeleton::{MoonscopeSkel, OpenMoonscopeSkel};

/// Pages that are read ahead.
#[derive(Debug, Default)]
pub struct Readahead {
    number: u32,
    /// Were there more files than have room?
    has_too_many_files: bool,
    files: Arc<FileNames>,
}

/// What the kernel must tell of; all since Linux 6.18, some earlier.
const TRACEPOINTS: [&str; 7] = [
    "page_cache_ra_unbounded",
    "page_cache_ra_order",
    "mm_filemap_add_to_page_cache",
    "mm_filemap_get_pages",
    "mm_filemap_map_pages",
    "mm_filemap_fault",
    "mm_filemap_delete_from_page_cache",
];

/// The label with the file.
const FILE: &str = "readahead-file";

/// `RA_PAGE_BYTES` of `bpf/readahead.bpf.h`.
const PAGE: u64 = 4096;

impl Collector for Readahead {
    fn name(&self) -> &'static str {
        "readahead"
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: [Column; 5] = [
            Column::new("readahead", "bytes"),
            Column::new("readahead_used", "bytes"),
            Column::new("readahead_evicted", "bytes"),
            Column::new("readahead_waiting", "bytes"),
            Column::new("readahead_windows", "count"),
        ];
        &COLUMNS
    }

    fn prepare(&mut self, _context: &Context<'_>) -> Result<(), ProbeError> {
        match TRACEPOINTS.iter().find(|name| !has_tracepoint(name)) {
            None => Ok(()),
            Some(missing) => Err(ProbeError::NoTracepoint {
                event: "readahead",
                missing,
                since: "6.18",
            }),
        }
    }

    fn programs(&self) -> &'static [&'static str] {
        &[
            "readahead_window",
            "readahead_large",
            "readahead_add",
            "readahead_read",
            "readahead_map",
            "readahead_fault",
            "readahead_delete",
        ]
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
        self.number = number;
        if let Some(constants) = open.maps.rodata_data.as_deref_mut() {
            constants.readahead_event = number;
        }
        let maps = &mut open.maps;
        maps.readahead_threads.set_max_entries(limits.threads as u32)?;
        maps.readahead_pages.set_max_entries(limits.pages as u32)?;
        maps.file_numbers.set_max_entries(limits.files as u32)
    }

    fn attach(&mut self, programs: &mut Programs<'_>) -> Result<(), ProbeError> {
        self.programs()
            .iter()
            .try_for_each(|program| programs.attach(program))
    }

    fn start(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        switch(skel, 1);
        Ok(())
    }

    fn stop(&mut self, skel: &mut MoonscopeSkel<'static>) -> Result<(), ProbeError> {
        switch(skel, 0);
        self.has_too_many_files = has_too_many_files(skel);
        Ok(())
    }

    /// Pages that are in the cache still, and that nobody asked for.
    fn leftovers(&mut self, skel: &mut MoonscopeSkel<'static>) -> Vec<Leftover> {
        let map = &skel.maps.readahead_pages;
        let mut waiting: BTreeMap<(u64, u64, u32), u64> = BTreeMap::new();
        for key in map.keys() {
            // `struct ra_page`: stack, tag
            let value = map.lookup(&key, MapFlags::ANY).ok().flatten();
            if let Some(page) = value.as_deref().and_then(page_of) {
                *waiting.entry(page).or_default() += PAGE;
            }
        }
        let leftover = |((a, b, tag), bytes)| {
            let key = abi::ms_sum_key {
                stack: abi::ms_stack_id { a, b },
                event: self.number,
                tag,
            };
            let mut sum = abi::ms_sum::default();
            sum.value[abi::MS_READAHEAD_WAITING as usize] = bytes;
            (key, sum)
        };
        waiting.into_iter().map(leftover).collect()
    }

    fn learn_files(&mut self, files: &Arc<FileNames>) {
        self.files = Arc::clone(files);
    }

    fn how(&self) -> String {
        let files = if self.has_too_many_files {
            ", names of the first files only: there were too many"
        } else {
            ""
        };
        format!("by page_cache_ra_* and mm_filemap_*, page by page{files}")
    }

    fn row(&self, _tag: u32, sum: &abi::ms_sum) -> Vec<i64> {
        let clamp = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let value = |place: u32| clamp(sum.value[place as usize]);
        vec![
            value(abi::MS_READAHEAD_READ),
            value(abi::MS_READAHEAD_USED),
            value(abi::MS_READAHEAD_EVICTED),
            value(abi::MS_READAHEAD_WAITING),
            clamp(sum.count),
        ]
    }

    fn label_names(&self) -> &'static [&'static str] {
        &[FILE]
    }

    fn labels(&self, tag: u32, _kernel: &[&str]) -> Vec<(&'static str, String)> {
        let name = self.files.name(tag).unwrap_or_else(|| "unknown".to_owned());
        vec![(FILE, name)]
    }
}

fn page_of(value: &[u8]) -> Option<(u64, u64, u32)> {
    let word = |at: usize| Some(u64::from_ne_bytes(value.get(at..at + 8)?.try_into().ok()?));
    let tag = u32::from_ne_bytes(value.get(16..20)?.try_into().ok()?);
    Some((word(0)?, word(8)?, tag))
}

fn switch(skel: &mut MoonscopeSkel<'static>, is_on: u32) {
    if let Some(state) = skel.maps.bss_readahead_data.as_deref_mut() {
        state.readahead_is_on = is_on;
    }
}
