//! Which VMs a target means.

use std::rc::Rc;

use moonscope_luajit::heap::HeapLayout;
use moonscope_probe::live::{LiveFiles, LiveLua};
use moonscope_process::{Pid, ProcessError, ProcessMemory};

use crate::exit::{Code, Failure};
use crate::target::{Scope, TargetArgs};

/// A VM that can be looked at.
pub struct OneVm {
    /// Its process.
    pub pid: Pid,
    /// What that is called.
    pub comm: String,
    /// The file that LuaJIT is in.
    pub file: String,
    /// Which it is of several in its process.
    number: Option<usize>,
    /// Where its memory is described.
    pub heap: HeapLayout,
    lua: Rc<LiveLua>,
}

impl OneVm {
    /// What it is called in tables: by its process, and its number if that has several.
    pub fn name(&self) -> String {
        match self.number {
            Some(number) => format!("{}/{number}", self.pid),
            None => self.pid.to_string(),
        }
    }

    /// The memory that it is in.
    pub fn memory(&self) -> &ProcessMemory {
        self.lua.memory()
    }
}

/// VMs that can be looked at, and others.
pub struct Vms {
    /// By process and address.
    pub open: Vec<OneVm>,
    /// Processes of which one or all cannot, and why.
    pub failed: Vec<(Pid, String)>,
}

impl Vms {
    /// Finds those of a target.
    pub fn find(args: &TargetArgs, files: &mut LiveFiles) -> Result<Self, Failure> {
        let target = args.resolve()?;
        if matches!(target.scope, Scope::Command { .. }) {
            let failure = Failure::new(Code::Usage, "a command that is yet to be started has no Lua");
            return Err(failure.with_remedy("start it first, then name its pid: -p PID"));
        }
        let mut vms = Self {
            open: Vec::new(),
            failed: Vec::new(),
        };
        let (mut is_permitted, mut has_luajit) = (true, false);
        for pid in target.pids()? {
            match LiveLua::look_at(pid, files) {
                Ok(lua) => {
                    has_luajit |= lua.has_luajit();
                    vms.add(Rc::new(lua), files);
                }
                // they come and go
                Err(err) if err.is_gone() || matches!(err, ProcessError::KernelThread { .. }) => {}
                Err(err) => {
                    is_permitted &= !err.is_permission();
                    vms.failed.push((pid, err.to_string()));
                }
            }
        }
        match (vms.open.is_empty(), vms.failed.first()) {
            (false, _) => Ok(vms),
            (true, Some((pid, why))) => {
                let code = if is_permitted {
                    Code::Failed
                } else {
                    Code::NotPermitted
                };
                Err(Failure::new(code, format_args!("process {pid}: {why}")))
            }
            (true, None) => {
                let what = match has_luajit {
                    true => "LuaJIT is there, but no VM",
                    false => "there is no LuaJIT in it",
                };
                Err(Failure::new(
                    Code::NoTarget,
                    format_args!("{}: {what}", target.what),
                ))
            }
        }
    }

    fn add(&mut self, lua: Rc<LiveLua>, files: &LiveFiles) {
        let pid = lua.process.pid;
        self.failed
            .extend(lua.refused.iter().map(|why| (pid, why.clone())));
        let vms = lua.vms(files);
        let are_several = vms.len() > 1;
        for (vm, number) in vms.into_iter().zip(1..) {
            match HeapLayout::find(lua.memory(), vm.g, &vm.layout) {
                Ok(heap) => self.open.push(OneVm {
                    pid,
                    comm: lua.process.comm.clone(),
                    file: vm.file,
                    number: are_several.then_some(number),
                    heap,
                    lua: Rc::clone(&lua),
                }),
                Err(err) => self.failed.push((pid, err.to_string())),
            }
        }
        if lua.more_vms {
            let why = "part of its memory could not be searched: there may be more VMs";
            self.failed.push((pid, why.to_owned()));
        }
    }
}
