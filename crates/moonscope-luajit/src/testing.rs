//! Memory for tests: a VM's objects written by hand, and noise.

use crate::layout::{BuildOffsets, CFrame, GcMode, Layout, TraceFields};
use moonscope_process::{ProcessError, RemoteMemory};

pub(crate) const MODES: [GcMode; 2] = [GcMode::Gc64, GcMode::Gc32];

pub(crate) fn layout(mode: GcMode) -> Layout {
    let (cframe, trace) = match mode {
        GcMode::Gc64 => (
            CFrame {
                size: 80,
                l: 16,
                pc: 24,
                prev: 32,
                nres: 8,
            },
            TraceFields {
                nsnap: 0xa,
                nins: 0xc,
                ir: 0x20,
                nk: 0x28,
                snap: 0x30,
                snapmap: 0x38,
                startpt: 0x40,
                startpc: 0x48,
                startins: 0x50,
                szmcode: 0x54,
                mcode: 0x58,
                traceno: 0x68,
                link: 0x6a,
                root: 0x6c,
                snapshot_size: 12,
                snapshot_mcofs: Some(6),
                snapshot_nslots: 8,
            },
        ),
        GcMode::Gc32 => (
            CFrame {
                size: 80,
                l: 24,
                pc: 28,
                prev: 32,
                nres: 16,
            },
            TraceFields {
                nsnap: 0x6,
                nins: 0x8,
                ir: 0x10,
                nk: 0x18,
                snap: 0x20,
                snapmap: 0x28,
                startpt: 0x30,
                startpc: 0x34,
                startins: 0x38,
                szmcode: 0x3c,
                mcode: 0x40,
                traceno: 0x50,
                link: 0x52,
                root: 0x54,
                snapshot_size: 12,
                snapshot_mcofs: Some(6),
                snapshot_nslots: 8,
            },
        ),
    };
    let build = BuildOffsets {
        g2disp: 0xf80,
        vmstate: 0xb8,
        cur_l: 0x170,
        jit_base: 0x178,
        trace: 0x458,
        sizetrace: 0x464,
        gc_total: 0x10,
    };
    Layout {
        mode,
        cframe,
        build,
        trace: Some(trace),
    }
}

/// Zeros from [`Image::START`] on, into which a test writes.
#[derive(Clone)]
pub(crate) struct Image {
    pub bytes: Vec<u8>,
    pub mode: GcMode,
}

impl Image {
    pub const START: u64 = 0x10_0000;
    pub const L: u64 = Self::START + 0x100;
    pub const STACK: u64 = Self::START + 0x1000;
    const STACK_SIZE: u64 = 0x1000;

    pub fn new(mode: GcMode) -> Self {
        let mut image = Self {
            bytes: vec![0; 0x1_0000],
            mode,
        };
        let fields = mode.fields();
        image.put(Self::L + u64::from(fields.gct), &[6]);
        image.reference(Self::L + u64::from(fields.l_stack), Self::STACK);
        image.reference(
            Self::L + u64::from(fields.l_maxstack),
            Self::STACK + Self::STACK_SIZE,
        );
        image
    }

    pub fn put(&mut self, addr: u64, bytes: &[u8]) {
        let at = (addr - Self::START) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn reference(&mut self, addr: u64, value: u64) {
        let size = usize::from(self.mode.fields().ref_size);
        self.put(addr, &value.to_le_bytes()[..size]);
    }

    /// A prototype with this many instructions, and a function of it; returns where its bytecode is.
    pub fn lua(&mut self, function: u64, proto: u64, sizebc: u32) -> u64 {
        let fields = self.mode.fields();
        let bytecode = proto + u64::from(fields.pt_size);
        let end = bytecode + u64::from(sizebc) * 4;
        self.put(proto + u64::from(fields.gct), &[7]);
        self.put(proto + u64::from(fields.pt_sizebc), &sizebc.to_le_bytes());
        self.reference(proto + u64::from(fields.pt_k), end);
        self.put(
            proto + u64::from(fields.pt_sizept),
            &((end - proto) as u32).to_le_bytes(),
        );
        self.put(function + u64::from(fields.gct), &[8, 0]);
        self.reference(function + u64::from(fields.fn_pc), bytecode);
        bytecode
    }

    /// A function built in.
    pub fn builtin(&mut self, function: u64, ffid: u8) {
        let fields = self.mode.fields();
        self.put(function + u64::from(fields.gct), &[8, ffid]);
    }

    /// Sets `L->base`.
    pub fn base(&mut self, base: u64) {
        self.reference(Self::L + u64::from(self.mode.fields().l_base), base);
    }

    /// A frame: its function and its link.
    pub fn frame(&mut self, frame: u64, function: u64, link: u64) {
        match self.mode {
            GcMode::Gc64 => {
                self.put(frame - 8, &(function | 0xfffb << 47).to_le_bytes());
                self.put(frame, &link.to_le_bytes());
            }
            GcMode::Gc32 => self.put(frame, &(function | link << 32).to_le_bytes()),
        }
    }

    /// The continuation of a frame, and the program counter beside it.
    pub fn continuation(&mut self, frame: u64, continuation: u64, pc: u64) {
        match self.mode {
            GcMode::Gc64 => {
                self.put(frame - 24, &continuation.to_le_bytes());
                self.put(frame - 16, &pc.to_le_bytes());
            }
            GcMode::Gc32 => self.put(frame - 8, &(continuation | pc << 32).to_le_bytes()),
        }
    }
}

impl RemoteMemory for Image {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<usize, ProcessError> {
        let rest = addr
            .checked_sub(Self::START)
            .and_then(|at| self.bytes.get(at as usize..));
        let rest = rest
            .filter(|rest| !rest.is_empty())
            .ok_or(ProcessError::Unreadable { addr })?;
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

/// Every address holds something, always the same; an image lies over it.
pub(crate) struct Noise {
    pub seed: u64,
    /// Keeps only these bits of each word, so that small numbers and near addresses are likely too.
    pub mask: u64,
    pub image: Image,
    pub over: usize,
}

impl RemoteMemory for Noise {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<usize, ProcessError> {
        for (at, byte) in (addr..).zip(buf.iter_mut()) {
            let index = at.wrapping_sub(Image::START) as usize;
            *byte = match self.image.bytes.get(index).filter(|_| index < self.over) {
                Some(&byte) => byte,
                None => {
                    let word = ((at / 8) ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let word = (word ^ word >> 29) & self.mask;
                    word.to_le_bytes()[(at % 8) as usize]
                }
            };
        }
        Ok(buf.len())
    }
}
