//! nginx inside a process, seen from outside: its modules, connections, requests, shared memory and pools.
//!
//! Nothing is probed and nothing is stopped: memory is read ([`moonscope_process::RemoteMemory`]) and the file that the
//! process runs. Where a field is (its offset) differs between versions, patch sets and build options, also of one version;
//! so no offset is taken from a table of versions. It is read out of the very binary: nginx has a table of its variables, which
//! says where `$uri` and the like are in a request, and the code of `$status`, `$request_time` and others says the rest
//! ([`Layout`]). What several of these say must agree, and each request that is shown must look like one.
//!
//! Names of structures and fields are those of nginx's sources.

mod block;
mod chain;
mod code;
mod connections;
mod dicts;
mod error;
mod filters;
mod handlers;
mod image;
mod layout;
mod modules;
mod phases;
mod pools;
mod requests;
mod setup;
mod sockets;
mod timer_handler;
mod timers;
mod variables;
mod worker;
mod zones;

pub use connections::{Connection, ConnectionKind, Connections};
pub use dicts::{Dict, DictKey, DictValue, Item, ValueKind};
pub use error::NginxError;
pub use filters::Filter;
pub use handlers::{Function, Handlers};
pub use image::Image;
pub use layout::Layout;
pub use modules::Module;
pub use phases::Phase;
pub use pools::Pool;
pub use requests::Request;
pub use requests::Requests;
pub use setup::Chain;
pub use sockets::{SocketPool, SocketPools};
pub use timer_handler::timer_handlers;
pub use timers::Timers;
pub use worker::{Role, Worker};
pub use zones::{Owner, Slot, Zone};
