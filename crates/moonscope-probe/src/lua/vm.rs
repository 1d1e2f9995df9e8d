//! One Lua VM of a process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moonscope_luajit::builtins::Builtins;
use moonscope_luajit::string::StrLayout;
use moonscope_luajit::{CFunctions, Layout, TraceCopy, TraceKeeper, traces, vms};
use moonscope_process::RemoteMemory;
use rustc_hash::FxHashMap;

/// The shortest time between two looks at the traces of a VM that samples ask for.
const TRACES_REST: Duration = Duration::from_millis(20);

/// After this time they are looked at anyway, so that those flushed later are known.
const TRACES_PERIOD: Duration = Duration::from_secs(1);

/// The shortest time between two looks at the tables of a VM for names of C functions.
const TABLES_REST: Duration = Duration::from_secs(2);

/// Names of C functions that are kept.
const MAX_C_FUNCTIONS: usize = 1 << 16;

/// A Lua VM.
pub struct LuaVm {
    /// Its `global_State`.
    pub g: u64,
    /// Number of its layout.
    pub number: u32,
    layout: Layout,
    strings: Option<StrLayout>,
    builtins: Option<Builtins>,
    /// C functions that samples had, by their code, and what tables call them.
    c_functions: FxHashMap<u64, Option<Arc<str>>>,
    looked_at_tables: Option<Instant>,
    keeper: Option<TraceKeeper>,
    looked_at_traces: Option<Instant>,
}

/// It was looked at a moment ago, or cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotNow;

impl LuaVm {
    /// The VM at `g`, of which nothing is read yet.
    pub fn new(g: u64, number: u32, layout: Layout) -> Self {
        Self {
            g,
            number,
            layout,
            strings: None,
            builtins: None,
            c_functions: FxHashMap::default(),
            looked_at_tables: None,
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

    /// What the tables of the VM call the C function with this code; an error if that is not looked up now, but may be
    /// later.
    pub fn c_function(&mut self, memory: &impl RemoteMemory, code: u64) -> Result<Option<Arc<str>>, NotNow> {
        if let Some(known) = self.c_functions.get(&code) {
            return Ok(known.clone());
        }
        if self
            .looked_at_tables
            .is_some_and(|last| last.elapsed() < TABLES_REST)
        {
            return Err(NotNow);
        }
        self.looked_at_tables = Some(Instant::now());
        let names = self.read_c_functions(memory).ok_or(NotNow)?;
        if self.c_functions.len() >= MAX_C_FUNCTIONS {
            self.c_functions.clear();
        }
        for (code, name) in names.iter() {
            self.c_functions.insert(code, Some(name.into()));
        }
        let name = self.c_functions.entry(code).or_default();
        Ok(name.clone())
    }

    fn read_c_functions(&mut self, memory: &impl RemoteMemory) -> Option<CFunctions> {
        let strings = self.strings(memory)?;
        let thread = vms::main_thread(memory, self.g, &self.layout).ok()?;
        CFunctions::read(memory, self.layout.mode, &strings, thread).ok()
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
