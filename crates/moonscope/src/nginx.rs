//! `moonscope nginx`: what nginx is doing, read out of its memory.

mod connections;
mod dicts;
mod pipeline;
mod pool;
mod requests;
mod sockets;
mod timers;
mod workers;
mod zones;

use clap::{Args, Subcommand};
use moonscope_nginx::{Chain, Worker};
use serde_json::Value;

use crate::exit::{Code, Failure};
use crate::inspect::{self, Format, Looked, ViewArgs};
use crate::table;
use workers::Workers;

/// Shows what nginx is doing: its requests, connections, shared memory and pools.
///
/// All of it is read out of the memory of its workers: nothing is probed, stopped or restarted, and no debug information or
/// symbols are needed. A worker that is stuck shows as much as one that waits.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct NginxArgs {
    #[command(subcommand)]
    view: View,
}

const EXAMPLES: &str = "\
Examples:
  sudo moonscope nginx requests                 every request in flight, the oldest first, in all workers
  sudo moonscope nginx requests -p 4321 --watch the same of one worker (or of all of a master), again and again
  sudo moonscope nginx connections              how many connections there are, and what for
  sudo moonscope nginx shm --json               shared memory: lua_shared_dict, limit_req, caches
  sudo moonscope nginx pool                     what the configuration holds in memory
  sudo moonscope nginx shdict                   lua_shared_dict: keys, sizes, what has expired
  sudo moonscope nginx phases                   which modules have a hand in a request, and in which order

Without a target every nginx of the machine is meant. The old names are understood too: ngx-active-reqs,
ngx-count-conns, ngx-shm, ngx-cycle-pool, ngx-header-filters,
ngx-body-filters, ngx-phase-handlers, ngx-lua-shdict, ngx-lua-count-timers, ngx-lua-conn-pools.
Arguments of requests, and keys and values of dictionaries, are shown with --show-values only.

Exit status: 0 if everything was shown, 3 if it is not permitted, 4 if there is no nginx,
6 if one of several workers could not be looked at.";

#[derive(Subcommand)]
enum View {
    /// Requests in flight: age, phase, what is waited for
    #[command(visible_alias = "reqs", alias = "ngx-active-reqs")]
    Requests(requests::RequestsArgs),
    /// Connections by what they are for
    #[command(visible_alias = "conns", alias = "ngx-count-conns")]
    Connections(ViewArgs),
    /// Zones of shared memory and what is free in them
    #[command(alias = "ngx-shm")]
    Shm(zones::ZonesArgs),
    /// The pool of the cycle: memory that the configuration and modules hold
    #[command(alias = "ngx-cycle-pool")]
    Pool(ViewArgs),
    /// Filters of answers, in the order in which they run
    Filters(pipeline::FiltersArgs),
    #[command(name = "ngx-header-filters", hide = true)]
    HeaderFilters(ViewArgs),
    #[command(name = "ngx-body-filters", hide = true)]
    BodyFilters(ViewArgs),
    /// Handlers of each phase of a request, in the order in which they run
    #[command(alias = "ngx-phase-handlers")]
    Phases(ViewArgs),
    /// Dictionaries of Lua (lua_shared_dict): how many keys and how large; also a key's value
    #[command(alias = "ngx-lua-shdict")]
    Shdict(Box<dicts::DictsArgs>),
    /// Timers of Lua: how many wait and run, and how many may
    #[command(alias = "ngx-lua-count-timers")]
    Timers(ViewArgs),
    /// Pools of connections that Lua keeps (setkeepalive)
    #[command(alias = "ngx-lua-conn-pools")]
    Pools(ViewArgs),
    /// Where the fields of this nginx were found, to be sent with a report of a defect
    Layout(ViewArgs),
}

/// A view of workers.
trait Show {
    /// What it is called in JSON.
    const KIND: &'static str;

    /// What one worker has, as JSON: an object.
    fn json(&self, worker: &Worker) -> Result<Value, Failure>;

    /// What all have, for people.
    fn table(&self, workers: &[Worker]) -> Result<String, Failure>;

    /// What one worker has, in the words of the old tool.
    fn orig(&self, worker: &Worker) -> Result<String, Failure>;
}

/// Runs the verb.
pub fn run(args: &NginxArgs) -> Result<Code, Failure> {
    match &args.view {
        View::Requests(args) => show(&args.view, args),
        View::Connections(args) => show(args, &connections::ConnectionsView),
        View::Shm(args) => show(&args.view, args),
        View::Pool(args) => show(args, &pool::PoolView),
        View::Filters(args) => show(&args.view, &args.shown()),
        View::HeaderFilters(args) => show(args, &pipeline::FiltersView::of(Chain::Header)),
        View::BodyFilters(args) => show(args, &pipeline::FiltersView::of(Chain::Body)),
        View::Phases(args) => show(args, &pipeline::PhasesView),
        View::Shdict(args) => match &args.command {
            None => show(&args.view, &**args),
            Some(dicts::DictCommand::Get(args)) => show(&args.view, args),
        },
        View::Timers(args) => show(args, &timers::TimersView),
        View::Pools(args) => show(args, &sockets::SocketsView),
        View::Layout(args) => show(args, &workers::LayoutView),
    }
}

fn show<S: Show>(args: &ViewArgs, view: &S) -> Result<Code, Failure> {
    inspect::show(args.watch, || {
        let workers = Workers::find(&args.target)?;
        Ok(Looked {
            text: render(args, view, &workers.open)?,
            failed: workers.failed,
        })
    })
}

fn render<S: Show>(args: &ViewArgs, view: &S, workers: &[Worker]) -> Result<String, Failure> {
    if args.json {
        let each = workers.iter().map(|worker| {
            let mut value = view.json(worker)?;
            value["pid"] = worker.pid().into();
            Ok(value)
        });
        let each = each.collect::<Result<Vec<_>, Failure>>()?;
        return inspect::document(S::KIND, "workers", each, args.watch);
    }
    match args.format {
        Format::Table => view.table(workers),
        Format::Orig => workers.iter().map(|worker| view.orig(worker)).collect(),
    }
}
