//! The smallest ELF files that have code and unwind information, laid out by hand.

/// Where the code of every such file starts.
pub const CODE: u64 = 0x40_1000;

const EH_FRAME_ADDRESS: u64 = 0x50_0000;

/// What to put into a file.
#[derive(Clone, Debug, Default)]
pub struct Elf {
    pub code: Vec<u8>,
    pub eh_frame: Vec<u8>,
    pub debug_frame: Vec<u8>,
    /// Section headers can be left out; `PT_GNU_EH_FRAME` then leads to `.eh_frame`.
    pub without_sections: bool,
    /// Claimed instead of the real size of the code.
    pub claimed_code_size: Option<u64>,
}

impl Elf {
    pub fn build(&self) -> Vec<u8> {
        let names = b"\0.text\0.eh_frame\0.debug_frame\0.shstrtab\0";
        let header = |kind: u32, flags: u32, offset: usize, address: u64, size: u64| {
            let mut bytes = Vec::new();
            bytes.extend(kind.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            for word in [offset as u64, address, address, size, size, 1] {
                bytes.extend(word.to_le_bytes());
            }
            bytes
        };
        let mut file = vec![0; 64 + 3 * 56];
        let code_at = file.len();
        file.extend(&self.code);
        let eh_frame_at = file.len();
        file.extend(&self.eh_frame);
        let hdr_at = file.len();
        let hdr_address = EH_FRAME_ADDRESS + self.eh_frame.len() as u64;
        // version 1, an 8-byte pointer to .eh_frame, no count and no table
        file.extend([1, 0x04, 0xff, 0xff]);
        file.extend(EH_FRAME_ADDRESS.to_le_bytes());
        let debug_frame_at = file.len();
        file.extend(&self.debug_frame);
        let names_at = file.len();
        file.extend(names);
        let sections_at = file.len();

        let code_size = self.claimed_code_size.unwrap_or(self.code.len() as u64);
        let segments = [
            header(1, 5, code_at, CODE, code_size),
            header(
                1,
                4,
                eh_frame_at,
                EH_FRAME_ADDRESS,
                (debug_frame_at - eh_frame_at) as u64,
            ),
            header(0x6474_e550, 4, hdr_at, hdr_address, 12),
        ];
        file[64..code_at].copy_from_slice(&segments.concat());

        let section = |name: u32, kind: u32, address: u64, offset: usize, size: usize| {
            let mut bytes = Vec::new();
            bytes.extend(name.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            for word in [2, address, offset as u64, size as u64, 0, 1, 0] {
                bytes.extend(word.to_le_bytes());
            }
            bytes
        };
        if !self.without_sections {
            file.extend([0; 64]);
            file.extend(section(1, 1, CODE, code_at, self.code.len()));
            file.extend(section(7, 1, EH_FRAME_ADDRESS, eh_frame_at, self.eh_frame.len()));
            file.extend(section(17, 1, 0, debug_frame_at, self.debug_frame.len()));
            file.extend(section(30, 3, 0, names_at, names.len()));
        }
        let count: u16 = if self.without_sections { 0 } else { 5 };
        let sections_at = if self.without_sections {
            0
        } else {
            sections_at as u64
        };
        let mut start = b"\x7fELF\x02\x01\x01".to_vec();
        start.resize(16, 0);
        start.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        for word in [CODE, 64, sections_at] {
            start.extend(word.to_le_bytes());
        }
        start.extend([0; 4]);
        for half in [64u16, 56, 3, 64, count, count.saturating_sub(1)] {
            start.extend(half.to_le_bytes());
        }
        file[..64].copy_from_slice(&start);
        file
    }
}

/// Writes entries of `.eh_frame`, with absolute 8-byte addresses.
#[derive(Clone, Debug, Default)]
pub struct EhFrame {
    pub bytes: Vec<u8>,
}

impl EhFrame {
    fn entry(&mut self, body: &[u8]) -> usize {
        let at = self.bytes.len();
        self.bytes.extend((body.len() as u32).to_le_bytes());
        self.bytes.extend(body);
        at
    }

    /// The usual CIE (CFA = rsp + 8, return address below it) with more instructions behind.
    pub fn cie(&mut self, more: &[u8]) -> usize {
        // id 0, version 1, "zR" with absolute pointers, code 1, data -8, return address 16
        let mut body = vec![0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x00];
        body.extend([0x0c, 7, 8, 0x90, 1]);
        body.extend(more);
        self.entry(&body)
    }

    pub fn fde(&mut self, cie: usize, start: u64, len: u64, instructions: &[u8]) -> usize {
        let at = self.bytes.len();
        let mut body = ((at + 4 - cie) as u32).to_le_bytes().to_vec();
        body.extend(start.to_le_bytes());
        body.extend(len.to_le_bytes());
        body.push(0);
        body.extend(instructions);
        self.entry(&body)
    }

    pub fn terminator(&mut self) {
        self.bytes.extend([0; 4]);
    }
}
