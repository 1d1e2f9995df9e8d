//! `ngx_http_request_t` (src/http/ngx_http_request.h).
//!
//! Its beginning, up to `headers_in`, never changed since 1.9. Behind that everything moves with the version, patches and build
//! options; but these stand side by side in all of them, in this order:
//!
//! ```text
//! time_t start_sec; ngx_msec_t start_msec; ngx_uint_t method, http_version;
//! ngx_str_t request_line, uri, args, exten, unparsed_uri, method_name, http_protocol;
//! ```
//!
//! The table of variables tells where `uri`, `args`, `unparsed_uri` and `http_protocol` are: they must be as far apart as that.
//! Others are read by the code of variables and of exported functions, and what several read must be the same.

use crate::code::{self, Access};
use crate::error::NginxError;
use crate::image::Image;
use crate::setup::Code;
use crate::variables::Variables;

pub(crate) const SIGNATURE: u64 = 0;
pub(crate) const CONNECTION: u64 = 8;
pub(crate) const MAIN_CONF: u64 = 24;
pub(crate) const UPSTREAM: u64 = 72;
pub(crate) const POOL: u64 = 88;
pub(crate) const HEADERS_IN: u64 = 104;
/// "HTTP", little endian
pub(crate) const HTTP: u32 = 0x5054_5448;

/// Where fields of a request are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestLayout {
    pub(crate) host: u64,
    pub(crate) status: u64,
    pub(crate) err_status: u64,
    pub(crate) start_sec: u64,
    pub(crate) start_msec: u64,
    pub(crate) http_version: u64,
    pub(crate) uri: u64,
    pub(crate) args: u64,
    pub(crate) unparsed_uri: u64,
    pub(crate) method_name: u64,
    pub(crate) main: u64,
    pub(crate) phase_handler: u64,
    pub(crate) count: u64,
    /// `cmcf->phase_engine.handlers`
    pub(crate) engine: u64,
}

impl RequestLayout {
    /// Finds them in the program.
    pub(crate) fn find(image: &Image, variables: &Variables) -> Result<Self, NginxError> {
        let uri = data(variables, "uri")?;
        let data = |name| data(variables, name);
        let side_by_side = [
            ("ngx_http_request_t.args", data("args")?, uri + 16),
            ("ngx_http_request_t.unparsed_uri", data("request_uri")?, uri + 48),
            (
                "ngx_http_request_t.http_protocol",
                data("server_protocol")?,
                uri + 80,
            ),
        ];
        let (start_sec, start_msec, http_version) = (uri - 48, uri - 40, uri - 24);
        for (field, is, should) in side_by_side {
            agree(field, is, should)?;
        }
        let host = data("http_host")?;

        let time = of_variable(image, variables, "request_time")?;
        read_in(&time, "ngx_http_request_t.start_sec", start_sec)?;
        read_in(&time, "ngx_http_request_t.start_msec", start_msec)?;

        let (main, method_name) = main_and_method(&of_variable(image, variables, "request_method")?)?;
        agree("ngx_http_request_t.method_name", method_name, uri + 64)?;

        let (err_status, status) = statuses(&of_variable(image, variables, "status")?, http_version)?;
        let (phase_handler, engine) = phases(&of_symbol(image, "ngx_http_core_run_phases")?)?;
        Ok(Self {
            host,
            status,
            err_status,
            start_sec,
            start_msec,
            http_version,
            uri,
            args: uri + 16,
            unparsed_uri: uri + 48,
            method_name,
            main,
            phase_handler,
            count: count(&of_symbol(image, "ngx_http_free_request")?, phase_handler)?,
            engine,
        })
    }

    pub(super) fn fields(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("ngx_http_request_t.headers_in.host", self.host),
            ("ngx_http_request_t.headers_out.status", self.status),
            ("ngx_http_request_t.err_status", self.err_status),
            ("ngx_http_request_t.start_sec", self.start_sec),
            ("ngx_http_request_t.http_version", self.http_version),
            ("ngx_http_request_t.uri", self.uri),
            ("ngx_http_request_t.method_name", self.method_name),
            ("ngx_http_request_t.main", self.main),
            ("ngx_http_request_t.phase_handler", self.phase_handler),
            ("ngx_http_request_t.count", self.count),
            ("ngx_http_core_main_conf_t.phase_engine.handlers", self.engine),
        ]
    }
}

/// The offset that a variable has as its data.
fn data(variables: &Variables, name: &'static str) -> Result<u64, NginxError> {
    match variables.get(name) {
        Some(variable) if (HEADERS_IN..4096).contains(&variable.data) => Ok(variable.data),
        Some(variable) => Err(NginxError::layout(
            "ngx_http_request_t",
            format!("${name} has the offset {}", variable.data),
        )),
        None => Err(NginxError::layout(
            "ngx_http_request_t",
            format!("the program has no table of variables with ${name}"),
        )),
    }
}

fn of_variable(image: &Image, variables: &Variables, name: &'static str) -> Result<Vec<Access>, NginxError> {
    let variable = variables.get(name);
    let code = variable.and_then(|variable| image.code(variable.get));
    code.map(code::accesses)
        .ok_or_else(|| NginxError::layout("ngx_http_request_t", format!("there is no code for ${name}")))
}

fn of_symbol(image: &Image, name: &'static str) -> Result<Vec<Access>, NginxError> {
    let code = image.symbol(name).and_then(|addr| image.code(addr));
    code.map(code::accesses).ok_or_else(|| {
        NginxError::layout(
            "ngx_http_request_t",
            format!("the program has no function {name}"),
        )
    })
}

fn agree(field: &'static str, one: u64, other: u64) -> Result<(), NginxError> {
    if one == other {
        return Ok(());
    }
    Err(NginxError::layout(
        field,
        format!("one witness says {one}, another {other}"),
    ))
}

fn read_in(accesses: &[Access], field: &'static str, offset: u64) -> Result<(), NginxError> {
    if fields_of_request(accesses).any(|at| at == offset) {
        return Ok(());
    }
    let read: Vec<u64> = fields_of_request(accesses).collect();
    Err(NginxError::layout(
        field,
        format!("it should be at {offset}, and these are read: {read:?}"),
    ))
}

fn fields_of_request(accesses: &[Access]) -> impl Iterator<Item = u64> {
    accesses.iter().filter_map(|access| match access.path[..] {
        [offset] => Some(u64::from(offset)),
        _ => None,
    })
}

/// `$request_method` is `r->main->method_name`.
fn main_and_method(accesses: &[Access]) -> Result<(u64, u64), NginxError> {
    let deeper: Vec<(u64, u64)> = accesses
        .iter()
        .filter_map(|access| match access.path[..] {
            [main, name] => Some((main.into(), name.into())),
            _ => None,
        })
        .collect();
    let main = deeper.first().map(|(main, _)| *main);
    // the address of the name, and its length before that
    let name = deeper.iter().map(|(_, name)| *name).min();
    match (main, name) {
        (Some(main), Some(name)) if deeper.iter().all(|(at, is)| *at == main && *is - name <= 8) => {
            Ok((main, name))
        }
        _ => Err(NginxError::layout(
            "ngx_http_request_t.main",
            format!("$request_method reads {deeper:?}"),
        )),
    }
}

/// `$status` is `r->err_status`, else `r->headers_out.status`, else 9 for HTTP/0.9.
fn statuses(accesses: &[Access], http_version: u64) -> Result<(u64, u64), NginxError> {
    let mut read: Vec<u64> = Vec::new();
    for offset in fields_of_request(accesses).filter(|&at| at != POOL && at != http_version) {
        if !read.contains(&offset) {
            read.push(offset);
        }
    }
    match read[..] {
        // headers_out stands before uri, err_status behind it
        [err_status, status] if status < http_version && err_status > http_version => {
            Ok((err_status, status))
        }
        _ => Err(NginxError::layout(
            "ngx_http_request_t.headers_out.status",
            format!("$status reads {read:?}"),
        )),
    }
}

/// `ngx_http_core_run_phases` begins with `cmcf->phase_engine.handlers` and goes on with `ph[r->phase_handler]`.
fn phases(accesses: &[Access]) -> Result<(u64, u64), NginxError> {
    let handler = fields_of_request(accesses).find(|&at| at > HEADERS_IN);
    let reads_conf = fields_of_request(accesses).any(|at| at == MAIN_CONF);
    // the main configuration of a module is read by an index, which is not followed; `handlers` never moved
    const ENGINE: u64 = 40;
    match handler {
        Some(handler) if reads_conf => Ok((handler, ENGINE)),
        _ => Err(NginxError::layout(
            "ngx_http_request_t.phase_handler",
            "ngx_http_core_run_phases does not read it",
        )),
    }
}

/// `ngx_http_free_request` takes `r->cleanup` and clears it; behind it is `unsigned count:16`.
fn count(accesses: &[Access], phase_handler: u64) -> Result<u64, NginxError> {
    let mut cleared = accesses
        .iter()
        .filter(|access| access.is_cleared && access.size == 8);
    let cleanup = cleared.find_map(|access| match access.path[..] {
        [offset] if u64::from(offset) > phase_handler => Some(u64::from(offset)),
        _ => None,
    });
    cleanup.map(|cleanup| cleanup + 8).ok_or_else(|| {
        NginxError::layout(
            "ngx_http_request_t.count",
            "ngx_http_free_request clears no cleanup",
        )
    })
}
