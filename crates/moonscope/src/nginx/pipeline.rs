//! What each request runs through: filters, and handlers of phases.

use std::fmt::Write;

use clap::{Args, ValueEnum};
use moonscope_nginx::{Chain, Function, Handlers, Worker};
use serde_json::{Value, json};

use super::table::Table;
use super::{Show, ViewArgs};
use crate::exit::Failure;

/// Filters.
#[derive(Args)]
pub struct FiltersArgs {
    #[command(flatten)]
    pub(super) view: ViewArgs,

    /// Only one of the three chains
    #[arg(long, value_enum)]
    chain: Option<ChainName>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ChainName {
    Header,
    Body,
    RequestBody,
}

/// The filters of some chains.
pub struct FiltersView(Vec<Chain>);

impl FiltersArgs {
    /// What is to be shown.
    pub fn shown(&self) -> FiltersView {
        match self.chain {
            None => FiltersView(Chain::ALL.to_vec()),
            Some(ChainName::Header) => FiltersView::of(Chain::Header),
            Some(ChainName::Body) => FiltersView::of(Chain::Body),
            Some(ChainName::RequestBody) => FiltersView::of(Chain::RequestBody),
        }
    }
}

impl FiltersView {
    /// One chain, as the old tools showed it.
    pub fn of(chain: Chain) -> Self {
        Self(vec![chain])
    }
}

/// The handlers of all phases.
pub struct PhasesView;

fn json_of(function: &Function) -> Value {
    json!({
        "module": function.module,
        "function": function.name,
        "place": function.place,
        "address": format!("{:#x}", function.addr),
    })
}

/// A name for people: the function's own, or whose it is and where.
fn name(function: &Function) -> String {
    match (&function.name, &function.module) {
        (Some(name), _) => name.clone(),
        (None, Some(module)) => format!("~{module} ({})", function.place),
        (None, None) => function.place.clone(),
    }
}

/// A part of a pipeline, what it is called, and its functions in their order.
type Parts = Vec<(&'static str, Vec<Function>)>;

/// Tables, one for all workers that have the same.
fn tables(workers: &[Worker], first: &'static str, parts: Vec<Parts>) -> String {
    let mut groups: Vec<(Vec<u32>, Parts)> = Vec::new();
    for (worker, parts) in workers.iter().zip(parts) {
        match groups.iter_mut().find(|(_, others)| *others == parts) {
            Some((pids, _)) => pids.push(worker.pid()),
            None => groups.push((vec![worker.pid()], parts)),
        }
    }
    let mut text = String::new();
    let is_one = groups.len() == 1;
    for (number, (pids, parts)) in groups.iter().enumerate() {
        if !is_one {
            let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
            let gap = if number == 0 { "" } else { "\n" };
            let _ = writeln!(text, "{gap}worker {}", pids.join(", "));
        }
        if parts.iter().all(|(_, functions)| functions.is_empty()) {
            text += "it has no configuration of HTTP\n";
            continue;
        }
        let mut table = Table::new(&[first, "#", "MODULE", "FUNCTION", "PLACE"]);
        for (part, functions) in parts {
            for (number, function) in functions.iter().enumerate() {
                table.row([
                    (*part).to_owned(),
                    (number + 1).to_string(),
                    function.module.clone().unwrap_or_else(|| "?".to_owned()),
                    function.name.clone().unwrap_or_else(|| "-".to_owned()),
                    function.place.clone(),
                ]);
            }
        }
        text += &table.to_string();
    }
    text
}

impl FiltersView {
    fn parts(&self, worker: &Worker) -> Result<Parts, Failure> {
        let chain = |&chain: &Chain| Ok((chain.as_str(), worker.filters(chain)?));
        self.0.iter().map(chain).collect()
    }
}

impl Show for FiltersView {
    const KIND: &'static str = "moonscope-nginx-filters";

    fn json(&self, worker: &Worker) -> Result<Value, Failure> {
        let chains = self.parts(worker)?.into_iter().map(|(chain, filters)| {
            let filters: Vec<Value> = filters.iter().map(json_of).collect();
            json!({ "chain": chain, "filters": filters })
        });
        Ok(json!({ "chains": chains.collect::<Vec<_>>() }))
    }

    fn table(&self, workers: &[Worker]) -> Result<String, Failure> {
        let parts: Result<Vec<Parts>, Failure> = workers.iter().map(|worker| self.parts(worker)).collect();
        Ok(tables(workers, "CHAIN", parts?))
    }

    fn orig(&self, worker: &Worker) -> Result<String, Failure> {
        let parts = self.parts(worker)?;
        let filters = parts.iter().flat_map(|(_, filters)| filters);
        Ok(filters.map(|filter| format!("{}\n", name(filter))).collect())
    }
}

impl PhasesView {
    fn parts(worker: &Worker) -> Result<Parts, Failure> {
        let part = |phase: Handlers| (phase.phase.as_str(), phase.handlers);
        Ok(worker.handlers()?.into_iter().map(part).collect())
    }
}

impl Show for PhasesView {
    const KIND: &'static str = "moonscope-nginx-phases";

    fn json(&self, worker: &Worker) -> Result<Value, Failure> {
        let phases = Self::parts(worker)?.into_iter().map(|(phase, handlers)| {
            let handlers: Vec<Value> = handlers.iter().map(json_of).collect();
            json!({ "phase": phase, "handlers": handlers })
        });
        Ok(json!({ "phases": phases.collect::<Vec<_>>() }))
    }

    fn table(&self, workers: &[Worker]) -> Result<String, Failure> {
        let parts: Result<Vec<Parts>, Failure> = workers.iter().map(Self::parts).collect();
        Ok(tables(workers, "PHASE", parts?))
    }

    fn orig(&self, worker: &Worker) -> Result<String, Failure> {
        let mut text = String::new();
        for (phase, handlers) in Self::parts(worker)? {
            let phase = match phase {
                "preaccess" => "pre-access".to_owned(),
                "precontent" => "pre-content".to_owned(),
                other => other.replace('_', "-"),
            };
            let _ = writeln!(text, "{phase} phase");
            for handler in &handlers {
                let _ = writeln!(text, "    {}", name(handler));
            }
            text.push('\n');
        }
        Ok(text)
    }
}
