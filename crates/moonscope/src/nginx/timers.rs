//! Timers of Lua.

use moonscope_nginx::{Timers, Worker};
use serde_json::{Value, json};

use super::Show;
use super::table::Table;
use crate::exit::{Code, Failure};

/// Timers of Lua.
pub struct TimersView;

impl TimersView {
    fn of(worker: &Worker) -> Result<Timers, Failure> {
        worker.timers()?.ok_or_else(|| {
            let pid = worker.pid();
            Failure::new(Code::NoTarget, format_args!("process {pid} has no ngx_lua"))
        })
    }
}

impl Show for TimersView {
    const KIND: &'static str = "moonscope-nginx-timers";

    fn json(&self, worker: &Worker) -> Result<Value, Failure> {
        // one of several workers without Lua is no reason to leave the others out
        Ok(match worker.timers()? {
            Some(timers) => json!({
                "lua": true,
                "pending": timers.pending,
                "max_pending": timers.max_pending,
                "running": timers.running,
                "max_running": timers.max_running,
            }),
            None => json!({ "lua": false }),
        })
    }

    fn table(&self, workers: &[Worker]) -> Result<String, Failure> {
        let mut table = Table::new(&["PID", "PENDING", "MAX", "%", "RUNNING", "MAX", "%"]);
        for worker in workers {
            let pid = worker.pid().to_string();
            let timers = worker.timers()?;
            let cell = |value: fn(&Timers) -> u64| {
                timers
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |timers| value(timers).to_string())
            };
            table.row([
                pid,
                cell(|timers| timers.pending),
                cell(|timers| timers.max_pending),
                cell(|timers| 100 * timers.pending / timers.max_pending.max(1)),
                cell(|timers| timers.running),
                cell(|timers| timers.max_running),
                cell(|timers| 100 * timers.running / timers.max_running.max(1)),
            ]);
        }
        Ok(table.to_string())
    }

    fn orig(&self, worker: &Worker) -> Result<String, Failure> {
        let timers = Self::of(worker)?;
        Ok(format!(
            "Running timers: {}\nMax running timers: {}\nPending timers: {}\nMax pending timers: {}\n",
            timers.running, timers.max_running, timers.pending, timers.max_pending
        ))
    }
}
