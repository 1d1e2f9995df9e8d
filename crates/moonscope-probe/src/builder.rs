//! Builds unwind tables in a thread of its own: a large library takes 100 ms and more, and meanwhile new
//! processes must be looked at before they end.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use moonscope_process::{Executable, visible};
use moonscope_unwind::{RuleSet, Table, TableStats, UnwindError, abi};

use crate::executables::ExecutableId;
use crate::limits::MAX_NEW_RULES;
use crate::lua::{LuaBuilds, LuaBuildsFound};

/// A finished build.
pub struct Built {
    /// For which file.
    pub id: ExecutableId,
    /// The table; `Ok(None)`: the file has no unwind information.
    pub table: Result<Option<Table>, NoTable>,
    /// What is wrong with the unwind information of a file that has some.
    pub damage: Option<String>,
    /// LuaJIT in it.
    pub lua: LuaBuildsFound,
    /// Rules that no earlier build used. They continue the list of all rules.
    pub new_rules: Vec<abi::ms_rule>,
    /// Layouts of LuaJIT that no earlier file had. They continue the list of all layouts.
    pub new_layouts: Vec<abi::ms_lua_layout>,
}

/// Why a file has no table; it is walked through in user space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoTable {
    /// Its unwind information cannot be read, and why.
    Unreadable(String),
    /// Its rules are too many for it alone, or with those of all other files.
    TooManyRules,
}

/// Builds the table of a file, with its LuaJIT, and adds to the rules and layouts of all. Counts in `stats` what the file
/// contains.
pub fn build(
    file: &Executable,
    rules: &mut RuleSet,
    lua: &mut LuaBuilds,
    stats: &mut TableStats,
) -> Result<(Option<Table>, LuaBuildsFound), NoTable> {
    let (before, refused, layouts) = (rules.len(), rules.refused(), lua.len());
    let data = file.data().map_err(|err| NoTable::Unreadable(err.to_string()))?;
    let mut found = LuaBuildsFound::default();
    let table = Table::build_counting(&data, rules, stats).map(|mut table| {
        if let Some(table) = &mut table {
            found = lua.add(&data, table, rules);
        }
        table
    });
    if rules.refused() > refused || rules.len() > before + MAX_NEW_RULES {
        rules.truncate(before);
        lua.truncate(layouts);
        return Err(NoTable::TooManyRules);
    }
    let unreadable = |err: UnwindError| NoTable::Unreadable(format!("{}: {err}", visible(file.path())));
    Ok((table.map_err(unreadable)?, found))
}

/// The thread and the way to it.
pub struct Builder {
    orders: Option<Sender<(ExecutableId, Arc<Executable>)>>,
    built: Receiver<Built>,
    thread: Option<JoinHandle<()>>,
    under_way: usize,
}

impl Builder {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (orders, incoming) = channel::<(ExecutableId, Arc<Executable>)>();
        let (outgoing, built) = channel();
        let thread = thread::Builder::new().name("tables".into()).spawn(move || {
            let mut rules = RuleSet::new();
            let mut lua = LuaBuilds::default();
            // the first rules are in every set
            let (mut rules_sent, mut layouts_sent) = (0, 0);
            for (id, file) in incoming {
                let mut stats = TableStats::default();
                let (table, found) = match build(&file, &mut rules, &mut lua, &mut stats) {
                    Ok((table, found)) => (Ok(table), found),
                    Err(reason) => (Err(reason), LuaBuildsFound::default()),
                };
                let built = Built {
                    id,
                    table,
                    damage: stats.damage(),
                    lua: found,
                    new_rules: rules.as_slice()[rules_sent..].to_vec(),
                    new_layouts: lua.layouts().skip(layouts_sent).collect(),
                };
                (rules_sent, layouts_sent) = (rules.len(), lua.len());
                if outgoing.send(built).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self {
            orders: Some(orders),
            built,
            thread: Some(thread),
            under_way: 0,
        })
    }

    /// Asks for the table of a file.
    pub fn order(&mut self, id: ExecutableId, file: Arc<Executable>) {
        if self
            .orders
            .as_ref()
            .is_some_and(|orders| orders.send((id, file)).is_ok())
        {
            self.under_way += 1;
        }
    }

    /// A finished table, if there is one.
    pub fn try_take(&mut self) -> Option<Built> {
        let built = self.built.try_recv().ok()?;
        self.under_way -= 1;
        Some(built)
    }

    /// The next finished table; waits so long for it. `None` too when nothing is under way.
    pub fn take(&mut self, wait: Duration) -> Option<Built> {
        if self.under_way == 0 {
            return None;
        }
        let built = self.built.recv_timeout(wait).ok()?;
        self.under_way -= 1;
        Some(built)
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // it ends after the table at hand; that it panicked was told by itself
            let _ = thread.join();
        }
    }
}
