//! The pool of the cycle.

use moonscope_nginx::Worker;
use serde_json::{Value, json};

use super::Show;
use super::table::{Table, size};
use crate::exit::Failure;

/// The pool of the cycle.
pub struct PoolView;

impl Show for PoolView {
    const KIND: &'static str = "moonscope-nginx-pool";

    fn json(&self, worker: &Worker) -> Result<Value, Failure> {
        let pool = worker.cycle_pool()?;
        Ok(json!({
            "block_bytes": pool.block_size,
            "blocks": pool.blocks,
            "used_bytes": pool.used,
            "unused_bytes": pool.unused,
            "small_up_to_bytes": pool.small_max,
            "large_allocations": pool.large,
        }))
    }

    fn table(&self, workers: &[Worker]) -> Result<String, Failure> {
        let mut table = Table::new(&["PID", "BLOCK", "BLOCKS", "USED", "UNUSED", "LARGE"]);
        for worker in workers {
            let pool = worker.cycle_pool()?;
            table.row([
                worker.pid().to_string(),
                size(pool.block_size),
                pool.blocks.to_string(),
                size(pool.used),
                size(pool.unused),
                pool.large.to_string(),
            ]);
        }
        Ok(table.to_string())
    }

    fn orig(&self, worker: &Worker) -> Result<String, Failure> {
        let pool = worker.cycle_pool()?;
        let limit = pool.small_max + 1;
        Ok(format!(
            "pool chunk size: {}\n\
             small blocks (< {limit}): {} bytes used, {} bytes unused\n\
             large blocks (>= {limit}): {} blocks\n",
            pool.block_size, pool.used, pool.unused, pool.large,
        ))
    }
}
