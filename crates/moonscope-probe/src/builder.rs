//! Builds unwind tables in a thread of its own: a large library takes 100 ms and more, and meanwhile new
//! processes must be looked at before they end.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use moonscope_process::Executable;
use moonscope_unwind::{RuleSet, Table, abi};

use crate::executables::ExecutableId;
use crate::limits::MAX_NEW_RULES;

/// A finished build.
pub struct Built {
    /// For which file.
    pub id: ExecutableId,
    /// The table; `Ok(None)`: the file has no unwind information.
    pub table: Result<Option<Table>, NoTable>,
    /// Rules that no earlier build used. They continue the list of all rules.
    pub new_rules: Vec<abi::ms_rule>,
}

/// Why a file has no table; it is walked through in user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTable {
    /// Its unwind information cannot be read.
    Unreadable,
    /// Its rules are too many for it alone, or with those of all other files.
    TooManyRules,
}

fn build(file: &Executable, rules: &mut RuleSet) -> Result<Option<Table>, NoTable> {
    let (before, refused) = (rules.len(), rules.refused());
    let data = file.data().map_err(|_| NoTable::Unreadable)?;
    let table = Table::build(&data, rules).map_err(|_| NoTable::Unreadable);
    if rules.refused() > refused || rules.len() > before + MAX_NEW_RULES {
        rules.truncate(before);
        return Err(NoTable::TooManyRules);
    }
    table
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
            let mut sent = 0;
            for (id, file) in incoming {
                let table = build(&file, &mut rules);
                let new_rules = rules.as_slice()[sent..].to_vec();
                sent = rules.len();
                if outgoing.send(Built { id, table, new_rules }).is_err() {
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
