//! Connections by what they are for.

use moonscope_nginx::{ConnectionKind, Connections, Worker};
use serde_json::{Map, Value, json};

use super::Show;
use super::table::Table;
use crate::exit::Failure;

/// Connections by what they are for.
pub struct ConnectionsView;

fn count(connections: &Connections, kind: ConnectionKind) -> usize {
    let of_kind = connections
        .used
        .iter()
        .filter(|connection| connection.kind == kind);
    of_kind.count()
}

impl Show for ConnectionsView {
    const KIND: &'static str = "moonscope-nginx-connections";

    fn json(&self, worker: &Worker) -> Result<Value, Failure> {
        let connections = worker.connections()?;
        let kinds: Map<String, Value> = ConnectionKind::ALL
            .iter()
            .map(|&kind| (kind.as_str().to_owned(), count(&connections, kind).into()))
            .collect();
        Ok(json!({
            "max": connections.max,
            "free": connections.free,
            "used": connections.used.len(),
            "by_kind": kinds,
        }))
    }

    fn table(&self, workers: &[Worker]) -> Result<String, Failure> {
        let mut table = Table::new(&[
            "PID",
            "MAX",
            "FREE",
            "LISTENING",
            "REQUEST",
            "HTTP2/3",
            "WAITING",
            "UPSTREAM",
            "OTHER",
        ]);
        for worker in workers {
            let connections = worker.connections()?;
            let of = |kind| count(&connections, kind).to_string();
            table.row([
                worker.pid().to_string(),
                connections.max.to_string(),
                connections.free.to_string(),
                of(ConnectionKind::Listening),
                of(ConnectionKind::Request),
                of(ConnectionKind::Multiplexed),
                of(ConnectionKind::Waiting),
                of(ConnectionKind::Upstream),
                of(ConnectionKind::Other),
            ]);
        }
        Ok(table.to_string())
    }

    fn orig(&self, worker: &Worker) -> Result<String, Failure> {
        let connections = worker.connections()?;
        let (max_files, files) = worker.open_files()?;
        Ok(format!(
            "====== CONNECTIONS ======\n\
             Max connections: {}\nFree connections: {}\nUsed connections: {}\n\n\
             ====== FILES ======\n\
             Max files: {}\nOpen normal files: {files}\n",
            connections.max,
            connections.free,
            connections.max.saturating_sub(connections.free),
            max_files,
        ))
    }
}
