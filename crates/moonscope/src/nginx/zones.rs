//! Zones of shared memory.

use clap::Args;
use moonscope_nginx::{Owner, Worker, Zone};
use serde_json::{Value, json};

use super::table::{Table, size};
use super::{Show, ViewArgs};
use crate::exit::{Code, Failure};

/// Zones of shared memory.
#[derive(Args)]
pub struct ZonesArgs {
    #[command(flatten)]
    pub(super) view: ViewArgs,

    /// Only the zone of this name, with its small allocations by size
    #[arg(short = 'n', long, value_name = "ZONE")]
    name: Option<String>,
}

fn name(zone: &Zone) -> String {
    String::from_utf8_lossy(&zone.name).into_owned()
}

fn owner(zone: &Zone) -> String {
    match &zone.owner {
        Owner::Module(name) => name.clone(),
        Owner::Address(address) => format!("{address:#x}"),
    }
}

impl ZonesArgs {
    fn of(&self, worker: &Worker) -> Result<Vec<Zone>, Failure> {
        let mut zones = worker.zones()?;
        if let Some(wanted) = &self.name {
            let names: Vec<String> = zones.iter().map(name).collect();
            zones.retain(|zone| name(zone) == *wanted);
            if zones.is_empty() {
                let failure = Failure::new(Code::NoTarget, format_args!("there is no zone {wanted:?}"));
                return Err(failure.with_remedy(format_args!("there are: {}", names.join(", "))));
            }
        }
        Ok(zones)
    }
}

impl Show for ZonesArgs {
    const KIND: &'static str = "moonscope-nginx-shm";

    fn json(&self, worker: &Worker) -> Result<Value, Failure> {
        let zones = self.of(worker)?;
        let zones: Vec<Value> = zones
            .iter()
            .map(|zone| {
                let slots: Vec<Value> = zone
                    .slots
                    .iter()
                    .map(|slot| {
                        json!({ "size_bytes": slot.size, "total": slot.total, "used": slot.used,
                                "requests": slot.requests, "fails": slot.fails })
                    })
                    .collect();
                json!({
                    "name": name(zone),
                    "owner": owner(zone),
                    "size_bytes": zone.size,
                    "page_bytes": Zone::PAGE,
                    "pages": zone.pages,
                    "free_pages": zone.free_pages,
                    "free_runs": zone.free_runs,
                    "longest_free_run_pages": zone.longest_run,
                    "slots": slots,
                    "torn": zone.is_torn,
                })
            })
            .collect();
        Ok(json!({ "zones": zones }))
    }

    fn table(&self, workers: &[Worker]) -> Result<String, Failure> {
        // zones are shared: workers of one master have the same
        let mut table = Table::new(&[
            "PID", "ZONE", "SIZE", "FREE", "FREE%", "RUNS", "LONGEST", "FAILS", "OWNER",
        ]);
        let mut by_size = Table::new(&["PID", "ZONE", "BYTES", "ROOM", "USED", "REQUESTS", "FAILS"]);
        for worker in workers {
            for zone in self.of(worker)? {
                let fails: u64 = zone.slots.iter().map(|slot| slot.fails).sum();
                table.row([
                    worker.pid().to_string(),
                    name(&zone),
                    size(zone.size),
                    size(zone.free_pages * Zone::PAGE),
                    format!("{:.0}", 100.0 * zone.free_pages as f64 / zone.pages.max(1) as f64),
                    zone.free_runs.to_string(),
                    size(zone.longest_run * Zone::PAGE),
                    fails.to_string(),
                    owner(&zone),
                ]);
                for slot in &zone.slots {
                    by_size.row([
                        worker.pid().to_string(),
                        name(&zone),
                        slot.size.to_string(),
                        slot.total.to_string(),
                        slot.used.to_string(),
                        slot.requests.to_string(),
                        slot.fails.to_string(),
                    ]);
                }
            }
        }
        Ok(match self.name {
            Some(_) => format!("{table}\n{by_size}"),
            None => table.to_string(),
        })
    }

    fn orig(&self, worker: &Worker) -> Result<String, Failure> {
        let text = |zone: &Zone| {
            let text = format!("shm zone \"{}\"", name(zone));
            format!(
                "{}\n    owner: {}\n    total size: {} KB\n    free pages: {} KB ({} pages, {} blocks)\n\n",
                moonscope_process::visible(&text),
                owner(zone),
                zone.size >> 10,
                (zone.free_pages * Zone::PAGE) >> 10,
                zone.free_pages,
                zone.free_runs,
            )
        };
        Ok(self.of(worker)?.iter().map(text).collect())
    }
}
