//! Which processes a target means: workers, also where their master was named.

use std::collections::BTreeSet;

use moonscope_nginx::{NginxError, Worker};
use moonscope_process::{Pid, list};
use serde_json::{Value, json};

use super::Show;
use super::table::Table;
use crate::exit::{Code, Failure};
use crate::target::{Scope, TargetArgs};

/// Workers that could be looked at, and others.
pub struct Workers {
    /// In the order of their numbers.
    pub open: Vec<Worker>,
    /// Those that could not, and why.
    pub failed: Vec<(Pid, String)>,
}

impl Workers {
    /// Finds the workers of a target, or of every nginx.
    pub fn find(args: &TargetArgs) -> Result<Self, Failure> {
        let everything = TargetArgs {
            nginx: Some(None),
            ..TargetArgs::default()
        };
        let args = if args.is_given() { args } else { &everything };
        let target = args.resolve()?;
        if matches!(target.scope, Scope::Command { .. }) {
            let failure = Failure::new(Code::Usage, "a command that is yet to be started serves nobody");
            return Err(failure.with_remedy("start nginx first, then name its pid: -p PID"));
        }
        let named = target.pids()?;
        let mut all: BTreeSet<Pid> = named.clone();
        for process in list::processes()? {
            if named.contains(&process.parent) {
                all.insert(process.pid);
            }
        }
        let mut workers = Self {
            open: Vec::new(),
            failed: Vec::new(),
        };
        let mut first = None;
        for pid in all {
            match Worker::open(pid) {
                Ok(worker) => workers.open.push(worker),
                Err(err) if is_nobody(&err) => first = first.or(Some(err)),
                Err(err) => workers.failed.push((pid, err.to_string())),
            }
        }
        match (workers.open.is_empty(), workers.failed.first(), first) {
            (false, ..) => Ok(workers),
            (true, Some((pid, why)), _) => {
                Err(Failure::new(Code::Failed, format_args!("process {pid}: {why}")))
            }
            (true, None, Some(why)) => Err(Failure::new(Code::NoTarget, why)),
            (true, None, None) => Err(Failure::new(
                Code::NoTarget,
                format_args!("{}: it has no worker of nginx", target.what),
            )),
        }
    }
}

/// Is there no nginx that serves in this process?
fn is_nobody(err: &NginxError) -> bool {
    match err {
        NginxError::Process(err) => {
            err.is_gone() || matches!(err, moonscope_process::ProcessError::KernelThread { .. })
        }
        NginxError::NotNginx { .. } | NginxError::NotAWorker { .. } | NginxError::NoCycle { .. } => true,
        _ => false,
    }
}

/// Where fields are.
pub struct LayoutView;

impl Show for LayoutView {
    const KIND: &'static str = "moonscope-nginx-layout";

    fn json(&self, worker: &Worker) -> Result<Value, Failure> {
        let fields: serde_json::Map<String, Value> = worker
            .layout()
            .fields()
            .into_iter()
            .map(|(name, offset)| (name.to_owned(), offset.into()))
            .collect();
        Ok(json!({
            "version": worker.modules().first().map(|module| module.version),
            "fields": fields,
            "modules": worker.modules().iter().map(|module| &module.name).collect::<Vec<_>>(),
        }))
    }

    fn table(&self, workers: &[Worker]) -> Result<String, Failure> {
        let mut table = Table::new(&["PID", "OFFSET", "FIELD"]);
        for worker in workers {
            for (name, offset) in worker.layout().fields() {
                table.row([worker.pid().to_string(), offset.to_string(), name.to_owned()]);
            }
        }
        Ok(table.to_string())
    }

    fn orig(&self, _: &Worker) -> Result<String, Failure> {
        Err(Failure::new(
            Code::Usage,
            "there was no old tool that shows a layout",
        ))
    }
}
