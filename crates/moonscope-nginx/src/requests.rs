//! Requests in flight.

use std::time::Duration;

use moonscope_process::RemoteMemory;

use crate::block::Block;
use crate::connections::{Connection, ConnectionKind};
use crate::error::NginxError;
use crate::layout::RequestLayout;
use crate::layout::connection::DATA;
use crate::layout::request::{self, HTTP};
use crate::phases::Phase;
use crate::pools::Pool;
use crate::worker::Worker;

/// `count` of a request is 1, and 1 more for each subrequest and wait; no request has as many.
const MAX_COUNT: u16 = 10_000;

/// A main request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its address, which tells it from others of this worker.
    pub addr: u64,
    /// Its connection.
    pub connection: Connection,
    /// `GET`. Any bytes, as all that follows.
    pub method: Vec<u8>,
    /// As it was sent: path and arguments. Empty until the request line was read.
    pub unparsed_uri: Vec<u8>,
    /// The path now, after rewrites.
    pub uri: Vec<u8>,
    /// The arguments now.
    pub args: Vec<u8>,
    /// The header `Host`.
    pub host: Vec<u8>,
    /// The status of the answer; 0: there is none yet.
    pub status: u64,
    /// Since it began, by the clock on the wall.
    pub age: Duration,
    /// Where it is in the engine; `None`: it has not begun there, or has ended, or the place is not known.
    pub phase: Option<Phase>,
    /// How often it is referred to (`count`).
    pub count: u16,
    /// Is it passed to another server?
    pub has_upstream: bool,
    /// Its memory; `None` where it could not be read.
    pub pool: Option<Pool>,
}

/// Requests in flight, and what was left out.
#[derive(Debug, Default)]
pub struct Requests {
    /// The oldest first.
    pub found: Vec<Request>,
    /// Connections with HTTP/2 or HTTP/3, whose requests are not looked for.
    pub multiplexed: u64,
    /// Requests that changed while they were read.
    pub torn: u64,
}

impl<M: RemoteMemory> Worker<M> {
    /// The requests of HTTP/1 that this worker serves now.
    pub fn requests(&self) -> Result<Requests, NginxError> {
        let Some(layout) = &self.layout.request else {
            return Ok(Requests::default());
        };
        let phases = self.phases();
        let mut requests = Requests::default();
        for connection in self.connections()?.used {
            match connection.kind {
                ConnectionKind::Multiplexed => requests.multiplexed += 1,
                ConnectionKind::Request => match self.request(connection, layout, &phases) {
                    Some(request) => requests.found.push(request),
                    None => requests.torn += 1,
                },
                _ => {}
            }
        }
        requests
            .found
            .sort_by_key(|request| std::cmp::Reverse(request.age));
        Ok(requests)
    }

    fn request(&self, connection: Connection, layout: &RequestLayout, phases: &[Phase]) -> Option<Request> {
        let addr = connection.block.word(DATA);
        let size = layout.count.max(layout.phase_handler).max(layout.err_status) + 8;
        let block = Block::read(&self.memory, addr, size).ok()?;
        let main = block.word(layout.main);
        let main_of_main = self.memory.read_u64(main.wrapping_add(layout.main)).ok();
        let count = block.short(layout.count);
        let is_request = block.word(request::SIGNATURE) as u32 == HTTP
            && block.word(request::CONNECTION) == connection.block.addr
            && main_of_main == Some(main)
            && count > 0
            && count < MAX_COUNT;
        if !is_request {
            return None;
        }
        let text = |offset| block.string(&self.memory, offset);
        // ngx_table_elt_t: hash, key, value
        let host = match block.word(layout.host) {
            0 => Vec::new(),
            header => Block::read(&self.memory, header, 40)
                .map(|header| header.string(&self.memory, 24))
                .unwrap_or_default(),
        };
        let started = Duration::from_secs(block.word(layout.start_sec))
            + Duration::from_millis(block.word(layout.start_msec).min(999));
        let err_status = block.word(layout.err_status);
        Some(Request {
            addr,
            method: text(layout.method_name),
            unparsed_uri: text(layout.unparsed_uri),
            uri: text(layout.uri),
            args: text(layout.args),
            host,
            status: match err_status {
                0 => block.word(layout.status),
                error => error,
            },
            age: self.looked_at().saturating_sub(started),
            phase: usize::try_from(block.word(layout.phase_handler))
                .ok()
                .and_then(|place| phases.get(place).copied()),
            count,
            has_upstream: block.word(request::UPSTREAM) != 0,
            pool: Pool::read(&self.memory, block.word(request::POOL)).ok(),
            connection,
        })
    }
}
