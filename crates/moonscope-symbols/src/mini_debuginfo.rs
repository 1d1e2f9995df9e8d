//! `.gnu_debugdata`: a small ELF file with only a symbol table, packed with xz inside the executable.
//!
//! Fedora and its relatives ship it in every package (Fedora feature "MiniDebugInfo"; GDB manual, "Debugging
//! information in a special section"). It holds the functions that `.dynsym` does not, so both are needed.

use crate::elf_file::{ElfError, ElfFile};
use crate::limits::{MAX_MINI_DEBUG_INFO, MAX_XZ_MEMORY};
use liblzma::stream::{Action, Status, Stream};

/// Unpacks the file inside; `None` if there is none.
pub(crate) fn read(elf: &ElfFile) -> Result<Option<ElfFile>, ElfError> {
    let Some(section) = elf
        .section(".gnu_debugdata")
        .filter(|section| section.has_bytes())
    else {
        return Ok(None);
    };
    let packed = elf.raw(section, MAX_MINI_DEBUG_INFO as u64, "mini debug information")?;
    ElfFile::from_bytes(unpack(&packed)?).map(Some)
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, ElfError> {
    const DAMAGED: ElfError = ElfError::Damaged("mini debug information");
    let mut stream = Stream::new_stream_decoder(MAX_XZ_MEMORY, 0).map_err(|_| DAMAGED)?;
    let mut unpacked = Vec::new();
    loop {
        if unpacked.len() >= MAX_MINI_DEBUG_INFO {
            return Err(ElfError::TooLarge("mini debug information"));
        }
        // Doubles, but never beyond the limit.
        let more = unpacked
            .len()
            .max(256 << 10)
            .min(MAX_MINI_DEBUG_INFO - unpacked.len());
        unpacked.reserve_exact(more);
        let (read, written) = (stream.total_in(), stream.total_out());
        let rest = usize::try_from(read)
            .ok()
            .and_then(|read| packed.get(read..))
            .unwrap_or_default();
        match stream.process_vec(rest, &mut unpacked, Action::Finish) {
            Ok(Status::StreamEnd) => return Ok(unpacked),
            Ok(_) if (stream.total_in(), stream.total_out()) != (read, written) => {}
            _ => return Err(DAMAGED),
        }
    }
}
