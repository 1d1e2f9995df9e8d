use moonscope_process::BufferMemory;
use proptest::prelude::*;

use super::*;

const CODE: u64 = 0x5000;
const TOP_HEADER: u64 = 0x9000;
const TOP_BODY: u64 = 0x9008;
const NEXT_HEADER: u64 = 0x9100;
const NEXT_BODY: u64 = 0x9108;
/// The linker's table, and a stub that jumps through it.
const GOT: u64 = 0x8000;
const FILTER: u64 = CODE + 0x800;
const OTHER: u64 = CODE + 0x900;
const LEN: usize = 0x1000;

/// A file with this code at its beginning, and `ret` wherever else.
struct Program(Vec<u8>);

impl Code for Program {
    fn code(&self, addr: u64) -> Option<&[u8]> {
        let from = usize::try_from(addr.checked_sub(CODE)?).ok()?;
        self.0.get(from..).filter(|rest| !rest.is_empty())
    }

    fn is_fixed(&self, addr: u64) -> bool {
        (GOT..GOT + 0x100).contains(&addr)
    }
}

/// Machine code, byte by byte.
#[derive(Default)]
struct Asm(Vec<u8>);

impl Asm {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// An instruction that ends with the distance to an address.
    fn to(self, opcode: &[u8], target: u64) -> Self {
        let end = CODE + (self.0.len() + opcode.len() + 4) as u64;
        let distance = (target.wrapping_sub(end) as u32).to_le_bytes();
        self.raw(opcode).raw(&distance)
    }

    fn up_to(mut self, addr: u64) -> Self {
        self.0.resize((addr - CODE) as usize, 0xc3);
        self
    }

    fn program(mut self) -> Program {
        self.0.resize(LEN, 0xc3);
        Program(self.0)
    }
}

const LEA_RAX: &[u8] = &[0x48, 0x8d, 0x05];
const LEA_RCX: &[u8] = &[0x48, 0x8d, 0x0d];
const LOAD_RAX: &[u8] = &[0x48, 0x8b, 0x05];
const LOAD_RDX: &[u8] = &[0x48, 0x8b, 0x15];
const STORE_RAX: &[u8] = &[0x48, 0x89, 0x05];
const STORE_RDX: &[u8] = &[0x48, 0x89, 0x15];
const MOV_RDX_AT_RAX: &[u8] = &[0x48, 0x8b, 0x10];
const MOV_AT_RAX_RCX: &[u8] = &[0x48, 0x89, 0x08];
const MOV_AT_RAX_RDX: &[u8] = &[0x48, 0x89, 0x10];
const MOVQ_XMM0: &[u8] = &[0xf3, 0x0f, 0x7e, 0x05];
const MOVHPS_XMM0: &[u8] = &[0x0f, 0x16, 0x05];
const MOVUPS_FROM_XMM0: &[u8] = &[0x0f, 0x11, 0x05];
const CALL: &[u8] = &[0xe8];
const JMP_THROUGH: &[u8] = &[0xff, 0x25];
const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
const RET: &[u8] = &[0xc3];

fn tops() -> Tops {
    vec![(Chain::Header, TOP_HEADER), (Chain::Body, TOP_BODY)]
}

/// A memory whose linker's table has these addresses.
fn memory(got: &[u64]) -> BufferMemory {
    let bytes: Vec<u8> = got.iter().flat_map(|addr| addr.to_le_bytes()).collect();
    BufferMemory::new().with(GOT, bytes)
}

fn installed(asm: Asm, got: &[u64]) -> Vec<Installed> {
    walk::summary(&memory(got), &asm.program(), &tops(), CODE).installed
}

fn header(filter: u64, next: Next) -> Installed {
    Installed {
        chain: Chain::Header,
        filter,
        next,
    }
}

#[test]
fn a_filter_and_its_variable_are_found_whichever_is_stored_first() {
    let plain = Asm::default()
        .to(LOAD_RAX, TOP_HEADER)
        .to(STORE_RAX, NEXT_HEADER)
        .to(LEA_RAX, FILTER)
        .to(STORE_RAX, TOP_HEADER)
        .raw(RET);
    assert_eq!(installed(plain, &[0]), [header(FILTER, Next::At(NEXT_HEADER))]);
    // as in Debian's ngx_http_chunked_filter_module
    let reordered = Asm::default()
        .to(LEA_RAX, TOP_HEADER)
        .to(LEA_RCX, FILTER)
        .raw(MOV_RDX_AT_RAX)
        .raw(MOV_AT_RAX_RCX)
        .to(STORE_RDX, NEXT_HEADER)
        .raw(RET);
    assert_eq!(
        installed(reordered, &[0]),
        [header(FILTER, Next::At(NEXT_HEADER))]
    );
}

#[test]
fn two_filters_of_one_function_have_a_variable_each() {
    let asm = Asm::default()
        .to(LOAD_RAX, TOP_HEADER)
        .to(STORE_RAX, NEXT_HEADER)
        .to(LEA_RAX, FILTER)
        .to(STORE_RAX, TOP_HEADER)
        .to(LOAD_RAX, TOP_HEADER)
        .to(STORE_RAX, NEXT_BODY)
        .to(LEA_RAX, OTHER)
        .to(STORE_RAX, TOP_HEADER)
        .raw(RET);
    let expected = [
        header(FILTER, Next::At(NEXT_HEADER)),
        header(OTHER, Next::At(NEXT_BODY)),
    ];
    assert_eq!(installed(asm, &[0]), expected);
}

#[test]
fn two_variables_side_by_side_may_be_stored_at_once() {
    let asm = Asm::default()
        .to(MOVQ_XMM0, TOP_HEADER)
        .to(LEA_RAX, FILTER)
        .to(STORE_RAX, TOP_HEADER)
        .to(MOVHPS_XMM0, TOP_BODY)
        .to(LEA_RAX, OTHER)
        .to(STORE_RAX, TOP_BODY)
        .to(MOVUPS_FROM_XMM0, NEXT_HEADER)
        .raw(RET);
    let body = Installed {
        chain: Chain::Body,
        filter: OTHER,
        next: Next::At(NEXT_BODY),
    };
    assert_eq!(
        installed(asm, &[0]),
        [header(FILTER, Next::At(NEXT_HEADER)), body]
    );
}

#[test]
fn a_dynamic_module_finds_everything_through_the_linkers_table() {
    let asm = Asm::default()
        .to(LOAD_RAX, GOT)
        .raw(MOV_RDX_AT_RAX)
        .to(LEA_RCX, FILTER)
        .raw(MOV_AT_RAX_RCX)
        .to(LOAD_RAX, GOT + 8)
        .raw(MOV_AT_RAX_RDX)
        .raw(RET);
    assert_eq!(
        installed(asm, &[TOP_HEADER, NEXT_HEADER]),
        [header(FILTER, Next::At(NEXT_HEADER))]
    );
}

#[test]
fn who_keeps_nothing_is_the_last_and_who_keeps_it_out_of_sight_is_told_so() {
    let last = || Asm::default().to(LEA_RAX, FILTER).to(STORE_RAX, TOP_HEADER);
    assert_eq!(installed(last().raw(RET), &[0]), [header(FILTER, Next::Last)]);
    let hidden = Asm::default()
        .to(LOAD_RDX, TOP_HEADER)
        // to [rdi], which is not known
        .raw(&[0x48, 0x89, 0x17])
        .to(LEA_RAX, FILTER)
        .to(STORE_RAX, TOP_HEADER)
        .raw(RET);
    assert_eq!(installed(hidden, &[0]), [header(FILTER, Next::Unknown)]);
    // a call may change rdx: what is stored behind it is not what was loaded before
    let called = Asm::default()
        .to(LOAD_RDX, TOP_HEADER)
        .to(CALL, OTHER)
        .to(STORE_RDX, NEXT_HEADER)
        .to(LEA_RAX, FILTER)
        .to(STORE_RAX, TOP_HEADER)
        .raw(RET);
    assert_eq!(installed(called, &[0]), [header(FILTER, Next::Unknown)]);
}

#[test]
fn calls_are_followed_through_stubs_and_back_into_themselves_only_once() {
    const STUB: u64 = CODE + 0x400;
    const INIT: u64 = CODE + 0x500;
    let program = Asm::default()
        .to(CALL, STUB)
        .to(CALL, CODE)
        .raw(RET)
        .up_to(STUB)
        .raw(ENDBR64)
        .to(JMP_THROUGH, GOT)
        .up_to(INIT)
        .to(LEA_RAX, FILTER)
        .to(STORE_RAX, TOP_HEADER)
        .to(CALL, STUB)
        .raw(RET)
        .program();
    let memory = memory(&[INIT])
        .with(0xa000, [0; 8])
        .with(0xa008, CODE.to_le_bytes());
    let module = Module {
        addr: 0xb000,
        name: "ngx_http_test_module".to_owned(),
        index: 0,
        ctx_index: 0,
        version: 1_022_001,
        kind: HTTP_MODULE,
        ctx: 0xa000,
        commands: 0,
    };
    let other = Module {
        kind: 0x4552_4f43,
        ..module.clone()
    };
    let setup = Setup::find(&memory, &program, &[other, module.clone()], &tops());
    assert_eq!(setup.filter(Chain::Header, FILTER), [(1, Next::Last)]);
    assert_eq!(setup.filter(Chain::Body, FILTER), []);
    assert_eq!(setup.handler(FILTER), Some(1));
    assert_eq!(setup.handler(OTHER), None);
    // two that are equally near
    let setup = Setup::find(&memory, &program, &[module.clone(), module], &tops());
    assert_eq!(setup.handler(FILTER), None);
    assert_eq!(setup.filter(Chain::Header, FILTER).len(), 2);
}

proptest! {
    #[test]
    fn any_bytes_as_code_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..2000), got in any::<[u64; 4]>()) {
        let program = Program(bytes);
        let summary = walk::summary(&memory(&got), &program, &tops(), CODE);
        for addr in summary.taken {
            prop_assert!(program.code(addr).is_some());
        }
    }
}
