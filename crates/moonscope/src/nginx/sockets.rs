//! Pools of connections that Lua keeps.

use std::fmt::Write;

use moonscope_nginx::{SocketPool, SocketPools, Worker};
use moonscope_process::counted;
use serde_json::{Value, json};

use super::Show;
use super::table::Table;
use crate::exit::Failure;

/// Pools of connections that Lua keeps.
pub struct SocketsView;

fn name(pool: &SocketPool) -> String {
    String::from_utf8_lossy(&pool.name).into_owned()
}

/// The most, the mean and the fewest times that a connection was used again.
fn reused(pool: &SocketPool) -> Option<(u64, u64, u64)> {
    let count = pool.reused.len() as u64;
    let sum: u64 = pool.reused.iter().fold(0, |sum, each| sum.saturating_add(*each));
    Some((
        *pool.reused.iter().max()?,
        sum.checked_div(count)?,
        *pool.reused.iter().min()?,
    ))
}

impl Show for SocketsView {
    const KIND: &'static str = "moonscope-nginx-pools";

    fn json(&self, worker: &Worker) -> Result<Value, Failure> {
        let found = worker.socket_pools()?;
        let has_lua = found.is_some();
        let SocketPools { pools, torn } = found.unwrap_or_default();
        let pools: Vec<Value> = pools
            .iter()
            .map(|pool| {
                let reused = reused(pool);
                json!({
                    "name": name(pool),
                    "size": pool.size,
                    "kept": pool.kept,
                    "connections": pool.connections,
                    "backlog": pool.backlog,
                    "waiting": pool.waiting,
                    "reused": reused.map(|(max, mean, min)| json!({ "max": max, "mean": mean, "min": min })),
                })
            })
            .collect();
        Ok(json!({ "lua": has_lua, "pools": pools, "torn": torn }))
    }

    fn table(&self, workers: &[Worker]) -> Result<String, Failure> {
        let mut table = Table::new(&[
            "PID",
            "POOL",
            "SIZE",
            "KEPT",
            "CONNECTIONS",
            "WAITING",
            "BACKLOG",
            "REUSED",
        ]);
        let (mut count, mut torn) = (0, 0);
        for worker in workers {
            let found = worker.socket_pools()?.unwrap_or_default();
            torn += found.torn;
            count += found.pools.len();
            for pool in &found.pools {
                table.row([
                    worker.pid().to_string(),
                    name(pool),
                    pool.size.to_string(),
                    pool.kept.to_string(),
                    pool.connections.to_string(),
                    pool.waiting.to_string(),
                    pool.backlog
                        .map_or_else(|| "-".to_owned(), |backlog| backlog.to_string()),
                    reused(pool).map_or_else(
                        || "-".to_owned(),
                        |(max, mean, min)| format!("{max}/{mean}/{min}"),
                    ),
                ]);
            }
        }
        let mut lines = match count {
            0 => String::new(),
            _ => table.to_string(),
        };
        let _ = writeln!(
            lines,
            "{} in {}",
            counted(count, "pool"),
            counted(workers.len(), "worker")
        );
        if torn > 0 {
            let _ = writeln!(lines, "{torn} changed while they were read and are left out");
        }
        Ok(lines)
    }

    fn orig(&self, worker: &Worker) -> Result<String, Failure> {
        let pools = worker.socket_pools()?.unwrap_or_default().pools;
        let mut text = String::new();
        for pool in &pools {
            let head = format!("pool \"{}\"", name(pool));
            let (max, mean, min) = reused(pool).unwrap_or_default();
            let _ = writeln!(
                text,
                "{}\n    out-of-pool reused connections: {}\n    in-pool connections: {}\n        \
                 reused times (max/avg/min): {max}/{mean}/{min}\n    pool capacity: {}\n",
                moonscope_process::visible(&head),
                pool.connections.saturating_sub(pool.kept),
                pool.kept,
                pool.size,
            );
        }
        let _ = writeln!(text, "For total {} connection pool(s) found.", pools.len());
        Ok(text)
    }
}
