//! Requests in flight.

use std::time::Duration;

use clap::Args;
use moonscope_nginx::{Request, Worker};
use moonscope_process::counted;
use serde_json::{Value, json};

use super::table::{Table, age};
use super::{Show, ViewArgs};
use crate::exit::Failure;

/// Requests in flight.
#[derive(Args)]
pub struct RequestsArgs {
    #[command(flatten)]
    pub(super) view: ViewArgs,

    /// Only those that are at least as old
    #[arg(long, value_name = "TIME", value_parser = crate::record::duration::parse)]
    min_age: Option<Duration>,

    /// Shows the arguments of requests (?a=b), which may hold what is nobody's business
    #[arg(long)]
    show_values: bool,
}

impl RequestsArgs {
    fn of(&self, worker: &Worker) -> Result<(Vec<Request>, u64, u64), Failure> {
        let requests = worker.requests()?;
        let least = self.min_age.unwrap_or_default();
        let found = requests.found.into_iter().filter(|request| request.age >= least);
        Ok((found.collect(), requests.multiplexed, requests.torn))
    }

    /// The path as it was sent, with its arguments or a mark that there are some.
    fn uri(&self, request: &Request) -> String {
        let uri = String::from_utf8_lossy(&request.unparsed_uri).into_owned();
        match uri.split_once('?') {
            Some((path, _)) if !self.show_values => format!("{path}?…"),
            _ => uri,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Something, or a dash.
fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

impl Show for RequestsArgs {
    const KIND: &'static str = "moonscope-nginx-requests";

    fn json(&self, worker: &Worker) -> Result<Value, Failure> {
        let (requests, multiplexed, torn) = self.of(worker)?;
        let requests: Vec<Value> = requests
            .iter()
            .map(|request| {
                json!({
                    "address": format!("{:#x}", request.addr),
                    "age_us": request.age.as_micros() as u64,
                    "method": text(&request.method),
                    "uri": self.uri(request),
                    "path": text(&request.uri),
                    "host": text(&request.host),
                    "status": request.status,
                    "phase": request.phase.map(|phase| phase.as_str()),
                    "action": text(&request.connection.action),
                    "has_upstream": request.has_upstream,
                    "references": request.count,
                    "pool_bytes": request.pool.map(|pool| pool.used),
                    "connection": {
                        "fd": request.connection.fd,
                        "peer": text(&request.connection.peer),
                        "is_tls": request.connection.is_tls,
                        "requests": request.connection.requests,
                        "sent_bytes": request.connection.sent,
                    },
                })
            })
            .collect();
        Ok(json!({ "requests": requests, "http2_or_3_connections": multiplexed, "torn": torn }))
    }

    fn table(&self, workers: &[Worker]) -> Result<String, Failure> {
        let mut all = Vec::new();
        let (mut multiplexed, mut torn) = (0, 0);
        for worker in workers {
            let (requests, with_streams, changed) = self.of(worker)?;
            multiplexed += with_streams;
            torn += changed;
            all.extend(requests.into_iter().map(|request| (worker.pid(), request)));
        }
        all.sort_by_key(|(_, request)| std::cmp::Reverse(request.age));
        let mut table = Table::new(&[
            "PID", "AGE", "STATUS", "PHASE", "HOST", "CLIENT", "REQUEST", "DOING",
        ]);
        for (pid, request) in &all {
            let status = match request.status {
                0 => "-".to_owned(),
                status => status.to_string(),
            };
            let phase = request.phase.map_or("-", |phase| phase.as_str());
            table.row([
                pid.to_string(),
                age(request.age),
                status,
                phase.to_owned(),
                or_dash(text(&request.host)),
                text(&request.connection.peer),
                or_dash(
                    format!("{} {}", text(&request.method), self.uri(request))
                        .trim()
                        .to_owned(),
                ),
                or_dash(text(&request.connection.action)),
            ]);
        }
        let mut lines = if all.is_empty() {
            String::new()
        } else {
            table.to_string()
        };
        lines += &format!(
            "{} in {}\n",
            counted(all.len(), "request"),
            counted(workers.len(), "worker")
        );
        if multiplexed > 0 {
            let connections = counted(multiplexed, "connection");
            lines += &format!("{connections} with HTTP/2 or HTTP/3, whose requests are not shown\n");
        }
        if torn > 0 {
            lines += &format!("{torn} changed while they were read and are left out\n");
        }
        Ok(lines)
    }

    fn orig(&self, worker: &Worker) -> Result<String, Failure> {
        let (requests, ..) = self.of(worker)?;
        let line = |request: &Request| {
            let tls = match request.connection.is_tls {
                Some(is_tls) => u8::from(is_tls).to_string(),
                None => "?".to_owned(),
            };
            let line = format!(
                "req \"{} {}\", r={:#x}, count={}, host={}, status={}, time={:.3}s, conn: ssl={tls}, from={}, reqs={}, fd={}, {}",
                text(&request.method),
                self.uri(request),
                request.addr,
                request.count,
                text(&request.host),
                request.status,
                request.age.as_secs_f64(),
                text(&request.connection.peer),
                request.connection.requests.unwrap_or(0),
                request.connection.fd,
                text(&request.connection.action),
            );
            format!("{}\n", moonscope_process::visible(&line))
        };
        let lines: String = requests.iter().map(line).collect();
        Ok(format!("{lines}found {} active requests.\n", requests.len()))
    }
}
