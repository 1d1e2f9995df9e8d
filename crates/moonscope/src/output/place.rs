//! One place that data goes to: a file, stdout, a pipe, a device.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use moonscope_process::reason;
use moonscope_profile::WriteError;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::Existing;
use super::temporary::Temporary;
use crate::exit::{Code, Failure};

/// Where data goes.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// Standard output.
    Stdout,
    /// A file, which is whole or not there.
    File(PathBuf),
    /// A pipe or a device, open from the moment on at which it was checked: the reader of a pipe that is opened and closed
    /// again believes that this was all.
    Special(PathBuf, Arc<File>),
}

impl Place {
    /// Sees that data can go there. All that can be known to fail fails here.
    pub(super) fn check(path: &Path, existing: Existing) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdout);
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => return Err(failure(path, "is a directory")),
            Ok(_) if is_special(path) => {
                return Ok(Self::Special(path.to_owned(), Arc::new(open_special(path)?)));
            }
            Ok(_) if existing == Existing::Keep => return Err(exists(path)),
            _ => {}
        }
        // Trying is the only sure test of a directory: modes, ACLs, read-only mounts, quotas.
        Temporary::create(&real_path(path)).map_err(|err| {
            failure(path, format_args!("cannot write there: {}", reason(&err)))
                .with_remedy("give a file in a directory that exists and is writable")
        })?;
        Ok(Self::File(path.to_owned()))
    }

    /// Its path; `None`: stdout.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Stdout => None,
            Self::File(path) | Self::Special(path, _) => Some(path),
        }
    }

    /// The same under another name, if it is a file.
    pub(super) fn renamed(&self, name: impl Fn(&Path) -> PathBuf) -> Self {
        match self {
            Self::File(path) => Self::File(name(path)),
            other => other.clone(),
        }
    }

    /// Has data written there; how many bytes it was.
    pub(super) fn write(
        &self,
        existing: Existing,
        write: impl Fn(&mut dyn Write) -> Result<(), WriteError>,
    ) -> Result<u64, WriteError> {
        match self {
            Self::Stdout => write_stdout(write),
            Self::File(path) => write_file(path, existing, write),
            Self::Special(_, file) => counted(&**file, write),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path() {
            Some(path) => write!(f, "{}", path.display()),
            None => f.write_str("stdout"),
        }
    }
}

fn failure(path: &Path, what: impl fmt::Display) -> Failure {
    Failure::new(Code::Failed, format_args!("{}: {what}", path.display()))
}

fn exists(path: &Path) -> Failure {
    failure(path, "exists already").with_remedy("give another name, or --force to replace it")
}

/// Pipes, terminals and devices such as `/dev/null`: written to, never replaced.
pub(super) fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// How long the reader of a pipe may take to begin, if it was started just before (`cat pipe & moonscope record -o pipe`).
const READER: Duration = Duration::from_secs(1);

/// Opens a pipe or a character device. To open a pipe that nobody reads would wait until somebody does, which may be never.
fn open_special(path: &Path) -> Result<File, Failure> {
    let kind = fs::metadata(path).map(|found| found.file_type());
    let give_a_file = |what: &str| Err(failure(path, what).with_remedy("give the name of a file"));
    match kind {
        Ok(kind) if kind.is_block_device() => return give_a_file("is a disk, and would be overwritten"),
        Ok(kind) if kind.is_socket() => return give_a_file("is a socket"),
        _ => {}
    }
    let cannot = |err: io::Error| match err.raw_os_error() {
        // open(2): a pipe that no process has open for reading
        Some(libc::ENXIO) => failure(path, "is a pipe that nobody reads")
            .with_remedy("start whatever reads it first, or give the name of a file"),
        _ => failure(path, format_args!("cannot write there: {}", reason(&err))),
    };
    let patience = Instant::now() + READER;
    let file = loop {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        match OpenOptions::new().write(true).custom_flags(flags).open(path) {
            Ok(file) => break file,
            Err(err) if err.raw_os_error() == Some(libc::ENXIO) && Instant::now() < patience => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(err) => return Err(cannot(err)),
        }
    };
    // somebody reads it: from now on a write waits for that
    let flags = fcntl_getfl(&file).map_err(|err| cannot(err.into()))?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(|err| cannot(err.into()))?;
    Ok(file)
}

/// The file behind a symbolic link, so that the link stays when the file is replaced.
fn real_path(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn write_file(
    path: &Path,
    existing: Existing,
    write: impl Fn(&mut dyn Write) -> Result<(), WriteError>,
) -> Result<u64, WriteError> {
    let real = real_path(path);
    let temporary = Temporary::create(&real)?;
    let bytes = counted(&temporary.file, write)?;
    temporary.publish(&real, existing)?;
    Ok(bytes)
}

fn write_stdout(write: impl Fn(&mut dyn Write) -> Result<(), WriteError>) -> Result<u64, WriteError> {
    match counted(io::stdout().lock(), write) {
        // The reader has seen enough (`| head`): no failure of ours.
        Err(WriteError::Io(err)) if err.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        result => result,
    }
}

/// Writes all of it through a buffer; gives how much it was.
fn counted(
    out: impl Write,
    write: impl Fn(&mut dyn Write) -> Result<(), WriteError>,
) -> Result<u64, WriteError> {
    let mut out = Counted {
        out: BufWriter::with_capacity(1 << 16, out),
        bytes: 0,
    };
    write(&mut out)?;
    out.flush()?;
    Ok(out.bytes)
}

/// Counts what goes through its buffer.
struct Counted<W: Write> {
    out: BufWriter<W>,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let len = self.out.write(data)?;
        self.bytes += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path) -> String {
        let failure = Place::check(path, Existing::Replace).unwrap_err();
        failure.lines().join("\n")
    }

    #[test]
    fn a_pipe_is_written_to_if_somebody_reads_it_and_refused_if_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe.folded");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let words = refused(&path);
        assert!(words.contains("is a pipe that nobody reads"), "{words}");
        let reading = path.clone();
        let reader = thread::spawn(move || fs::read_to_string(reading).unwrap());
        let place = loop {
            // it may begin later than we are patient
            if let Ok(place) = Place::check(&path, Existing::Keep) {
                break place;
            }
        };
        // more than a pipe holds: it must wait for the reader
        let text = "main;work 1\n".repeat(100_000);
        let written = place.write(Existing::Keep, |out| Ok(out.write_all(text.as_bytes())?));
        drop(place);
        assert_eq!(written.unwrap(), text.len() as u64);
        assert!(reader.join().unwrap() == text);
    }

    #[test]
    fn a_socket_is_refused_and_devices_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket.folded");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(refused(&path).contains("is a socket"), "{}", refused(&path));
        assert!(matches!(
            Place::check(Path::new("/dev/null"), Existing::Keep),
            Ok(Place::Special(..))
        ));
    }
}
