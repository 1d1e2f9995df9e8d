//! Is there a process, is it alive, is it the kernel's? The few facts of `/proc/PID/stat` needed everywhere.

use crate::Pid;
use crate::bytes::{self, decimal};

/// `PF_KTHREAD` of include/linux/sched.h, in the flags field of `/proc/PID/stat`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// What `/proc/PID/stat` says; fields as in proc(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The name, without the parentheses.
    pub(crate) comm: Vec<u8>,
    /// `R`, `S`, `D`, `Z`, `X`, …
    pub(crate) state: u8,
    /// Process id of the parent.
    pub(crate) parent: Pid,
    /// Kernel flags of the task.
    pub(crate) flags: u64,
    /// Clock ticks on a CPU, of all its threads.
    pub(crate) cpu_ticks: u64,
    /// When it started, in clock ticks after boot.
    pub(crate) start_ticks: u64,
}

impl Stat {
    /// Parses the one line of a `stat` file. The name may contain anything, also `)` and newlines, so
    /// the fields are counted from the last parenthesis.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|&byte| byte == b'(')?;
        let close = text.iter().rposition(|&byte| byte == b')')?;
        let comm = text.get(open + 1..close)?.to_vec();
        let mut fields = text[close + 1..]
            .split(|byte| byte.is_ascii_whitespace())
            .filter(|f| !f.is_empty());
        let state = *fields.next()?.first()?; // field 3
        let parent = u32::try_from(decimal(fields.next()?)?).ok()?; // field 4
        let flags = decimal(fields.nth(4)?)?; // field 9
        let user_ticks = decimal(fields.nth(4)?)?; // field 14
        let cpu_ticks = user_ticks.saturating_add(decimal(fields.next()?)?); // field 15
        let start_ticks = decimal(fields.nth(6)?)?; // field 22
        Some(Self {
            comm,
            state,
            parent,
            flags,
            cpu_ticks,
            start_ticks,
        })
    }

    /// Is it a thread of the kernel?
    pub(crate) fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// Has it ended, whether or not its parent has noticed?
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Whether user code can be looked for in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Alive,
    KernelThread,
    Dead,
}

/// Looks at `/proc/PID/stat`; a process that cannot be read is dead.
pub(crate) fn presence(pid: Pid) -> Presence {
    let stat = bytes::read_file(&format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|text| Stat::parse(&text));
    match stat {
        Some(stat) if stat.is_kernel_thread() => Presence::KernelThread,
        Some(stat) if !stat.is_dead() => Presence::Alive,
        _ => Presence::Dead,
    }
}

/// The id under which /proc shows memory and files of a process: its own, or that of a thread that lives on when the first
/// one has ended (pthread_exit in main). Each thread gives up the memory at its own end (do_exit, kernel/exit.c).
pub(crate) fn id_with_memory(pid: Pid) -> Pid {
    let is_dead = |id| presence(id) == Presence::Dead;
    if !is_dead(pid) {
        return pid;
    }
    let threads = crate::process::threads(pid).unwrap_or_default();
    let mut others = threads.into_iter().filter(|&tid| tid != pid);
    others.find(|&tid| !is_dead(tid)).unwrap_or(pid)
}
