//! `ngx_connection_t` (src/core/ngx_connection.h).
//!
//! From `data` to `addr_text` nothing changed from 1.9 on. What is behind that depends on version and build options.

use moonscope_process::RemoteMemory;

use super::cycle::CycleLayout;
use crate::block::Block;
use crate::code;
use crate::error::NginxError;
use crate::image::Image;
use crate::setup::Code;
use crate::variables::Variables;

pub(crate) const DATA: u64 = 0;
pub(crate) const READ: u64 = 8;
pub(crate) const WRITE: u64 = 16;
pub(crate) const FD: u64 = 24;
pub(crate) const LISTENING: u64 = 64;
pub(crate) const SENT: u64 = 72;
pub(crate) const LOG: u64 = 80;
pub(crate) const POOL: u64 = 88;
pub(crate) const ADDR_TEXT: u64 = 120;
/// sizeof(ngx_event_t), in all builds with the usual events
const EVENT_SIZE: u64 = 96;
/// No build has less, or more, than this.
const SIZES: std::ops::Range<u64> = 160..512;

/// Where fields of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionLayout {
    /// sizeof(ngx_connection_t)
    pub(crate) size: u64,
    /// Requests that were made in it; `None` where it could not be found.
    pub(crate) requests: Option<u64>,
    /// TLS; `None` where it could not be found, or it was built without.
    pub(crate) ssl: Option<u64>,
}

/// The size of a connection: number n has read event n (ngx_event_process_init, src/event/ngx_event.c).
pub(super) fn size(memory: &impl RemoteMemory, connections: u64, read_events: u64) -> Option<u64> {
    let is_size = |size: &u64| {
        (0..4).all(|number| {
            let read = connections.wrapping_add(number * size + READ);
            memory.read_u64(read).ok() == Some(read_events.wrapping_add(number * EVENT_SIZE))
        })
    };
    SIZES.step_by(8).find(is_size)
}

impl ConnectionLayout {
    /// Finds the size in the array of connections, the others in what variables read.
    pub(crate) fn find(
        memory: &impl RemoteMemory,
        cycle: &Block,
        layout: &CycleLayout,
        image: &Image,
        variables: &Variables,
    ) -> Result<Self, NginxError> {
        let connections = cycle.word(layout.connections);
        let read_events = cycle.word(layout.read_events);
        let size = size(memory, connections, read_events).ok_or_else(|| {
            NginxError::layout("sizeof(ngx_connection_t)", "no stride leads from event to event")
        })?;
        // the one field of the connection that the code of a variable reads
        let read_by = |name: &str| {
            let code = image.code(variables.get(name)?.get)?;
            let mut offsets: Vec<u64> = code::accesses(code)
                .iter()
                .filter_map(|access| match access.path[..] {
                    // of the request: its connection
                    [8, offset] => Some(u64::from(offset)),
                    _ => None,
                })
                .filter(|offset| *offset < size)
                .collect();
            offsets.dedup();
            (offsets.len() == 1).then(|| offsets[0])
        };
        Ok(Self {
            size,
            requests: read_by("connection_requests"),
            ssl: read_by("scheme"),
        })
    }

    pub(super) fn fields(&self) -> Vec<(&'static str, u64)> {
        let size = ("sizeof(ngx_connection_t)", self.size);
        let requests = self.requests.map(|at| ("ngx_connection_t.requests", at));
        let ssl = self.ssl.map(|at| ("ngx_connection_t.ssl", at));
        std::iter::once(size).chain(requests).chain(ssl).collect()
    }
}
