//! Builds of LuaJIT: found in files, decoded, and written into the unwind tables of those files.

use std::ops::Range;

use moonscope_luajit::{CoroutineProbes, GcMode, Layout, NoProbes};
use moonscope_luajit::{VmText, coroutine_probes, decode_layout, find_vms, vm_text};
use moonscope_unwind::{RuleSet, Table, abi};

use crate::executables::ExecutableId;
use crate::generation::Generation;

/// The VM of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LuaBuild {
    /// Number of its layout in `ms_lua_layouts`.
    pub number: u32,
    /// Where its code is, as virtual addresses of the file.
    pub code: Range<u64>,
    /// Where it keeps things.
    pub layout: Layout,
    /// Where its coroutines are resumed and yield.
    pub probes: Result<CoroutineProbes, NoProbes>,
}

/// VM code mapped by a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedBuild {
    /// Number of its layout.
    pub number: u32,
    /// Where its code is in the process.
    pub code: Range<u64>,
    /// Where it keeps things.
    pub layout: Layout,
}

impl MappedBuild {
    /// The VM code in the mappings of a process; `builds`: that of each file.
    pub fn all<'a>(generation: &Generation, builds: impl Fn(ExecutableId) -> &'a [LuaBuild]) -> Vec<Self> {
        let mut all = Vec::new();
        for mapping in &generation.mappings {
            for build in mapping.executable.map(&builds).unwrap_or_default() {
                let code =
                    build.code.start.wrapping_add(mapping.bias)..build.code.end.wrapping_add(mapping.bias);
                if mapping.start <= code.start && code.end <= mapping.end {
                    all.push(Self {
                        number: build.number,
                        code,
                        layout: build.layout,
                    });
                }
            }
        }
        all
    }
}

/// All builds met so far; equal ones have one number.
#[derive(Debug, Default)]
pub struct LuaBuilds {
    layouts: Vec<(Layout, abi::ms_lua_layout)>,
}

/// What a file has of LuaJIT.
#[derive(Debug, Default)]
pub struct Found {
    /// VMs that can be read.
    pub builds: Vec<LuaBuild>,
    /// VMs that cannot, and why.
    pub refused: Vec<String>,
}

impl LuaBuilds {
    /// Looks for LuaJIT in a file, and gives the code of its VMs rules of their own in the file's table.
    pub fn add(&mut self, data: &[u8], table: &mut Table, rules: &mut RuleSet) -> Found {
        let mut found = Found::default();
        for vm in find_vms(data).unwrap_or_default() {
            let build = decode_layout(data, &vm)
                .map_err(|err| err.to_string())
                .and_then(|layout| {
                    let number = self.number(layout, &vm, rules)?;
                    let parts = parts(&vm, number);
                    *table = table.overlay(rules, &parts).map_err(|err| err.to_string())?;
                    Ok(LuaBuild {
                        number,
                        code: vm.start..vm.end,
                        layout,
                        probes: coroutine_probes(data, &vm),
                    })
                });
            match build {
                Ok(build) => found.builds.push(build),
                Err(reason) => found.refused.push(reason),
            }
        }
        found
    }

    /// How many layouts there are.
    pub fn len(&self) -> usize {
        self.layouts.len()
    }

    /// Forgets all but the first layouts.
    pub fn truncate(&mut self, len: usize) {
        self.layouts.truncate(len);
    }

    /// Layouts as the kernel side wants them, by number.
    pub fn layouts(&self) -> impl ExactSizeIterator<Item = abi::ms_lua_layout> {
        self.layouts.iter().map(|(_, layout)| *layout)
    }

    fn number(&mut self, layout: Layout, vm: &VmText, rules: &mut RuleSet) -> Result<u32, String> {
        if let Some(known) = self.layouts.iter().position(|(known, _)| *known == layout) {
            return Ok(known as u32);
        }
        let number = self.layouts.len();
        if number >= abi::MS_LUA_LAYOUTS as usize {
            return Err(format!("more than {} builds of LuaJIT", abi::MS_LUA_LAYOUTS));
        }
        let rule = rules.intern(frame_rule(vm, number as u32, abi::MS_CFA_LUA_VM));
        let small = |offset: u32| u16::try_from(offset).map_err(|_| "an offset in global_State is too large");
        let kernel = abi::ms_lua_layout {
            state: match layout.mode {
                GcMode::Gc64 => abi::MS_LUA_GC64,
                GcMode::Gc32 => abi::MS_LUA_GC32,
            },
            rule: rule.into(),
            g2disp: layout.build.g2disp,
            vmstate: small(layout.build.vmstate)?,
            cur_l: small(layout.build.cur_l)?,
            jit_base: small(layout.build.jit_base)?,
            cframe_size: layout.cframe.size,
            cf_l: layout.cframe.l,
            cf_pc: layout.cframe.pc,
            cf_prev: layout.cframe.prev,
            cf_nres: layout.cframe.nres,
            trace: layout.build.trace,
            gc_total: layout.build.gc_total,
        };
        self.layouts.push((layout, kernel));
        Ok(number as u32)
    }
}

/// The rule of the VM's own frame: what its entry stubs push (vm_x64.dasc, `saveregs`).
fn frame_rule(vm: &VmText, number: u32, kind: u32) -> abi::ms_rule {
    // rbx, rbp, r12, r13, r14, r15: words below the CFA
    let saved = match vm.cframe_size {
        96 => [3, 2, 7, 6, 5, 4],
        _ => [3, 2, 0, 0, 5, 4],
    };
    abi::ms_rule {
        cfa: kind as u8,
        reg: abi::MS_REG_RSP as u8,
        ra: abi::MS_RA_AT_CFA as u8,
        window: saved.into_iter().max().unwrap_or(1) as u8,
        off: vm.cframe_size.into(),
        add: number as i16,
        saved,
    }
}

/// The rule of a part of the VM where the caller is at a known distance.
fn window_rule(window: &vm_text::Window, kind: u32) -> abi::ms_rule {
    let mut rule = abi::ms_rule {
        cfa: kind as u8,
        reg: abi::MS_REG_RSP as u8,
        ra: abi::MS_RA_AT_CFA as u8,
        window: 1,
        off: window.cfa_offset.into(),
        ..Default::default()
    };
    for saved in &window.saved {
        let slot = i8::try_from(saved.cfa_offset / -8).unwrap_or(abi::MS_SAVED_LOST as i8);
        let which = match u32::from(saved.register) {
            abi::MS_REG_RBX => abi::MS_SAVED_RBX,
            abi::MS_REG_RBP => abi::MS_SAVED_RBP,
            abi::MS_REG_R12 => abi::MS_SAVED_R12,
            abi::MS_REG_R13 => abi::MS_SAVED_R13,
            abi::MS_REG_R14 => abi::MS_SAVED_R14,
            abi::MS_REG_R15 => abi::MS_SAVED_R15,
            _ => continue,
        };
        rule.saved[which as usize] = slot;
        if (1..=abi::MS_WINDOW_WORDS as i8).contains(&slot) {
            rule.window = rule.window.max(slot as u8);
        }
    }
    rule
}

/// The rules of all parts of a VM's code, sorted and without overlaps.
fn parts(vm: &VmText, number: u32) -> Vec<(Range<u64>, abi::ms_rule)> {
    let frame = |kind| frame_rule(vm, number, kind);
    let mut parts = vec![
        (vm.start..vm.handlers_end, frame(abi::MS_CFA_LUA_VM)),
        (vm.handlers_end..vm.end, frame(abi::MS_CFA_LUA_VM_INNER)),
    ];
    for below in &vm.below {
        paint(&mut parts, below.clone(), frame(abi::MS_CFA_LUA_VM_INNER));
    }
    paint(&mut parts, vm.dispatch.clone(), frame(abi::MS_CFA_LUA_DISPATCH));
    for helper in &vm.helpers {
        let rule = window_rule(helper, abi::MS_CFA_LUA_HELPER);
        paint(&mut parts, helper.start..helper.end, rule);
    }
    for window in &vm.windows {
        let kind = match window.caller_base {
            vm_text::CallerBase::LuaState => abi::MS_CFA_REG,
            vm_text::CallerBase::PcRegister => abi::MS_CFA_LUA_LEAVING,
        };
        let rule = if is_in_callback(vm, window) {
            frame(abi::MS_CFA_LUA_CALLBACK)
        } else {
            window_rule(window, kind)
        };
        paint(&mut parts, window.start..window.end, rule);
    }
    parts.retain(|(range, _)| !range.is_empty());
    parts
}

/// Is this the part of `lj_vm_ffi_callback` that calls `lj_ccallback_enter`? Its frame is that of the other entries.
fn is_in_callback(vm: &VmText, window: &vm_text::Window) -> bool {
    /// More than the pushes before it take.
    const PUSHES: u64 = 32;
    vm.entries.ffi_callback.is_some_and(|entry| {
        (entry..entry + PUSHES).contains(&window.start) && window.cfa_offset == vm.cframe_size
    })
}

/// Puts a rule over what stands in a range.
fn paint(parts: &mut Vec<(Range<u64>, abi::ms_rule)>, range: Range<u64>, rule: abi::ms_rule) {
    if range.is_empty() {
        return;
    }
    let mut painted = Vec::with_capacity(parts.len() + 2);
    for (old, old_rule) in parts.drain(..) {
        if old.start < range.start {
            painted.push((old.start..old.end.min(range.start), old_rule));
        }
        if range.end < old.end {
            painted.push((old.start.max(range.end)..old.end, old_rule));
        }
    }
    painted.push((range, rule));
    painted.sort_by_key(|(range, _)| range.start);
    *parts = painted;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_painted_range_cuts_what_was_there() {
        let rule = |off| abi::ms_rule {
            off,
            ..Default::default()
        };
        let mut parts = vec![(0..10, rule(1)), (10..20, rule(2))];
        paint(&mut parts, 5..12, rule(3));
        paint(&mut parts, 7..8, rule(4));
        paint(&mut parts, 30..30, rule(5));
        let ranges: Vec<_> = parts
            .iter()
            .map(|(range, rule)| (range.clone(), rule.off))
            .collect();
        assert_eq!(ranges, [(0..5, 1), (5..7, 3), (7..8, 4), (8..12, 3), (12..20, 2)]);
    }
}
