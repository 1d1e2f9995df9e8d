//! Prototypes (`GCproto`, lj_obj.h): where a function was defined, and the line of each of its instructions.
//!
//! An address of a prototype is only worth something while the prototype lives: after a garbage collection
//! another one may stand there. [`Prototype::still_is`] tells, with one small read.

use crate::string::{LuaString, StrLayout, StringError};
use crate::value::gct;
use crate::{Fields, GcMode};
use moonscope_process::{ProcessError, RemoteMemory};
use std::cell::OnceCell;

/// Bytes of a chunk name that are kept: a path (`PATH_MAX`) and its prefix. Chunks loaded from text have
/// the whole text as name.
pub const MAX_CHUNKNAME: usize = 4097;

/// Largest prototype that is believed, in bytes. LuaJIT allows 2^26 instructions; 2^17, which takes about
/// 1 MiB, is more than any source written by hand has in one function.
pub const MAX_PROTOTYPE: u32 = 1 << 28;

/// Line information up to this size is read once and kept, in bytes; of larger prototypes single entries are
/// read.
const MAX_KEPT_LINES: u64 = 1 << 20;

/// `sizeof(GCproto)` of the larger object model.
const HEADER: usize = 0x68;

/// Bytes behind `GCstr.gct` up to the text, in the larger object model; the smaller one has 14 as well, with
/// some of the text.
const NAME_HEADER: usize = 14;

/// `PROTO_VARARG`.
const VARARG: u8 = 2;

/// Why there is no prototype to be had at an address.
#[derive(Debug, thiserror::Error)]
pub enum PrototypeError {
    /// The object there is something else, or freed.
    #[error("no prototype at {address:#x}")]
    NotAPrototype {
        /// Where one was expected.
        address: u64,
    },
    /// It says something of itself that cannot be.
    #[error("the prototype at {address:#x} contradicts itself: {what}")]
    Contradiction {
        /// Where it is.
        address: u64,
        /// What cannot be.
        what: &'static str,
    },
    /// Another one has taken its place since it was read.
    #[error("the prototype at {address:#x} was freed and another one stands there")]
    Replaced {
        /// Where it was.
        address: u64,
    },
    /// The name of its chunk cannot be read.
    #[error("the prototype at {address:#x} has no readable chunk name: {cause}")]
    ChunkName {
        /// Where it is.
        address: u64,
        /// Why.
        cause: StringError,
    },
    /// The memory cannot be read.
    #[error(transparent)]
    Memory(#[from] ProcessError),
}

/// What of a prototype does not change while it lives: the same values at the same address are the same
/// prototype, or one that was loaded again from the same text and has the same lines. (The hash of the name
/// changes once if its chain in the table of strings grows too long; that prototype is then read again.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrototypeIdentity {
    /// Where it is.
    pub address: u64,
    /// Reference to its chunk name.
    pub chunkname: u64,
    /// Identifier, hash and length of that string, as they stand in its header: memory of equal sizes is used
    /// again in equal order, so that a prototype of the same shape may well come to lie at the same address
    /// beside another name at the same address.
    pub chunkname_header: [u8; NAME_HEADER],
    /// First line of the definition; 0 for a main chunk and for stripped bytecode, `!0` for what LuaJIT
    /// brings as bytecode.
    pub firstline: u32,
    /// Lines of the definition less one.
    pub numline: u32,
    /// Number of instructions, the function header included.
    pub sizebc: u32,
    /// Bytes of the prototype with everything in it.
    pub sizept: u32,
    /// Number of constants that are objects.
    pub sizekgc: u32,
    /// Address of its constants.
    pub k: u64,
    /// Address of the line information; 0 if it was stripped.
    pub lineinfo: u64,
    /// Address of the names of upvalues; 0 if they were stripped.
    pub uvinfo: u64,
    /// Address of the names of local variables; 0 if they were stripped.
    pub varinfo: u64,
    /// Number of upvalues.
    pub sizeuv: u8,
    /// Number of parameters.
    pub numparams: u8,
    /// Has `...`.
    pub is_vararg: bool,
}

impl PrototypeIdentity {
    /// Reads what stands at `address`, if that is a prototype.
    pub fn read<M: RemoteMemory + ?Sized>(
        memory: &M,
        mode: GcMode,
        address: u64,
    ) -> Result<Self, PrototypeError> {
        let fields = mode.fields();
        let mut header = [0; HEADER];
        let header = &mut header[..usize::from(fields.pt_size).min(HEADER)];
        memory.read_exact(address, header)?;
        let header = Header {
            bytes: header,
            fields,
        };
        if header.u8(fields.gct) != gct::PROTO {
            return Err(PrototypeError::NotAPrototype { address });
        }
        let chunkname = header.reference(fields.pt_chunkname);
        let mut chunkname_header = [0; NAME_HEADER];
        let behind_type = chunkname.wrapping_add(u64::from(fields.gct) + 1);
        memory.read_exact(behind_type, &mut chunkname_header)?;
        Ok(Self {
            address,
            chunkname,
            chunkname_header,
            firstline: header.u32(fields.pt_firstline),
            numline: header.u32(fields.pt_numline),
            sizebc: header.u32(fields.pt_sizebc),
            sizept: header.u32(fields.pt_sizept),
            sizekgc: header.u32(fields.pt_sizekgc),
            k: header.reference(fields.pt_k),
            lineinfo: header.reference(fields.pt_lineinfo),
            uvinfo: header.reference(fields.pt_uvinfo),
            varinfo: header.reference(fields.pt_varinfo),
            sizeuv: header.u8(fields.pt_sizeuv),
            numparams: header.u8(fields.pt_numparams),
            is_vararg: header.u8(fields.pt_flags) & VARARG != 0,
        })
    }

    /// Fails if sizes and addresses do not fit together: everything of a prototype lies within its
    /// `sizept` bytes (fs_finish in lj_parse.c, lj_bcread_proto in lj_bcread.c).
    fn check(&self, fields: &Fields) -> Result<(), PrototypeError> {
        let wrong = |what| {
            Err(PrototypeError::Contradiction {
                address: self.address,
                what,
            })
        };
        let header = u64::from(fields.pt_size);
        let bytecode_end = header + 4 * u64::from(self.sizebc);
        let size = u64::from(self.sizept);
        let inside = |at: u64, bytes: u64| {
            let from = at.wrapping_sub(self.address);
            from >= bytecode_end && from.checked_add(bytes).is_some_and(|end| end <= size)
        };
        if self.sizept > MAX_PROTOTYPE {
            return wrong("it is too large");
        }
        if self.sizebc == 0 || bytecode_end > size {
            return wrong("its bytecode does not fit into it");
        }
        let constants = u64::from(self.sizekgc) * u64::from(fields.ref_size);
        if self.sizekgc > 0 && !inside(self.k.wrapping_sub(constants), constants) {
            return wrong("its constants lie outside");
        }
        if self.lineinfo != 0 && !inside(self.lineinfo, self.line_bytes()) {
            return wrong("its line information lies outside");
        }
        if [self.uvinfo, self.varinfo]
            .iter()
            .any(|info| *info != 0 && !inside(*info, 0))
        {
            return wrong("its names of variables lie outside");
        }
        if self.firstline != !0 && self.firstline.checked_add(self.numline).is_none() {
            return wrong("its last line has no number");
        }
        Ok(())
    }

    /// Bytes of one entry of the line information (lj_debug_line).
    fn line_width(&self) -> u64 {
        match self.numline {
            0..256 => 1,
            256..65536 => 2,
            _ => 4,
        }
    }

    fn line_bytes(&self) -> u64 {
        u64::from(self.sizebc.saturating_sub(1)) * self.line_width()
    }
}

struct Header<'h> {
    bytes: &'h [u8],
    fields: &'h Fields,
}

impl Header<'_> {
    fn u8(&self, at: u16) -> u8 {
        self.bytes.get(usize::from(at)).copied().unwrap_or(0)
    }

    fn u32(&self, at: u16) -> u32 {
        u32::from_ne_bytes([0, 1, 2, 3].map(|i| self.u8(at + i)))
    }

    fn reference(&self, at: u16) -> u64 {
        match self.fields.ref_size {
            8 => u64::from_ne_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| self.u8(at + i))),
            _ => self.u32(at).into(),
        }
    }
}

/// Strings are freed before the prototypes that have them as names (`GCSsweepstring`, `GCSsweep` in lj_gc.c), and the memory
/// allocator writes the size of a free chunk at its end (`set_foot` in lj_alloc.c): 8 bytes with zeros. No name of a file has any.
fn is_overwritten(chunkname: &[u8]) -> bool {
    matches!(chunkname.first(), Some(b'@' | b'=')) && chunkname.contains(&0)
}

/// A prototype as it was when it was read.
#[derive(Clone, Debug)]
pub struct Prototype {
    /// Tells it from another one at the same address.
    pub identity: PrototypeIdentity,
    /// Where its text came from, as Lua has it; at most [`MAX_CHUNKNAME`] bytes of it.
    pub chunkname: LuaString,
    mode: GcMode,
    /// Line information, once it was needed.
    lines: OnceCell<Vec<u8>>,
}

impl Prototype {
    /// Reads the prototype at `address`.
    pub fn read<M: RemoteMemory + ?Sized>(
        memory: &M,
        mode: GcMode,
        strings: &StrLayout,
        address: u64,
    ) -> Result<Self, PrototypeError> {
        let identity = PrototypeIdentity::read(memory, mode, address)?;
        identity.check(mode.fields())?;
        let chunkname = strings
            .read(memory, identity.chunkname, MAX_CHUNKNAME)
            .map_err(|cause| PrototypeError::ChunkName { address, cause })?;
        if is_overwritten(&chunkname.bytes) {
            return Err(PrototypeError::Replaced { address });
        }
        let prototype = Self {
            identity,
            chunkname,
            mode,
            lines: OnceCell::new(),
        };
        // The two reads are one prototype only if the first is still true after the second.
        match prototype.still_is(memory)? {
            true => Ok(prototype),
            false => Err(PrototypeError::Replaced { address }),
        }
    }

    /// True if this prototype is still what stands at its address.
    pub fn still_is<M: RemoteMemory + ?Sized>(&self, memory: &M) -> Result<bool, ProcessError> {
        match PrototypeIdentity::read(memory, self.mode, self.identity.address) {
            Ok(now) => Ok(now == self.identity),
            // What is freed may lie in memory that is gone.
            Err(PrototypeError::Memory(ProcessError::Unreadable { .. })) => Ok(false),
            Err(PrototypeError::Memory(cause)) => Err(cause),
            Err(_) => Ok(false),
        }
    }

    /// The object model it was read with.
    pub fn mode(&self) -> GcMode {
        self.mode
    }

    /// Address of its first instruction, the function header.
    pub fn bytecode(&self) -> u64 {
        self.identity
            .address
            .wrapping_add(self.mode.fields().pt_size.into())
    }

    /// It has no lines and no names of variables: `luajit -b -s`, `string.dump(f, true)`.
    pub fn is_stripped(&self) -> bool {
        self.identity.lineinfo == 0
    }

    /// One of the functions that LuaJIT brings as bytecode (lj_lib.c); the chunk name is its name.
    pub fn is_builtin(&self) -> bool {
        self.identity.firstline == !0
    }

    /// The instruction that a saved program counter belongs to, counted from the header, which is 0. A saved
    /// counter points behind its instruction. `None` if it does not point into this prototype.
    pub fn position_of(&self, saved_pc: u64) -> Option<u32> {
        let bytes = saved_pc.checked_sub(self.bytecode())?;
        let behind = u32::try_from(bytes / 4).ok().filter(|_| bytes % 4 == 0)?;
        behind
            .checked_sub(1)
            .filter(|position| *position <= self.identity.sizebc)
    }

    /// The line of the instruction at `position`, as LuaJIT has it (lj_debug_line): the header is on the first
    /// line, the position behind the last instruction on the last one. `None` if the bytecode was stripped or
    /// has no such position.
    pub fn line_of<M: RemoteMemory + ?Sized>(
        &self,
        memory: &M,
        position: u32,
    ) -> Result<Option<u32>, PrototypeError> {
        let PrototypeIdentity {
            firstline,
            numline,
            sizebc,
            ..
        } = self.identity;
        if self.is_stripped() || position > sizebc {
            return Ok(None);
        }
        let offset = match position {
            0 => 0,
            end if end == sizebc => numline,
            _ => self.line_entry(memory, position - 1)?,
        };
        Ok(Some(firstline.wrapping_add(offset)))
    }

    /// Reads the line information now, so that lines are known when the prototype is gone; not that of large ones.
    pub fn keep_lines<M: RemoteMemory + ?Sized>(&self, memory: &M) -> Result<(), PrototypeError> {
        if !self.is_stripped() && self.identity.line_bytes() <= MAX_KEPT_LINES {
            self.lines(memory)?;
        }
        Ok(())
    }

    fn line_entry<M: RemoteMemory + ?Sized>(&self, memory: &M, index: u32) -> Result<u32, PrototypeError> {
        let width = self.identity.line_width();
        let at = u64::from(index) * width;
        let mut entry = [0; 4];
        let bytes = &mut entry[..width as usize];
        if self.identity.line_bytes() <= MAX_KEPT_LINES {
            let lines = self.lines(memory)?;
            let kept = lines.get(at as usize..).and_then(|rest| rest.get(..bytes.len()));
            bytes.copy_from_slice(kept.unwrap_or(&[0; 4][..bytes.len()]));
        } else {
            memory.read_exact(self.identity.lineinfo.wrapping_add(at), bytes)?;
            self.must_still_be(memory)?;
        }
        Ok(u32::from_le_bytes(entry))
    }

    fn lines<M: RemoteMemory + ?Sized>(&self, memory: &M) -> Result<&[u8], PrototypeError> {
        if let Some(lines) = self.lines.get() {
            return Ok(lines);
        }
        let mut lines = vec![0; self.identity.line_bytes() as usize];
        memory.read_exact(self.identity.lineinfo, &mut lines)?;
        self.must_still_be(memory)?;
        Ok(self.lines.get_or_init(|| lines))
    }

    /// What was read from its inside is only good if it was still there afterwards.
    pub(crate) fn must_still_be<M: RemoteMemory + ?Sized>(&self, memory: &M) -> Result<(), PrototypeError> {
        let address = self.identity.address;
        match self.still_is(memory)? {
            true => Ok(()),
            false => Err(PrototypeError::Replaced { address }),
        }
    }
}
