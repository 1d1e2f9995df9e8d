//! One Lua VM of a process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moonscope_luajit::builtins::Builtins;
use moonscope_luajit::string::StrLayout;
use moonscope_luajit::{CFunctions, Layout, Source, TraceCopy, TraceKeeper, globals, traces};
use moonscope_process::RemoteMemory;
use rustc_hash::{FxHashMap, FxHashSet};

use super::callees::{Callees, Calls};

/// The shortest time between two looks at the traces of a VM that samples ask for.
const TRACES_REST: Duration = Duration::from_millis(20);

/// After this time they are looked at anyway, so that those flushed later are known.
const TRACES_PERIOD: Duration = Duration::from_secs(1);

/// How long it is believed whom a call calls: each answer may take a look at a whole table.
const CALLEES_PERIOD: Duration = Duration::from_secs(1);

/// The shortest time between two looks at the tables of a VM for names of C functions.
const TABLES_REST: Duration = Duration::from_secs(2);

/// The same for a function that is in none of them, if its code was looked for before.
const OBJECTS_REST: Duration = Duration::from_secs(60);

/// Names of C functions that are kept.
const MAX_C_FUNCTIONS: usize = 1 << 16;

/// A Lua VM.
pub struct LuaVm {
    /// Its `global_State`.
    pub g: u64,
    /// Number of its layout.
    pub number: u32,
    /// Samples have it, or had it a while ago.
    pub was_asked_for: bool,
    layout: Layout,
    strings: Option<StrLayout>,
    builtins: Option<Builtins>,
    /// C functions that samples had, by code and object, and what tables call them.
    c_functions: FxHashMap<(u64, u64), Option<Arc<str>>>,
    looked_for_code: FxHashSet<u64>,
    tables: Option<CFunctions>,
    looked_at_tables: Option<Instant>,
    callees: Callees,
    forgot_callees: Instant,
    keeper: Option<TraceKeeper>,
    looked_at_traces: Option<Instant>,
    /// A sample since had machine code of none that is known.
    lacks_trace: bool,
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
            was_asked_for: false,
            layout,
            strings: None,
            builtins: None,
            c_functions: FxHashMap::default(),
            looked_for_code: FxHashSet::default(),
            tables: None,
            looked_at_tables: None,
            callees: Callees::default(),
            forgot_callees: Instant::now(),
            keeper: None,
            looked_at_traces: None,
            lacks_trace: false,
        }
    }

    /// Where it keeps things.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How its strings are laid out.
    pub fn strings(&mut self, memory: &impl RemoteMemory) -> Option<StrLayout> {
        if self.strings.is_none() {
            self.strings = StrLayout::of_vm(memory, &self.layout, self.g).ok();
        }
        self.strings
    }

    /// The names of the functions of its library.
    fn builtins(&mut self, memory: &impl RemoteMemory) -> Option<&Builtins> {
        if self.builtins.is_none() {
            self.builtins = self.read_builtins(memory);
        }
        self.builtins.as_ref()
    }

    /// May one of these calls of a function object be of Lua?
    pub fn may_be_lua(&mut self, memory: &impl RemoteMemory, closure: u64, callees: &[Source]) -> bool {
        self.builtins(memory);
        let builtins = self.builtins.as_ref();
        let calls = Calls {
            memory,
            layout: &self.layout,
            g: self.g,
            closure,
        };
        self.callees.may_be_lua(&calls, callees, builtins)
    }

    /// The C function that a call of a function object ends up in ([`Callees::c_function`]).
    pub fn called_c(&mut self, memory: &impl RemoteMemory, closure: u64, source: &Source) -> Option<u64> {
        let calls = Calls {
            memory,
            layout: &self.layout,
            g: self.g,
            closure,
        };
        self.callees.c_function(&calls, source)
    }

    /// The name of a function of its library.
    pub fn builtin(&mut self, memory: &impl RemoteMemory, ffid: u8) -> String {
        match self.builtins(memory) {
            Some(builtins) => builtins.name_or_number(ffid),
            None => format!("builtin#{ffid}"),
        }
    }

    /// What the tables of the VM call the C function with this code and object; an error if that is not looked up now, but
    /// may be later.
    pub fn c_function(
        &mut self,
        memory: &impl RemoteMemory,
        function: (u64, u64),
    ) -> Result<Option<Arc<str>>, NotNow> {
        if let Some(known) = self.c_functions.get(&function) {
            return Ok(known.clone());
        }
        let mut name = self.name_in_tables(memory, function);
        if name.is_none() {
            let (code, _) = function;
            // functions that are made for each call would be looked for for ever
            let rest = match self.looked_for_code.contains(&code) {
                true => OBJECTS_REST,
                false => TABLES_REST,
            };
            if self.looked_at_tables.is_none_or(|last| last.elapsed() >= rest) {
                self.looked_at_tables = Some(Instant::now());
                self.tables = Some(self.read_c_functions(memory).ok_or(NotNow)?);
                self.c_functions.clear();
                name = self.name_in_tables(memory, function);
            } else if !self.looked_for_code.contains(&code) {
                return Err(NotNow);
            }
            self.looked_for_code.insert(code);
        }
        if self.c_functions.len() >= MAX_C_FUNCTIONS {
            self.c_functions.clear();
            self.looked_for_code.clear();
        }
        self.c_functions.insert(function, name.clone());
        Ok(name)
    }

    fn name_in_tables(&self, memory: &impl RemoteMemory, function: (u64, u64)) -> Option<Arc<str>> {
        let tables = self.tables.as_ref()?;
        tables.name(memory, self.layout.mode, function).map(Arc::from)
    }

    fn read_c_functions(&mut self, memory: &impl RemoteMemory) -> Option<CFunctions> {
        let strings = self.strings(memory)?;
        let tables = globals::of_vm(memory, &self.layout, self.g, &strings);
        Some(CFunctions::read(memory, self.layout.mode, &strings, &tables))
    }

    fn read_builtins(&mut self, memory: &impl RemoteMemory) -> Option<Builtins> {
        let strings = self.strings(memory)?;
        let tables = globals::of_vm(memory, &self.layout, self.g, &strings);
        Some(Builtins::read(memory, self.layout.mode, &strings, &tables))
    }

    /// The trace that had machine code at this address at this time. Looks for new ones if it is not known.
    pub fn trace(&mut self, memory: &impl RemoteMemory, addr: u64, at: Instant) -> Option<&TraceCopy> {
        let is_known = self
            .keeper
            .as_ref()
            .is_some_and(|keeper| keeper.find(addr, at).is_ok());
        if !is_known && self.has_rested(TRACES_REST) {
            self.look_at_traces(memory);
        }
        let found = self.keeper.as_ref().and_then(|keeper| keeper.find(addr, at).ok());
        self.lacks_trace |= found.is_none();
        found
    }

    fn has_rested(&self, rest: Duration) -> bool {
        self.looked_at_traces.is_none_or(|last| last.elapsed() >= rest)
    }

    /// The live trace with this number, as far as it was looked at.
    pub fn live_trace(&self, number: u16) -> Option<&TraceCopy> {
        self.keeper.as_ref()?.live(number)
    }

    /// Looks at the traces if it is time. Says whether some that were known are gone.
    pub fn refresh(&mut self, memory: &impl RemoteMemory) -> bool {
        if self.forgot_callees.elapsed() >= CALLEES_PERIOD {
            self.forgot_callees = Instant::now();
            self.callees.forget();
        }
        // one that a sample lacked may not live for long
        let period = if self.lacks_trace {
            TRACES_REST
        } else {
            TRACES_PERIOD
        };
        self.has_rested(period) && self.look_at_traces(memory)
    }

    fn look_at_traces(&mut self, memory: &impl RemoteMemory) -> bool {
        let now = Instant::now();
        self.looked_at_traces = Some(now);
        self.lacks_trace = false;
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
