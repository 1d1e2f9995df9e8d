use super::*;
use proptest::prelude::*;

/// A 64-bit file with these program headers (type, flags, offset, vaddr, filesz), and `tail` behind them.
fn elf(headers: &[(u32, u32, u64, u64, u64)], tail: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[18..20].copy_from_slice(&62u16.to_le_bytes());
    file[32..40].copy_from_slice(&64u64.to_le_bytes());
    file[54..56].copy_from_slice(&56u16.to_le_bytes());
    file[56..58].copy_from_slice(&u16::try_from(headers.len()).unwrap().to_le_bytes());
    for &(kind, flags, offset, vaddr, filesz) in headers {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for word in [offset, vaddr, vaddr, filesz, filesz, 4096] {
            file.extend(u64::to_le_bytes(word));
        }
    }
    file.extend(tail);
    file
}

fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
    note.extend(u32::try_from(desc.len()).unwrap().to_le_bytes());
    note.extend(kind.to_le_bytes());
    for part in [name, desc] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

#[test]
fn segments_and_build_id_are_read() {
    let notes = [
        note(b"stapsdt\0", 3, b"no"),
        note(b"GNU\0", 1, &[0; 16]),
        note(b"GNU\0", 3, b"\x01\x02\x03"),
    ];
    let notes = notes.concat();
    let offset = 64 + 2 * 56;
    let file = elf(
        &[
            (1, 5, 0x1000, 0x40_1000, 0x20),
            (4, 4, offset, 0, notes.len() as u64),
        ],
        &notes,
    );
    let headers = Headers::read(file.as_slice()).unwrap();
    let segment = Segment {
        vaddr: 0x40_1000,
        offset: 0x1000,
        filesz: 0x20,
        memsz: 0x20,
        executable: true,
    };
    assert_eq!(headers.segments, [segment]);
    assert!(headers.is_64);
    assert_eq!(headers.machine, 62);
    assert_eq!(headers.build_id(file.as_slice()), Some(vec![1, 2, 3]));
}

#[test]
fn a_32_bit_file_is_read_too() {
    let mut file = vec![0; 52 + 32];
    file[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
    file[18] = 3;
    file[28] = 52;
    file[42] = 32;
    file[44] = 1;
    file[52] = 1; // PT_LOAD
    file[52 + 9] = 0x10; // vaddr 0x1000
    file[52 + 16] = 0x34; // filesz
    file[52 + 24] = 5; // flags
    let headers = Headers::read(file.as_slice()).unwrap();
    assert!(!headers.is_64);
    let segment = Segment {
        vaddr: 0x1000,
        offset: 0,
        filesz: 0x34,
        memsz: 0,
        executable: true,
    };
    assert_eq!(headers.segments, [segment]);
}

#[test]
fn what_is_not_an_elf_file_says_so() {
    let reason = |bytes: &[u8]| Headers::read(bytes).unwrap_err();
    assert_eq!(reason(b""), "not an ELF file");
    assert_eq!(reason(b"#!/bin/sh\necho hello world"), "not an ELF file");
    let good = elf(&[(1, 5, 0, 0, 1)], &[]);
    assert_eq!(reason(&good[..40]), "the ELF header is truncated");
    assert_eq!(reason(&good[..100]), "the program headers are truncated");
    let mut big_endian = good.clone();
    big_endian[5] = 2;
    assert_eq!(reason(&big_endian), "an ELF file of the other byte order");
    let mut huge = good.clone();
    huge[56..58].copy_from_slice(&0xffffu16.to_le_bytes());
    assert_eq!(reason(&huge), "more program headers than the kernel would load");
    let mut far = good.clone();
    far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(reason(&far), "the program headers are truncated");
    let mut odd = good;
    odd[54] = 1;
    assert_eq!(reason(&odd), "program headers of an unknown size");
}

#[test]
fn damaged_notes_give_no_build_id() {
    let huge = [
        &u32::MAX.to_le_bytes()[..],
        &u32::MAX.to_le_bytes(),
        &3u32.to_le_bytes(),
        b"GNU\0",
    ]
    .concat();
    for notes in [
        &huge[..],
        &note(b"GNU\0", 3, b""),
        &note(b"GNU\0", 3, &[7; 65]),
        b"short",
    ] {
        assert_eq!(find_build_id(notes), None);
    }
    // A segment of notes that claims to be larger than the file.
    let file = elf(&[(4, 4, 0, 0, u64::MAX)], &[]);
    assert_eq!(
        Headers::read(file.as_slice()).unwrap().build_id(file.as_slice()),
        None
    );
}

proptest! {
    #[test]
    fn hostile_headers_never_panic(
        headers in proptest::collection::vec((0..8u32, any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>()), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..100),
        flips in proptest::collection::vec((0..200usize, any::<u8>()), 0..8),
        cut in 0..600usize,
    ) {
        let mut file = elf(&headers, &tail);
        for (at, value) in flips {
            if let Some(byte) = file.get_mut(at).filter(|_| at > 6) {
                *byte = value;
            }
        }
        file.truncate(cut);
        if let Ok(headers) = Headers::read(file.as_slice()) {
            let _ = headers.build_id(file.as_slice());
        }
    }

    #[test]
    fn hostile_notes_never_panic(notes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = find_build_id(&notes);
    }
}
