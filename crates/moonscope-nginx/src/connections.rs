//! Connections of a worker (`cycle->connections`), and what each is for.

use moonscope_process::{ProcessError, RemoteMemory};

use crate::block::Block;
use crate::error::NginxError;
use crate::layout::connection::{ADDR_TEXT, DATA, FD, LISTENING, LOG, POOL, SENT};
use crate::layout::request;
use crate::worker::Worker;

/// Connections that are copied at once.
const AT_ONCE: u64 = 512;
/// `worker_connections` of this many is 240 MB of connections alone.
const MAX_CONNECTIONS: u64 = 1 << 20;
/// `ngx_log_t.action` (src/core/ngx_log.h)
const LOG_ACTION: u64 = 64;
const MAX_ACTION: usize = 128;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectionKind {
    /// Accepts others: a listening socket, or what stands for one.
    Listening,
    /// A client's, with a request of HTTP/1 in it.
    Request,
    /// A client's, with HTTP/2 or HTTP/3 in it.
    Multiplexed,
    /// A client's, between two requests, or before its first.
    Waiting,
    /// To another server, for a request of a client.
    Upstream,
    /// Another: to another server and kept for the next request, of stream or mail, a channel, a resolver.
    Other,
}

impl ConnectionKind {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 6] = [
        Self::Listening,
        Self::Request,
        Self::Multiplexed,
        Self::Waiting,
        Self::Upstream,
        Self::Other,
    ];

    /// For people and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Request => "request",
            Self::Multiplexed => "http2_or_3",
            Self::Waiting => "waiting",
            Self::Upstream => "upstream",
            Self::Other => "other",
        }
    }
}

/// A connection that is in use.
#[derive(Clone, Debug)]
pub struct Connection {
    pub(crate) block: Block,
    /// What it is for.
    pub kind: ConnectionKind,
    /// Its descriptor.
    pub fd: i32,
    /// Requests made in it so far; `None` where that field could not be found.
    pub requests: Option<u64>,
    /// Is it TLS? `None`: that field could not be found, or this nginx has no TLS.
    pub is_tls: Option<bool>,
    /// Bytes sent.
    pub sent: u64,
    /// The other side, as nginx logs it. Any bytes.
    pub peer: Vec<u8>,
    /// What it is doing, in the words of the error log; empty: nothing is said.
    pub action: Vec<u8>,
}

/// The connections of a worker.
#[derive(Debug)]
pub struct Connections {
    /// `worker_connections`.
    pub max: u64,
    /// Free ones, as nginx counts them.
    pub free: u64,
    /// Those in use.
    pub used: Vec<Connection>,
}

impl<M: RemoteMemory> Worker<M> {
    /// All connections in use. They change while they are read: each is copied at once, and is what it was then.
    pub fn connections(&self) -> Result<Connections, NginxError> {
        let cycle = self.cycle()?;
        let max = cycle.word(self.layout.cycle.connection_n);
        let first = cycle.word(self.layout.cycle.connections);
        let size = self.layout.connection.size;
        let mut used = Vec::new();
        let mut number = 0;
        while number < max.min(MAX_CONNECTIONS) {
            let count = AT_ONCE.min(max - number);
            let all = Block::read(&self.memory, first.wrapping_add(number * size), count * size)?;
            for at in (0..count).map(|each| each * size) {
                if all.int(at + FD) != -1 {
                    used.extend(self.connection(all.at(at), size)?);
                }
            }
            number += count;
        }
        Ok(Connections {
            max,
            free: cycle.word(self.layout.cycle.free_connection_n),
            used,
        })
    }

    fn connection(&self, addr: u64, size: u64) -> Result<Option<Connection>, ProcessError> {
        let block = Block::read(&self.memory, addr, size)?;
        let fd = block.int(FD);
        if fd == -1 {
            // closed meanwhile
            return Ok(None);
        }
        let kind = self.kind_of(&block);
        let field = |at: Option<u64>| at.map(|at| block.word(at));
        Ok(Some(Connection {
            kind,
            fd,
            requests: field(self.layout.connection.requests),
            is_tls: field(self.layout.connection.ssl).map(|ssl| ssl != 0),
            sent: block.word(SENT),
            peer: block.string(&self.memory, ADDR_TEXT),
            action: self.action(block.word(LOG)),
            block,
        }))
    }

    fn kind_of(&self, connection: &Block) -> ConnectionKind {
        let data = connection.word(DATA);
        let is_client = connection.word(LISTENING) != 0;
        // ngx_event_process_init gives a listening socket a connection without a pool; its clients have one
        if is_client && connection.word(POOL) == 0 {
            return ConnectionKind::Listening;
        }
        let first = Block::read(&self.memory, data, 16).ok();
        let is_request = first
            .as_ref()
            .is_some_and(|data| data.word(0) as u32 == request::HTTP);
        let owner = first.as_ref().map_or(0, |data| data.word(request::CONNECTION));
        match (is_client, is_request) {
            (_, true) if owner == connection.addr => ConnectionKind::Request,
            (_, true) => ConnectionKind::Upstream,
            // ngx_http_v2_connection_t and ngx_http_v3_session_t begin with their connection
            (true, false) if first.is_some_and(|data| data.word(0) == connection.addr) => {
                ConnectionKind::Multiplexed
            }
            (true, false) => ConnectionKind::Waiting,
            (false, false) => ConnectionKind::Other,
        }
    }

    fn action(&self, log: u64) -> Vec<u8> {
        let action = log
            .checked_add(LOG_ACTION)
            .filter(|_| log != 0)
            .and_then(|at| self.memory.read_u64(at).ok())
            .filter(|&action| action != 0);
        action
            .and_then(|action| self.memory.read_cstr(action, MAX_ACTION).ok())
            .unwrap_or_default()
    }
}
