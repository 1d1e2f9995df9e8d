//! The terminal: taken over, and given back as it was, whatever ends us.
//!
//! Leaving, a panic, a signal and the way to the background give it back themselves. SIGKILL leaves no time for that: so
//! another process, made before anything else, waits for our end ([`Guard`]).

use std::io::{self, IsTerminal};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::guard::{self, Guard};
use crate::exit::{Code, Failure};

/// The alternate screen (xterm's ctlseqs), and no cursor.
const TAKE: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[2J";
/// Plain text, a cursor, the screen that was there before.
pub const GIVE_BACK: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";

/// How the terminal was.
static BEFORE: OnceLock<libc::termios> = OnceLock::new();
/// Is it ours now?
static IS_OURS: AtomicBool = AtomicBool::new(false);
/// Where the guard is told of it.
static GUARD: AtomicI32 = AtomicI32::new(-1);

/// A terminal that can be drawn on.
pub type Drawn = Terminal<CrosstermBackend<io::Stdout>>;

/// Are there a keyboard and a screen?
pub fn check() -> Result<(), Failure> {
    let refused = |what: &str| {
        Err(Failure::new(Code::Usage, what).with_remedy(
            "record to a file instead: moonscope record -d 10 -o cpu.svg ... (or -o cpu.txt for a table)",
        ))
    };
    if !io::stdout().is_terminal() {
        return refused("top draws on a terminal, and stdout is none");
    }
    if !io::stdin().is_terminal() {
        return refused("top takes keys from a terminal, and stdin is none");
    }
    match std::env::var("TERM") {
        Ok(term) if term == "dumb" => refused("this terminal (TERM=dumb) cannot be drawn on"),
        _ => Ok(()),
    }
}

/// Our hold on the terminal; given back when dropped.
pub struct Hold {
    _guard: Guard,
}

impl Hold {
    /// Prepares it. No other thread may run yet.
    pub fn prepare() -> io::Result<Self> {
        let mut before = MaybeUninit::uninit();
        // SAFETY: it fills what it is given, if it succeeds.
        let before = unsafe {
            match libc::tcgetattr(libc::STDIN_FILENO, before.as_mut_ptr()) {
                0 => before.assume_init(),
                _ => return Err(io::Error::last_os_error()),
            }
        };
        let guard = Guard::start(&before)?;
        GUARD.store(guard.pipe(), Ordering::SeqCst);
        let _ = BEFORE.set(before);
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            give_back();
            previous(info);
        }));
        Ok(Self { _guard: guard })
    }

    /// Takes the terminal over, and gives what to draw on.
    pub fn take(&self) -> io::Result<Drawn> {
        self.take_over()?;
        Terminal::new(CrosstermBackend::new(io::stdout()))
    }

    fn take_over(&self) -> io::Result<()> {
        let Some(before) = BEFORE.get() else { return Ok(()) };
        let mut raw = *before;
        IS_OURS.store(true, Ordering::SeqCst);
        tell_guard(guard::OURS);
        // SAFETY: both take a termios that lives.
        unsafe {
            libc::cfmakeraw(&mut raw);
            if libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        write(io::stdout().as_raw_fd(), TAKE);
        Ok(())
    }

    /// Takes the terminal over again, after somebody else had it.
    pub fn take_again(&self, drawn: &mut Drawn) -> io::Result<()> {
        self.take_over()?;
        draw_all(drawn)
    }
}

/// Has everything drawn again, whatever is on the screen. (`Terminal::clear` would ask the terminal where its cursor is, and
/// wait for the answer.)
pub fn draw_all(drawn: &mut Drawn) -> io::Result<()> {
    let area = drawn.size()?.into();
    drawn.resize(area)
}

impl Drop for Hold {
    fn drop(&mut self) {
        give_back();
        GUARD.store(-1, Ordering::SeqCst);
    }
}

/// Is it ours, to be drawn on?
pub fn is_ours() -> bool {
    IS_OURS.load(Ordering::SeqCst)
}

/// Goes to the background, as Ctrl-Z does to others. When somebody wants us back there is a SIGCONT.
pub fn suspend() {
    give_back();
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
}

/// Gives the terminal back, if we have it. May be called in a signal handler: poll(2), tcsetattr(3) and
/// write(2) may (signal-safety(7)).
pub fn give_back() {
    if !IS_OURS.swap(false, Ordering::SeqCst) {
        return;
    }
    let is_done = write(io::stdout().as_raw_fd(), GIVE_BACK);
    if let Some(before) = BEFORE.get() {
        // SAFETY: it takes a termios that lives.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, before) };
    }
    // else the guard does it when the terminal takes something again
    if is_done {
        tell_guard(guard::NOT_OURS);
    }
}

fn tell_guard(word: u8) {
    let pipe = GUARD.load(Ordering::SeqCst);
    if pipe >= 0 {
        // that it was killed is no reason to end
        write(pipe, &[word]);
    }
}

/// Waits until there are keys, for so long. That the terminal is gone is an error: whoever reads keys would find no end of
/// nothing.
pub fn wait_for_keys(time: Duration) -> io::Result<()> {
    let stdin = io::stdin();
    let mut keys = [PollFd::new(&stdin, PollFlags::IN)];
    let time = Timespec {
        tv_sec: time.as_secs().cast_signed(),
        tv_nsec: time.subsec_nanos().into(),
    };
    match rustix::event::poll(&mut keys, Some(&time)) {
        // a signal, perhaps that of another size
        Err(rustix::io::Errno::INTR) => return Ok(()),
        result => result?,
    };
    match keys[0]
        .revents()
        .intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
    {
        true => Err(io::Error::other("the terminal is gone")),
        false => Ok(()),
    }
}

/// How long a terminal that takes nothing (Ctrl-S, a dead connection) is waited for, milliseconds.
const PATIENCE: libc::c_int = 200;

/// Writes past all buffers; says whether it was taken.
fn write(file: RawFd, bytes: &[u8]) -> bool {
    let mut ready = libc::pollfd {
        fd: file,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: they read and write what lives.
    unsafe {
        libc::poll(&mut ready, 1, PATIENCE) == 1
            && libc::write(file, bytes.as_ptr().cast(), bytes.len()) == bytes.len().cast_signed()
    }
}
