//! Exit codes, and how a failure is told: one line that says what happened, one that says what to do.

use std::fmt;
use std::process::ExitCode;

use moonscope_profile::visible;

/// Says a line on stderr. That nobody reads it any more (`2>&1 | head -1`) is no reason to end: `eprintln!` would panic.
macro_rules! tell {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}
pub(crate) use tell;

/// What the exit status of the command means. `docs/exit-codes.md` says it to users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Everything was done.
    Done = 0,
    /// It could not be done.
    Failed = 1,
    /// The command line does not make sense.
    Usage = 2,
    /// A privilege or a kernel feature is missing.
    NotPermitted = 3,
    /// There is no such target, or it ended before anything was seen.
    NoTarget = 4,
    /// The target was there but no sample came.
    NoSamples = 5,
    /// Files were written, but something is missing in them.
    Partial = 6,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code as u8)
    }
}

/// A failure: what happened, what to do about it, and the exit code.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    what: String,
    remedy: Option<String>,
    /// What else failed.
    others: Vec<Failure>,
}

impl Failure {
    /// A failure with this exit code; `what` is lower case, the object first, then the cause.
    pub fn new(code: Code, what: impl fmt::Display) -> Self {
        Self {
            code,
            what: what.to_string(),
            remedy: None,
            others: Vec::new(),
        }
    }

    /// Both: what the other one says comes after it.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.others.push(other);
        self
    }

    /// The same with another exit code.
    #[must_use]
    pub fn with_code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// Its exit code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.remedy = Some(match self.remedy {
            Some(before) => format!("{before}\n{remedy}"),
            None => remedy.to_string(),
        });
        self
    }

    /// Prints it to stderr and gives the exit status. A path or name in it may hold anything: it stays one
    /// line and gives the terminal no orders.
    pub fn report(&self) -> ExitCode {
        for line in self.lines() {
            tell!("{line}");
        }
        self.code.into()
    }

    /// The lines of it.
    pub fn lines(&self) -> Vec<String> {
        let what = format!("moonscope: {}", visible(&self.what));
        let remedies = self.remedy.iter().flat_map(|remedy| remedy.lines());
        std::iter::once(what)
            .chain(remedies.map(|line| format!("  {}", visible(line))))
            .chain(self.others.iter().flat_map(Self::lines))
            .collect()
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(err: E) -> Self {
        let mut what = err.to_string();
        let mut source = err.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !what.ends_with(&text) {
                what.push_str(": ");
                what.push_str(&text);
            }
            source = cause.source();
        }
        Self::new(Code::Failed, what)
    }
}
