//! All entries of a hash map, many in one system call.
//!
//! Not by the iterators of libbpf-rs 0.27: they take a batch that is not full for the last one. But the kernel ends a batch
//! before a bucket that does not fit into it whole (`__htab_map_lookup_and_delete_batch`, kernel/bpf/hashtab.c).

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{from_mut, null_mut};

use libbpf_rs::libbpf_sys::{bpf_map_batch_opts, bpf_map_lookup_and_delete_batch, bpf_map_lookup_batch};
use libbpf_rs::{Error, MapCore};

/// How many entries one system call brings, to begin with.
const BATCH: u32 = 1024;
/// The kernel's name of a bucket, with which the next batch begins.
const BUCKET: usize = size_of::<u32>();

/// What becomes of entries that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// They stay.
    Keep,
    /// They are deleted, each with what it held when it was read.
    Delete,
}

/// Gives each key and value of a hash map. What is added meanwhile may be among them. An error is that of the system call; what was
/// given before it is all that was deleted, and the rest can be asked for again.
pub fn for_each(map: &impl MapCore, then: Then, mut give: impl FnMut(&[u8], &[u8])) -> Result<(), Error> {
    let (key_size, value_size) = (map.key_size() as usize, map.value_size() as usize);
    let read = match then {
        Then::Keep => bpf_map_lookup_batch,
        Then::Delete => bpf_map_lookup_and_delete_batch,
    };
    let options = bpf_map_batch_opts {
        sz: size_of::<bpf_map_batch_opts>() as u64,
        ..Default::default()
    };
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut batch = BATCH;
    let mut begin: Option<[u8; BUCKET]> = None;
    loop {
        keys.resize(batch as usize * key_size, 0);
        values.resize(batch as usize * value_size, 0);
        let (mut count, mut next) = (batch, [0; BUCKET]);
        // SAFETY: there is room for `count` keys and values, and for the names of buckets (htab_map: 4 bytes).
        let result = unsafe {
            read(
                map.as_fd().as_raw_fd(),
                begin.as_mut().map_or(null_mut(), |begin| from_mut(begin).cast()),
                from_mut(&mut next).cast(),
                keys.as_mut_ptr().cast(),
                values.as_mut_ptr().cast(),
                &raw mut count,
                &raw const options,
            )
        };
        let failed = (result < 0).then(|| io::Error::from_raw_os_error(-result));
        let is_last = match failed.as_ref().map(io::Error::kind) {
            None => false,
            // without memory for a bucket it ends before that, and has deleted those that it gives
            Some(io::ErrorKind::NotFound | io::ErrorKind::OutOfMemory) => true,
            Some(io::ErrorKind::Interrupted) => continue,
            // a bucket has more than fit
            Some(io::ErrorKind::StorageFull) => {
                batch = batch.saturating_mul(2);
                continue;
            }
            Some(_) => return Err(Error::from_raw_os_error(-result)),
        };
        let entries = keys.chunks_exact(key_size).zip(values.chunks_exact(value_size));
        entries
            .take(count as usize)
            .for_each(|(key, value)| give(key, value));
        if is_last {
            let is_all = failed.is_none_or(|err| err.kind() == io::ErrorKind::NotFound);
            return is_all
                .then_some(())
                .ok_or_else(|| Error::from_raw_os_error(-result));
        }
        begin = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libbpf_rs::libbpf_sys::bpf_map_create_opts;
    use libbpf_rs::{MapFlags, MapHandle, MapType};
    use std::os::fd::AsFd;

    /// Of so many, libbpf-rs 0.27 gives some thousands.
    const ENTRIES: u32 = 50_000;

    fn is_root() -> bool {
        if !rustix::process::geteuid().is_root() {
            assert!(
                std::env::var_os("MOONSCOPE_NO_SKIP").is_none(),
                "this test needs root"
            );
            eprintln!("SKIPPED: maps need root");
            return false;
        }
        true
    }

    fn full_map() -> MapHandle {
        let options = bpf_map_create_opts {
            sz: size_of::<bpf_map_create_opts>() as u64,
            ..Default::default()
        };
        let map = MapHandle::create(MapType::Hash, None::<&str>, 4, 8, ENTRIES, &options).unwrap();
        for number in 0..ENTRIES {
            let (key, value) = (number.to_ne_bytes(), u64::from(2 * number).to_ne_bytes());
            map.update(&key, &value, MapFlags::ANY).unwrap();
        }
        map
    }

    fn numbers(map: &MapHandle, then: Then) -> Vec<u32> {
        let mut numbers = Vec::new();
        for_each(map, then, |key, value| {
            let number = u32::from_ne_bytes(key.try_into().unwrap());
            assert_eq!(
                u64::from_ne_bytes(value.try_into().unwrap()),
                u64::from(2 * number)
            );
            numbers.push(number);
        })
        .unwrap();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn root_batches_give_every_entry_once_also_where_buckets_do_not_end_with_them() {
        if !is_root() {
            return;
        }
        let map = full_map();
        let all: Vec<u32> = (0..ENTRIES).collect();
        assert_eq!(numbers(&map, Then::Keep), all);
        assert_eq!(numbers(&map, Then::Delete), all);
        assert_eq!(numbers(&map, Then::Delete), Vec::<u32>::new());
    }

    #[test]
    fn root_what_was_read_before_a_failure_was_given_and_the_rest_is_still_there() {
        if !is_root() {
            return;
        }
        let map = full_map();
        // the kernel has it under another descriptor, too
        let same = MapHandle::from_map_id(map.info().unwrap().info.id).unwrap();
        let nothing = std::fs::File::open("/dev/null").unwrap();
        let mut given = Vec::new();
        let result = for_each(&map, Then::Delete, |key, _| {
            given.push(u32::from_ne_bytes(key.try_into().unwrap()));
            // the next system call finds no map there
            // SAFETY: both are open, and the map's own descriptor is not used for anything else.
            unsafe { libc::dup2(nothing.as_raw_fd(), map.as_fd().as_raw_fd()) };
        });
        assert!(result.is_err());
        assert!(
            !given.is_empty() && given.len() < ENTRIES as usize,
            "{}",
            given.len()
        );
        let mut all = numbers(&same, Then::Keep);
        all.extend(&given);
        all.sort_unstable();
        assert_eq!(all, (0..ENTRIES).collect::<Vec<_>>());
    }
}
