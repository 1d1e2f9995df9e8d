//! Where LuaJIT keeps things: offsets in bytes.
//!
//! What the sources fix for all 2.1 builds of one object model is in [`Fields`]; what differs from build to
//! build ([`BuildOffsets`]) is decoded from the machine code of the VM itself (module `decode`). Names are
//! those of LuaJIT's lj_obj.h, lj_jit.h, lj_dispatch.h and lj_frame.h.

/// LuaJIT's object model: how large a reference to an object is (`LJ_GC64`, lj_arch.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GcMode {
    /// 64-bit references, two stack slots for each frame (`LJ_FR2`).
    Gc64,
    /// 32-bit references, one stack slot for each frame. On x86-64: "GC32" or "non-GC64".
    Gc32,
}

/// Offsets that are the same in all LuaJIT 2.1 of one object model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Bytes of an object reference: 8 or 4.
    pub ref_size: u16,
    /// Stack slots between a frame's link and its first local: what `base` lies behind the function
    /// reference, in slots (`1 + LJ_FR2`).
    pub frame_slots: u16,
    /// `GCHeader.gct`: one byte, `~LJ_T*` (thread 6, proto 7, func 8, trace 9).
    pub gct: u16,
    /// `lua_State.glref`.
    pub l_glref: u16,
    /// `lua_State.base`.
    pub l_base: u16,
    /// `lua_State.top`.
    pub l_top: u16,
    /// `lua_State.maxstack`.
    pub l_maxstack: u16,
    /// `lua_State.stack`.
    pub l_stack: u16,
    /// `lua_State.cframe`: always 8 bytes. Its low two bits are flags (`CFRAME_RESUME`, `CFRAME_UNWIND_FF`).
    pub l_cframe: u16,
    /// `GCfunc.ffid`: 0 Lua, 1 C, 2 and more built in (`FF_*`).
    pub fn_ffid: u16,
    /// `GCfunc.pc`: of a Lua function its first bytecode, which stands right behind its prototype.
    pub fn_pc: u16,
    /// `GCfuncC.f`: 8 bytes.
    pub fn_c: u16,
    /// `GCfunc.env`: the table of globals of a function.
    pub fn_env: u16,
    /// `GCupval.v`: address of its value.
    pub uv_v: u16,
    /// `sizeof(GCudata)`: its content follows.
    pub ud_size: u16,
    /// `GCproto.numparams`: 1 byte.
    pub pt_numparams: u16,
    /// `GCproto.sizebc`: number of bytecode instructions, the function header included; 4 bytes.
    pub pt_sizebc: u16,
    /// `GCproto.k`: constants; object references grow downwards from it.
    pub pt_k: u16,
    /// `GCproto.sizekgc`: 4 bytes.
    pub pt_sizekgc: u16,
    /// `GCproto.sizept`: bytes of the prototype with everything in it; 4 bytes.
    pub pt_sizept: u16,
    /// `GCproto.sizeuv`: 1 byte.
    pub pt_sizeuv: u16,
    /// `GCproto.chunkname`: reference to a string.
    pub pt_chunkname: u16,
    /// `GCproto.firstline`: 4 bytes.
    pub pt_firstline: u16,
    /// `GCproto.numline`: lines of the definition less one; 4 bytes.
    pub pt_numline: u16,
    /// `GCproto.lineinfo`: address, 0 if the bytecode was stripped.
    pub pt_lineinfo: u16,
    /// `GCproto.uvinfo`: address of the names of upvalues.
    pub pt_uvinfo: u16,
    /// `GCproto.varinfo`: address of the names and extents of local variables.
    pub pt_varinfo: u16,
    /// `sizeof(GCproto)`: its bytecode follows.
    pub pt_size: u16,
    /// `lua_State.env`: reference to the table of globals.
    pub l_env: u16,
    /// `GCproto.flags`: 1 byte; bit 1 is `PROTO_VARARG`, others change while it runs.
    pub pt_flags: u16,
    /// `GCtab.metatable`, and `GCudata.metatable` at the same place.
    pub tab_metatable: u16,
    /// `GCtab.node`: address of the hash part.
    pub tab_node: u16,
    /// `GCtab.hmask`: number of hash nodes less one; 4 bytes.
    pub tab_hmask: u16,
    /// From `gc.total` to `gc.currentwhite`, 1 byte, behind which is `gc.state`, 1 byte.
    pub gc_currentwhite: u16,
    /// From `gc.total` to `gc.grayagain`: reference to an object.
    pub gc_grayagain: u16,
    /// From `gc.total` to `gc.estimate`: as large as `gc.total`.
    pub gc_estimate: u16,
    /// From `gc.total` to `gc.root`: reference to the newest of all objects but strings.
    pub gc_root: u16,
    /// From `gc.total` to `gc.mmudata`: reference to the last of a circle of objects that are to be finalized.
    pub gc_mmudata: u16,
    /// From `gc.total` to `gc.debt`, right before `gc.estimate` and as large.
    pub gc_debt: u16,
    /// From `gc.total` to `gc.stepmul`, behind which is `gc.pause`; 4 bytes each.
    pub gc_stepmul: u16,
    /// `sizeof(GCState)` in builds without `lightudseg`, an address of as many bytes as a reference that is its last field
    /// since 2020-09.
    pub gc_size: u16,
    /// `lua_State.openupval`: reference to the first of its open upvalues, which are on no other list.
    pub l_openupval: u16,
    /// `lua_State.stacksize`: slots; 4 bytes.
    pub l_stacksize: u16,
    /// `sizeof(GCupval)`.
    pub uv_size: u16,
    /// `GCudata.len`: 4 bytes.
    pub ud_len: u16,
    /// `sizeof(GCcdata)`: its content follows.
    pub cd_size: u16,
    /// `sizeof(CType)`.
    pub ctype_size: u16,
    /// `GCtab.colo`: 1 byte, signed; how many slots of the array were allocated behind the table, negative once it has another.
    pub tab_colo: u16,
    /// `GCtab.array`: address of the array part.
    pub tab_array: u16,
    /// `GCtab.asize`: 4 bytes.
    pub tab_asize: u16,
    /// `sizeof(GCtab)`.
    pub tab_size: u16,
}

const GC64: Fields = Fields {
    ref_size: 8,
    frame_slots: 2,
    gct: 9,
    l_glref: 0x10,
    l_base: 0x20,
    l_top: 0x28,
    l_maxstack: 0x30,
    l_stack: 0x38,
    l_cframe: 0x50,
    fn_ffid: 10,
    fn_pc: 0x20,
    fn_c: 0x28,
    fn_env: 0x10,
    uv_v: 0x20,
    ud_size: 0x30,
    pt_numparams: 10,
    pt_sizebc: 0xc,
    pt_k: 0x20,
    pt_sizekgc: 0x30,
    pt_sizept: 0x38,
    pt_sizeuv: 0x3c,
    pt_chunkname: 0x40,
    pt_firstline: 0x48,
    pt_numline: 0x4c,
    pt_lineinfo: 0x50,
    pt_uvinfo: 0x58,
    pt_varinfo: 0x60,
    pt_size: 0x68,
    l_env: 0x48,
    pt_flags: 0x3d,
    tab_metatable: 0x20,
    tab_node: 0x28,
    tab_hmask: 0x34,
    gc_currentwhite: 0x10,
    gc_grayagain: 0x30,
    gc_estimate: 0x50,
    gc_root: 0x18,
    gc_mmudata: 0x40,
    gc_debt: 0x48,
    gc_stepmul: 0x58,
    gc_size: 0x60,
    l_openupval: 0x40,
    l_stacksize: 0x58,
    uv_size: 0x30,
    ud_len: 0x18,
    cd_size: 0x10,
    ctype_size: 0x18,
    tab_colo: 0xb,
    tab_array: 0x10,
    tab_asize: 0x30,
    tab_size: 0x40,
};

const GC32: Fields = Fields {
    ref_size: 4,
    frame_slots: 1,
    gct: 5,
    l_glref: 0x8,
    l_base: 0x10,
    // base and top are addresses of 8 bytes here too (lj_obj.h: `TValue *`), of which the VM uses 4
    l_top: 0x18,
    l_maxstack: 0x20,
    l_stack: 0x24,
    l_cframe: 0x30,
    fn_ffid: 6,
    fn_pc: 0x10,
    fn_c: 0x18,
    fn_env: 0x8,
    uv_v: 0x10,
    ud_size: 0x18,
    pt_numparams: 6,
    pt_sizebc: 0x8,
    pt_k: 0x10,
    pt_sizekgc: 0x18,
    pt_sizept: 0x20,
    pt_sizeuv: 0x24,
    pt_chunkname: 0x28,
    pt_firstline: 0x2c,
    pt_numline: 0x30,
    pt_lineinfo: 0x34,
    pt_uvinfo: 0x38,
    pt_varinfo: 0x3c,
    pt_size: 0x40,
    l_env: 0x2c,
    pt_flags: 0x25,
    tab_metatable: 0x10,
    tab_node: 0x14,
    tab_hmask: 0x1c,
    gc_currentwhite: 0x8,
    gc_grayagain: 0x1c,
    gc_estimate: 0x2c,
    gc_root: 0x10,
    gc_mmudata: 0x24,
    gc_debt: 0x28,
    gc_stepmul: 0x30,
    gc_size: 0x38,
    l_openupval: 0x28,
    l_stacksize: 0x38,
    uv_size: 0x18,
    ud_len: 0xc,
    cd_size: 0x8,
    ctype_size: 0x10,
    tab_colo: 0x7,
    tab_array: 0x8,
    tab_asize: 0x18,
    tab_size: 0x20,
};

impl GcMode {
    /// The offsets of this object model.
    pub const fn fields(self) -> &'static Fields {
        match self {
            Self::Gc64 => &GC64,
            Self::Gc32 => &GC32,
        }
    }
}

/// The VM's own frame on the native stack (lj_frame.h, `CFRAME_*`; vm_x64.dasc and vm_x86.dasc): offsets
/// from the stack pointer inside the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CFrame {
    /// Distance from the frame to its CFA: 80; 96 where the VM was built without unwind information.
    pub size: u16,
    /// `SAVE_L`: as large as an object reference.
    pub l: u16,
    /// `SAVE_PC`: as large as an object reference.
    pub pc: u16,
    /// `SAVE_CFRAME`: the frame of the VM that this one is inside of; 8 bytes.
    pub prev: u16,
    /// `SAVE_NRES`: negative while no Lua frame belongs to it; 4 bytes.
    pub nres: u16,
}

/// Offsets that differ between builds. `G` is the `global_State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BuildOffsets {
    /// From `G` to the dispatch table, which a register points to inside the VM.
    pub g2disp: u32,
    /// `global_State.vmstate` (4 bytes, signed).
    pub vmstate: u32,
    /// `global_State.cur_L`.
    pub cur_l: u32,
    /// `global_State.jit_base`.
    pub jit_base: u32,
    /// From `G` to `jit_State.trace`: address of the array of references to traces.
    pub trace: u32,
    /// From `G` to `jit_State.sizetrace`: length of that array; 4 bytes.
    pub sizetrace: u32,
    /// From `G` to `gc.total`, the first field of its `GCState`: as large as an object reference; 0: not found.
    pub gc_total: u32,
}

/// `GCtrace`, `SnapShot` (lj_jit.h). Which of the layouts a build has shows in the offset of `mcode`, which
/// the VM's code names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceFields {
    /// Number of snapshots; 2 bytes.
    pub nsnap: u16,
    /// Number of the IR instruction behind the last one; 4 bytes.
    pub nins: u16,
    /// Address of IR instruction 0 (biased by `nk`).
    pub ir: u16,
    /// Number of the lowest IR constant, 4 bytes.
    pub nk: u16,
    /// Address of the snapshots.
    pub snap: u16,
    /// Address of the snapshot map: 4-byte entries.
    pub snapmap: u16,
    /// Reference to the prototype where the trace starts.
    pub startpt: u16,
    /// Address of the bytecode where it starts.
    pub startpc: u16,
    /// Bytecode instruction that was there before it was patched; 4 bytes.
    pub startins: u16,
    /// Bytes of machine code; 4 bytes.
    pub szmcode: u16,
    /// Address of the machine code.
    pub mcode: u16,
    /// Its own number; 2 bytes.
    pub traceno: u16,
    /// Trace that it continues in; 2 bytes.
    pub link: u16,
    /// Root trace of a side trace, else 0; 2 bytes.
    pub root: u16,
    /// `sizeof(SnapShot)`: 12, or 8 in the releases up to 2.1.0-beta3.
    pub snapshot_size: u16,
    /// `SnapShot.mcofs`: offset in the machine code, 2 bytes. `None` before 2021-03, whose snapshots do not
    /// tell where in the code they belong.
    pub snapshot_mcofs: Option<u16>,
    /// `SnapShot.nslots`; behind it `topslot`, `nent` and `count`, 1 byte each.
    pub snapshot_nslots: u16,
}

/// Everything about one build of LuaJIT that is needed to read its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Object model.
    pub mode: GcMode,
    /// The VM's frame on the native stack.
    pub cframe: CFrame,
    /// What differs between builds.
    pub build: BuildOffsets,
    /// Traces; `None` if the build has none that can be read, or no JIT compiler.
    pub trace: Option<TraceFields>,
}

impl Layout {
    /// The offsets of its object model.
    pub const fn fields(&self) -> &'static Fields {
        self.mode.fields()
    }
}
