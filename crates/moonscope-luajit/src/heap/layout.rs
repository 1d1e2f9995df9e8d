//! Where a `global_State` keeps what the collector knows, proved by the build's code and by the live VM.
//!
//! The code names `gc.total`, `gc.threshold` and `gc.grayagain` ([`decode_layout`](crate::decode_layout) refuses a `GCState` in which they
//! do not stand as they should) and `vmstate`. The `global_State` has been in two orders (lj_obj.h):
//!
//! * since 2020-06: the allocator, `gc`, `strempty`, its terminator, `hookmask` and two more bytes, `str`, `vmstate`;
//! * before: the table of strings, the allocator, `gc`, `vmstate`, `tmpbuf`, `strempty`, its terminator, `hookmask`.
//!
//! Since 2020-09 `gc` has one more address at its end, `lightudseg`. The distance from `gc.total` to `vmstate` tells which of the four
//! it is; the empty string, which is an object of known type and length, must then be where it belongs, and the buckets of the
//! table must lead to strings.

use std::time::Duration;

use moonscope_process::RemoteMemory;

use crate::layout::{GcMode, Layout};
use crate::object::{number, read_reference, reference_at};
use crate::string::StrLayout;
use crate::value::gct;
use crate::vms;

/// Buckets of the table of strings that must lead to strings, of those that are in use.
const WITNESSES: usize = 64;
/// Buckets that are looked at for these.
const SOME_BUCKETS: u64 = 1024;
/// How often that is tried, and what is waited in between: a collector that frees strings is done with these buckets then.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(1);
/// `LJ_MAX_STRTAB`, with room.
pub(super) const MAX_BUCKETS: u64 = 1 << 27;
/// `SBuf`: three addresses and a reference.
const fn sbuf_size(mode: GcMode, is_new: bool) -> u32 {
    match (mode, is_new) {
        (GcMode::Gc64, _) => 32,
        (GcMode::Gc32, true) => 28,
        // before 2020 its addresses were references too
        (GcMode::Gc32, false) => 16,
    }
}

/// Why the memory of a VM is not shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeapError {
    /// A field cannot be proved.
    #[error("where this LuaJIT keeps {field} cannot be proved: {why}")]
    Unproved {
        /// Its name in lj_obj.h.
        field: &'static str,
        /// What is missing.
        why: String,
    },
    /// The VM is gone, or being made.
    #[error("the VM at {g:#x} cannot be read")]
    Unreadable {
        /// Its `global_State`.
        g: u64,
    },
}

fn unproved(field: &'static str, why: impl Into<String>) -> HeapError {
    HeapError::Unproved {
        field,
        why: why.into(),
    }
}

/// Where the memory of one VM is described. Offsets are from its `global_State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapLayout {
    /// Of the build.
    pub layout: Layout,
    /// The `global_State`.
    pub g: u64,
    /// The main coroutine, which is beside it.
    pub main: u64,
    /// `gc.total`
    pub gc: u32,
    /// `strempty`
    pub strempty: u32,
    /// `str.tab`: address of the buckets; behind it `mask` and `num`, 4 bytes each.
    pub strings: u32,
    /// `hookmask`: 1 byte.
    pub hookmask: u32,
    /// How strings are laid out.
    pub string: StrLayout,
}

impl HeapLayout {
    /// Proves it for the VM at `g`.
    pub fn find(memory: &impl RemoteMemory, g: u64, layout: &Layout) -> Result<Self, HeapError> {
        let fields = layout.fields();
        let build = &layout.build;
        if build.gc_total == 0 {
            return Err(unproved("gc.total", "its code does not name it"));
        }
        let main = vms::main_thread(memory, g, layout).map_err(|_| HeapError::Unreadable { g })?;
        let string = StrLayout::of_vm(memory, layout, g)
            .map_err(|err| unproved("the length of strings", err.to_string()))?;
        let reference = u32::from(fields.ref_size);
        let orders = [true, false]
            .into_iter()
            .flat_map(|is_new| [(is_new, 0), (is_new, reference)]);
        let order = orders.into_iter().find_map(|(is_new, lightudseg)| {
            Self::of_order(
                build.gc_total,
                build.vmstate,
                layout,
                string,
                (is_new, lightudseg),
            )
        });
        let Some((strempty, hookmask, strings)) = order else {
            let why = format!(
                "vmstate is {:#x} bytes behind gc.total",
                build.vmstate.wrapping_sub(build.gc_total)
            );
            return Err(unproved("the table of strings", why));
        };
        let found = Self {
            layout: *layout,
            g,
            main,
            gc: build.gc_total,
            strempty,
            strings,
            hookmask,
            string,
        };
        found.check_empty_string(memory)?;
        found.check_strings(memory)?;
        Ok(found)
    }

    /// `strempty`, `hookmask`, `str.tab` if this order puts `vmstate` where it is.
    fn of_order(
        gc: u32,
        vmstate: u32,
        layout: &Layout,
        string: StrLayout,
        (is_new, lightudseg): (bool, u32),
    ) -> Option<(u32, u32, u32)> {
        let behind = gc.checked_add(u32::from(layout.fields().gc_size) + lightudseg)?;
        let text = u32::from(string.text());
        match is_new {
            true => {
                // terminator, hookmask, dispatchmode, vmevmask
                let strings = (behind + text + 4).next_multiple_of(8);
                // tab, mask, num, id, four flags, and a seed that is aligned to 8 bytes
                (vmstate == strings + 32).then_some((behind, behind + text + 1, strings))
            }
            false => {
                let tmpbuf = (vmstate + 4).next_multiple_of(layout.fields().ref_size.into());
                let strempty = tmpbuf + sbuf_size(layout.mode, false);
                (vmstate == behind).then_some((strempty, strempty + text + 1, 0))
            }
        }
    }

    /// The reference at an offset of the `global_State`.
    pub(crate) fn reference(&self, memory: &impl RemoteMemory, offset: u32) -> Option<u64> {
        read_reference(memory, self.layout.fields(), self.g.checked_add(offset.into())?)
    }

    fn check_empty_string(&self, memory: &impl RemoteMemory) -> Result<(), HeapError> {
        let at = self.g.wrapping_add(self.strempty.into());
        let is_string = self.string.read(memory, at, 1);
        match is_string {
            Ok(string) if string.len == 0 => Ok(()),
            _ => Err(unproved(
                "strempty",
                "there is no empty string where it should be",
            )),
        }
    }

    /// The buckets: their address, and how many there are.
    pub(crate) fn buckets(&self, memory: &impl RemoteMemory) -> Option<(u64, u64, u64)> {
        let mut bytes = [0; 16];
        memory
            .read_exact(self.g.checked_add(self.strings.into())?, &mut bytes)
            .ok()?;
        let count = number::<4>(&bytes, 8)?.checked_add(1)?;
        let table = number::<8>(&bytes, 0)?;
        let is_table =
            count.is_power_of_two() && count <= MAX_BUCKETS && table != 0 && table.is_multiple_of(8);
        is_table.then_some((table, count, number::<4>(&bytes, 12)?))
    }

    /// Do buckets lead to strings? In a VM that makes and frees many, some are freed between the two readings: then again.
    fn check_strings(&self, memory: &impl RemoteMemory) -> Result<(), HeapError> {
        for _ in 0..TRIES {
            if self.leads_to_strings(memory) == Some(true) {
                return Ok(());
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
        Err(unproved("the table of strings", "what is there are no strings"))
    }

    fn leads_to_strings(&self, memory: &impl RemoteMemory) -> Option<bool> {
        let fields = self.layout.fields();
        let (table, count, _) = self.buckets(memory)?;
        let size = usize::from(fields.ref_size);
        // there are 256 buckets at least, and some strings in each VM
        let mut bytes = vec![0; size * count.min(SOME_BUCKETS) as usize];
        memory.read_exact(table, &mut bytes).ok()?;
        let heads = bytes
            .chunks_exact(size)
            .filter_map(|word| reference_at(fields, word, 0));
        let heads: Vec<u64> = heads
            .map(|head| head & !1)
            .filter(|&head| head != 0)
            .take(WITNESSES)
            .collect();
        let types: Vec<u64> = heads
            .iter()
            .map(|head| head.wrapping_add(fields.gct.into()))
            .collect();
        let mut bytes = vec![0; types.len()];
        let were_read = memory.read_each(&types, &mut bytes);
        let is_string = |&(&byte, was_read): &(&u8, bool)| was_read && byte == gct::STRING;
        let strings = bytes.iter().zip(were_read).filter(is_string).count();
        Some(strings > 0 && strings * 8 >= heads.len() * 7)
    }
}
