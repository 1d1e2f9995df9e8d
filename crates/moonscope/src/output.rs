//! Files that are whole or not there: written beside their place under another name, then renamed.
//!
//! Everything that can be known to fail (unknown ending, existing file, unwritable directory) fails in
//! [`Outputs::check`], before anything is recorded.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use moonscope_profile::{Format, Profile, Utc, WriteError, WriteOptions};

use crate::exit::{Code, Failure};

/// Whether a file that exists may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is an error.
    Keep,
    /// It is replaced once the new one is whole.
    Replace,
}

impl From<bool> for Existing {
    /// What `--force` means.
    fn from(force: bool) -> Self {
        if force { Self::Replace } else { Self::Keep }
    }
}

/// Where data goes, each place with its format.
#[derive(Clone, Debug)]
pub struct Outputs {
    places: Vec<(Place, Format)>,
    existing: Existing,
    /// How graphs and tables show the data.
    pub options: WriteOptions,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Stdout,
    File(PathBuf),
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its name; `None` for stdout.
    pub path: Option<PathBuf>,
    /// Its length.
    pub bytes: u64,
}

impl Outputs {
    /// Checks that each of these files can be written. The ending picks the format.
    pub fn check(paths: &[PathBuf], existing: impl Into<Existing>) -> Result<Self, Failure> {
        Self::check_as(paths, None, existing)
    }

    /// The same with a format for those that have no ending: `-` for stdout, and devices.
    pub fn check_as(
        paths: &[PathBuf],
        format: Option<Format>,
        existing: impl Into<Existing>,
    ) -> Result<Self, Failure> {
        let existing = existing.into();
        let mut places = Vec::new();
        for path in paths {
            let place = if path.as_os_str() == "-" {
                Place::Stdout
            } else {
                Place::File(path.clone())
            };
            if places.iter().any(|(other, _)| *other == place) {
                return Err(Failure::new(
                    Code::Usage,
                    format_args!("{}: given twice", path.display()),
                ));
            }
            let format = format_of(path, &place, format)?;
            match &place {
                Place::Stdout if format == Format::Pprof && io::stdout().is_terminal() => {
                    let what = "pprof is binary data: not written to a terminal";
                    return Err(
                        Failure::new(Code::Usage, what).with_remedy("redirect it, or use -o FILE.pb.gz")
                    );
                }
                Place::Stdout => {}
                Place::File(path) => check_file(path, existing)?,
            }
            places.push((place, format));
        }
        Ok(Self {
            places,
            existing,
            options: WriteOptions::default(),
        })
    }

    /// The formats, in the order of the paths.
    pub fn formats(&self) -> impl Iterator<Item = Format> {
        self.places.iter().map(|(_, format)| *format)
    }

    /// The same under other names.
    pub fn renamed(&self, name: impl Fn(&Path) -> PathBuf) -> Self {
        let renamed = |(place, format): &(Place, Format)| {
            let place = match place {
                Place::Stdout => Place::Stdout,
                Place::File(path) => Place::File(name(path)),
            };
            (place, *format)
        };
        Self {
            places: self.places.iter().map(renamed).collect(),
            existing: self.existing,
            options: self.options.clone(),
        }
    }

    /// Writes a profile to all places.
    pub fn write_all(&self, profile: &Profile) -> Result<Vec<Written>, Failure> {
        self.write_each(|format, out| format.write(profile, &self.options, out))
    }

    /// Lets `write` write each place. When one fails the others are written all the same; the failure
    /// names them.
    pub fn write_each(
        &self,
        write: impl Fn(Format, &mut dyn Write) -> Result<(), WriteError>,
    ) -> Result<Vec<Written>, Failure> {
        let mut written = Vec::new();
        let mut failed = None;
        for (place, format) in &self.places {
            let write = |out: &mut dyn Write| write(*format, out);
            let result = match place {
                Place::Stdout => write_stdout(write),
                Place::File(path) => write_file(path, self.existing, write),
            };
            match result {
                Ok(file) => written.push(file),
                Err(err) => {
                    failed.get_or_insert((place, err));
                }
            }
        }
        match failed {
            None => Ok(written),
            Some((place, err)) => Err(failure(place, &err, &written)),
        }
    }
}

fn format_of(path: &Path, place: &Place, format: Option<Format>) -> Result<Format, Failure> {
    match (place, format, Format::from_path(path)) {
        (Place::File(_), _, Ok(format)) | (_, Some(format), _) => Ok(format),
        (Place::Stdout, None, _) => {
            let what = "stdout has no ending that would tell the format";
            Err(Failure::new(Code::Usage, what).with_remedy("add --to FORMAT (see moonscope list formats)"))
        }
        (Place::File(_), None, Err(unknown)) => Err(Failure::new(Code::Usage, unknown)),
    }
}

fn check_file(path: &Path, existing: Existing) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(Failure::new(
                Code::Failed,
                format_args!("{}: is a directory", path.display()),
            ));
        }
        Ok(_) if is_special(path) => return Ok(()),
        Ok(_) if existing == Existing::Keep => return Err(exists(path)),
        _ => {}
    }
    // Trying is the only sure test of a directory: modes, ACLs, read-only mounts, quotas.
    let real = real_path(path);
    Temporary::create(&real).map(drop).map_err(|err| {
        let what = format!("{}: cannot write there: {err}", path.display());
        Failure::new(Code::Failed, what).with_remedy("give a file in a directory that exists and is writable")
    })
}

fn exists(path: &Path) -> Failure {
    Failure::new(Code::Failed, format_args!("{}: exists already", path.display()))
        .with_remedy("give another name, or --force to replace it")
}

/// Pipes, terminals and devices such as `/dev/null`: written to, never replaced.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// The file behind a symbolic link, so that the link stays when the file is replaced.
fn real_path(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// A file with a name that nobody waits for. Removed unless it is published.
struct Temporary {
    file: File,
    path: PathBuf,
}

impl Temporary {
    fn create(target: &Path) -> io::Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // Room for what is added, in names of up to 255 bytes.
        let name: String = name.chars().take(50).collect();
        for nr in 0..100 {
            let path = target.with_file_name(format!(".{name}.{}-{nr}.tmp", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { file, path }),
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                Err(err) => return Err(err),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Gives the file its name.
    fn publish(self, target: &Path, existing: Existing) -> io::Result<()> {
        if existing == Existing::Replace {
            return fs::rename(&self.path, target);
        }
        // A link, unlike a rename, fails when the name is taken, even if that happened just now.
        match fs::hard_link(&self.path, target) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Err(err),
            // File systems without links, such as FAT.
            Err(_) if fs::symlink_metadata(target).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(&self.path, target),
            Ok(()) => Ok(()),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already after a rename.
        let _ = fs::remove_file(&self.path);
    }
}

fn write_file(
    path: &Path,
    existing: Existing,
    write: impl Fn(&mut dyn Write) -> Result<(), WriteError>,
) -> Result<Written, WriteError> {
    if is_special(path) {
        let mut out = Counted::new(OpenOptions::new().write(true).open(path)?);
        write(&mut out)?;
        return Ok(Written {
            path: Some(path.to_owned()),
            bytes: out.finish()?,
        });
    }
    let real = real_path(path);
    let temporary = Temporary::create(&real)?;
    let bytes = {
        let mut out = Counted::new(&temporary.file);
        write(&mut out)?;
        out.finish()?
    };
    temporary.publish(&real, existing)?;
    Ok(Written {
        path: Some(path.to_owned()),
        bytes,
    })
}

fn write_stdout(write: impl Fn(&mut dyn Write) -> Result<(), WriteError>) -> Result<Written, WriteError> {
    let mut out = Counted::new(io::stdout().lock());
    let result = write(&mut out).and_then(|()| Ok(out.finish()?));
    match result {
        Ok(bytes) => Ok(Written { path: None, bytes }),
        // The reader has seen enough (`| head`): no failure of ours.
        Err(WriteError::Io(err)) if err.kind() == io::ErrorKind::BrokenPipe => {
            Ok(Written { path: None, bytes: 0 })
        }
        Err(err) => Err(err),
    }
}

/// Counts what goes through its buffer.
struct Counted<W: Write> {
    out: BufWriter<W>,
    bytes: u64,
}

impl<W: Write> Counted<W> {
    fn new(out: W) -> Self {
        Self {
            out: BufWriter::with_capacity(1 << 16, out),
            bytes: 0,
        }
    }

    fn finish(&mut self) -> io::Result<u64> {
        self.out.flush()?;
        Ok(self.bytes)
    }
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

fn failure(place: &Place, err: &WriteError, written: &[Written]) -> Failure {
    let name = match place {
        Place::Stdout => "stdout".to_owned(),
        Place::File(path) => path.display().to_string(),
    };
    let (code, what, remedy) = match err {
        WriteError::Io(err) if err.kind() == io::ErrorKind::AlreadyExists => (
            Code::Failed,
            "exists already".to_owned(),
            "give another name, or --force to replace it",
        ),
        WriteError::Io(err) if err.kind() == io::ErrorKind::StorageFull => (
            Code::Failed,
            format!("cannot write: {err}"),
            "free some space, or write to another file system",
        ),
        WriteError::Empty => (Code::NoSamples, err.to_string(), ""),
        WriteError::NoSuchValue { .. } | WriteError::NoDiff { .. } => (Code::Usage, err.to_string(), ""),
        err => (Code::Failed, with_causes(err), ""),
    };
    let kept: Vec<_> = written.iter().filter_map(|file| file.path.as_deref()).collect();
    let mut remedies = Vec::new();
    if !remedy.is_empty() {
        remedies.push(remedy.to_owned());
    }
    remedies.extend(kept.iter().map(|path| format!("{} is written", path.display())));
    let code = if written.is_empty() { code } else { Code::Partial };
    let failure = Failure::new(code, format_args!("{name}: {what}"));
    if remedies.is_empty() {
        failure
    } else {
        failure.with_remedy(remedies.join("\n"))
    }
}

/// An error and what caused it, in one line.
pub fn with_causes(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A file name that is not taken: `moonscope-20260131-120000.svg` (UTC) in the current directory.
pub fn default_path(ending: &str) -> PathBuf {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let Utc {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = Utc::from_nanos(u64::try_from(now).unwrap_or(0));
    let stem = format!("moonscope-{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}");
    let ending = ending.trim_start_matches('.');
    let mut path = PathBuf::from(format!("{stem}.{ending}"));
    let mut nr = 2;
    while fs::symlink_metadata(&path).is_ok() {
        path = PathBuf::from(format!("{stem}-{nr}.{ending}"));
        nr += 1;
    }
    path
}
