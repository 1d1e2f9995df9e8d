//! One Lua VM of a process.

use std::time::{Duration, Instant};

use moonscope_luajit::builtins::Builtins;
use moonscope_luajit::string::StrLayout;
use moonscope_luajit::{Layout, TraceCopy, TraceKeeper, traces, vms};
use moonscope_process::RemoteMemory;

/// The shortest time between two looks at the traces of a VM that samples ask for.
const TRACES_REST: Duration = Duration::from_millis(20);

/// After this time they are looked at anyway, so that those flushed later are known.
const TRACES_PERIOD: Duration = Duration::from_secs(1);

/// A Lua VM.
pub struct LuaVm {
    /// Its `global_State`.
    pub g: u64,
    /// Number of its layout.
    pub number: u32,
    layout: Layout,
    strings: Option<StrLayout>,
    builtins: Option<Builtins>,
    keeper: Option<TraceKeeper>,
    looked_at_traces: Option<Instant>,
}

impl LuaVm {
    /// The VM at `g`, of which nothing is read yet.
    pub fn new(g: u64, number: u32, layout: Layout) -> Self {
        Self {
            g,
            number,
            layout,
            strings: None,
            builtins: None,
            keeper: None,
            looked_at_traces: None,
        }
    }

    /// Where it keeps things.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How its strings are laid out.
    pub fn strings(&mut self, memory: &impl RemoteMemory) -> Option<StrLayout> {
        if self.strings.is_none() {
            let thread = vms::main_thread(memory, self.g, &self.layout).ok()?;
            self.strings = StrLayout::of_vm(memory, self.layout.mode, thread).ok();
        }
        self.strings
    }

    /// The name of a function of its library.
    pub fn builtin(&mut self, memory: &impl RemoteMemory, ffid: u8) -> String {
        if self.builtins.is_none() {
            self.builtins = self.read_builtins(memory);
        }
        match &self.builtins {
            Some(builtins) => builtins.name_or_number(ffid),
            None => format!("builtin#{ffid}"),
        }
    }

    fn read_builtins(&mut self, memory: &impl RemoteMemory) -> Option<Builtins> {
        let strings = self.strings(memory)?;
        let thread = vms::main_thread(memory, self.g, &self.layout).ok()?;
        Builtins::read(memory, self.layout.mode, &strings, thread).ok()
    }

    /// The trace that had machine code at this address at this time. Looks for new ones if it is not known.
    pub fn trace(&mut self, memory: &impl RemoteMemory, addr: u64, at: Instant) -> Option<&TraceCopy> {
        let is_known = self
            .keeper
            .as_ref()
            .is_some_and(|keeper| keeper.find(addr, at).is_ok());
        if !is_known
            && self
                .looked_at_traces
                .is_none_or(|last| last.elapsed() >= TRACES_REST)
        {
            self.look_at_traces(memory);
        }
        self.keeper.as_ref()?.find(addr, at).ok()
    }

    /// The live trace with this number, as far as it was looked at.
    pub fn live_trace(&self, number: u16) -> Option<&TraceCopy> {
        self.keeper.as_ref()?.live(number)
    }

    /// Looks at the traces if it is time. Says whether some that were known are gone.
    pub fn refresh(&mut self, memory: &impl RemoteMemory) -> bool {
        let is_due = self
            .looked_at_traces
            .is_none_or(|last| last.elapsed() >= TRACES_PERIOD);
        is_due && self.look_at_traces(memory)
    }

    fn look_at_traces(&mut self, memory: &impl RemoteMemory) -> bool {
        let now = Instant::now();
        self.looked_at_traces = Some(now);
        if self.layout.trace.is_none() {
            self.layout.trace = traces::settle(memory, self.g, &self.layout);
        }
        if self.layout.trace.is_none() {
            return false;
        }
        let keeper = self
            .keeper
            .get_or_insert_with(|| TraceKeeper::new(self.layout, self.g));
        keeper.poll(memory, now).is_ok_and(|polled| polled.died > 0)
    }
}
