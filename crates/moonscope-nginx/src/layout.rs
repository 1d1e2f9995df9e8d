//! Where the fields are that are read, in bytes from the beginning of their structure.
//!
//! What is the same in all versions from 1.13 on is a constant here; the rest is found in the binary and in the live
//! process, and cross-checked ([`cycle`], [`connection`], [`request`]).

pub(crate) mod connection;
pub(crate) mod cycle;
pub(crate) mod request;

pub(crate) use connection::ConnectionLayout;
pub(crate) use cycle::CycleLayout;
pub(crate) use request::RequestLayout;

/// Offsets of one nginx binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(crate) cycle: CycleLayout,
    pub(crate) connection: ConnectionLayout,
    /// `None`: it was built without HTTP.
    pub(crate) request: Option<RequestLayout>,
}

impl Layout {
    /// The offsets by name, as `moonscope doctor` and reports of defects show them.
    pub fn fields(&self) -> Vec<(&'static str, u64)> {
        let mut all = self.cycle.fields();
        all.extend(self.connection.fields());
        all.extend(self.request.iter().flat_map(RequestLayout::fields));
        all
    }
}
