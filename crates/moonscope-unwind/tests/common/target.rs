//! A running program, stopped at some moment: its registers, its stack, and its mappings.
//!
//! The program is a child that the test starts and ends itself. It is stopped by ptrace, read, and left in a
//! group stop, so that gdb sees the same moment.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use moonscope_unwind::walk_host::Maps;
use moonscope_unwind::{ModuleAt, Modules, Registers, RuleSet, StackCopy, Table, UnwindData, abi};
use object::{Object, ObjectSegment, SegmentFlags};

/// What a snapshot keeps of a stack at most.
const MAX_STACK: u64 = 1 << 20;

/// The red zone below the stack pointer (psABI, section 3.2.2); code of libcrypto keeps its CFA there.
const RED_ZONE: u64 = 128;

/// Compiles C for a test; the binary lives as long as `dir`.
pub fn compile(dir: &Path, source: &str, flags: &[&str]) -> PathBuf {
    try_compile("gcc", dir, "c", source, flags).expect("gcc is needed for this test")
}

/// Compiles a program; `None` if the compiler is not installed.
pub fn try_compile(
    compiler: &str,
    dir: &Path,
    ending: &str,
    source: &str,
    flags: &[&str],
) -> Option<PathBuf> {
    let binary = dir.join(format!("{ending}-target"));
    let text = dir.join(format!("source.{ending}"));
    std::fs::write(&text, source).unwrap();
    let mut command = Command::new(compiler);
    command.args(flags).arg("-o").arg(&binary).arg(&text);
    if ending == "c" {
        command.arg("-lpthread");
    }
    let output = command.output().ok()?;
    assert!(
        output.status.success(),
        "{compiler}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(binary)
}

/// A child process.
pub struct Target {
    child: Child,
}

impl Target {
    /// Starts a program and waits until it has printed a line, if it is one that does.
    pub fn start(program: &Path, arguments: &[&str], prints: bool) -> Target {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(if prints { Stdio::piped() } else { Stdio::null() })
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if let Some(stdout) = child.stdout.take() {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
        }
        Target { child }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Stops the process, wherever it is, and reads its thread `tid`. It stays stopped until
    /// [`Target::resume`].
    pub fn stop(&self, tid: i32) -> io::Result<Snapshot> {
        // SAFETY: a signal to our own child.
        unsafe { libc::kill(self.pid(), libc::SIGSTOP) };
        self.wait_until_stopped();
        ptrace(libc::PTRACE_SEIZE, tid, std::ptr::null_mut())?;
        ptrace(libc::PTRACE_INTERRUPT, tid, std::ptr::null_mut())?;
        let mut status = 0;
        // SAFETY: waits for a thread of a child, which the calls above made report its stop.
        if unsafe { libc::waitpid(tid, &mut status, libc::__WALL) } != tid || !libc::WIFSTOPPED(status) {
            return Err(io::Error::other("the program ended"));
        }
        // SAFETY: the structure is plain numbers.
        let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETREGS, tid, (&raw mut regs).cast())?;
        let snapshot = Snapshot::read(self.pid(), &regs);
        ptrace(libc::PTRACE_DETACH, tid, std::ptr::null_mut())?;
        Ok(snapshot)
    }

    /// Waits until every thread stands still.
    fn wait_until_stopped(&self) {
        for _ in 0..400 {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
            let stopped = tasks.flatten().all(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit(") ")
                    .next()
                    .is_some_and(|rest| rest.starts_with(['T', 't']))
            });
            if stopped {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("process {} does not stop", self.pid());
    }

    pub fn resume(&self) {
        // SAFETY: a signal to our own child.
        unsafe { libc::kill(self.pid(), libc::SIGCONT) };
    }

    pub fn threads(&self) -> Vec<i32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        tasks
            .flatten()
            .map(|task| task.file_name().to_str().unwrap().parse().unwrap())
            .collect()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn ptrace(request: libc::c_uint, tid: i32, data: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: of the requests that tests use only PTRACE_GETREGS writes, to a structure of the right type.
    let result = unsafe { libc::ptrace(request, tid, std::ptr::null_mut::<libc::c_void>(), data) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// An executable mapping.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    pub offset: u64,
    pub path: String,
}

/// A thread at one moment.
pub struct Snapshot {
    pub registers: Registers,
    pub stack_start: u64,
    pub stack: Vec<u8>,
    pub mappings: Vec<Mapping>,
    /// Content of the mappings without a file.
    pub anonymous: HashMap<u64, Vec<u8>>,
}

impl Snapshot {
    pub fn read(pid: i32, regs: &libc::user_regs_struct) -> Snapshot {
        let registers = Registers::new([
            regs.rax, regs.rdx, regs.rcx, regs.rbx, regs.rsi, regs.rdi, regs.rbp, regs.rsp, regs.r8, regs.r9,
            regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15, regs.rip,
        ]);
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let read = |start: u64, end: u64| {
            let mut bytes = vec![0; (end - start) as usize];
            memory.read_exact_at(&mut bytes, start).ok().map(|()| bytes)
        };
        let mut snapshot = Snapshot {
            registers,
            stack_start: 0,
            stack: Vec::new(),
            mappings: Vec::new(),
            anonymous: HashMap::new(),
        };
        for line in std::fs::read_to_string(format!("/proc/{pid}/maps"))
            .unwrap()
            .lines()
        {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (start, end) = fields[0].split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            let (start, end) = (number(start), number(end));
            if (start..end).contains(&regs.rsp) {
                snapshot.stack_start = (regs.rsp - RED_ZONE).max(start);
                snapshot.stack = read(snapshot.stack_start, end.min(regs.rsp + MAX_STACK)).unwrap();
            }
            if fields[1].as_bytes()[2] == b'x' {
                let path = fields.get(5).copied().unwrap_or_default().to_owned();
                if !path.starts_with('/') {
                    snapshot
                        .anonymous
                        .insert(start, read(start, end).unwrap_or_default());
                }
                snapshot.mappings.push(Mapping {
                    start,
                    end,
                    offset: number(fields[2]),
                    path,
                });
            }
        }
        snapshot
    }

    pub fn stack_copy(&self) -> StackCopy<'_> {
        StackCopy {
            sp: self.stack_start,
            bytes: &self.stack,
        }
    }
}

/// A file's unwind information in both forms.
pub struct Prepared {
    pub data: UnwindData,
    pub table: Option<Table>,
    /// Executable segments: file offset, address.
    segments: Vec<(u64, u64)>,
}

/// All files met so far, and the rules of all their tables.
#[derive(Default)]
pub struct Files {
    pub rules: RuleSet,
    files: HashMap<String, Option<Arc<Prepared>>>,
}

impl Files {
    fn get(&mut self, path: &str, content: impl FnOnce() -> Vec<u8>) -> Option<Arc<Prepared>> {
        let rules = &mut self.rules;
        let prepare = || {
            let bytes = content();
            let table = Table::build(&bytes, rules).ok()?;
            let segments = object::File::parse(&*bytes)
                .ok()?
                .segments()
                .filter_map(executable)
                .collect();
            Some(Arc::new(Prepared {
                data: UnwindData::new(bytes).ok()?,
                table,
                segments,
            }))
        };
        self.files.entry(path.to_owned()).or_insert_with(prepare).clone()
    }

    /// The modules of a snapshot.
    pub fn resolve(&mut self, snapshot: &Snapshot) -> Process {
        let mut modules = Vec::new();
        for mapping in &snapshot.mappings {
            let anonymous = snapshot.anonymous.get(&mapping.start);
            let content = || match anonymous {
                Some(bytes) => bytes.clone(),
                None => std::fs::read(&mapping.path).unwrap_or_default(),
            };
            // the vDSO is an ELF image; other mappings without a file are not
            let name = if mapping.path.is_empty() {
                "//anon"
            } else {
                &mapping.path
            };
            let file = self.get(name, content);
            let segment = file.as_ref().and_then(|file| {
                let page = |offset: u64| offset & !0xfff;
                file.segments
                    .iter()
                    .find(|segment| page(segment.0) == page(mapping.offset))
                    .copied()
            });
            let bias = segment.map(|(offset, address)| {
                mapping
                    .start
                    .wrapping_sub(address.wrapping_sub(offset).wrapping_add(mapping.offset))
            });
            modules.push((mapping.clone(), file.zip(bias)));
        }
        Process { modules }
    }
}

fn executable(segment: object::Segment<'_, '_>) -> Option<(u64, u64)> {
    match segment.flags() {
        SegmentFlags::Elf { p_flags, .. } if p_flags & object::elf::PF_X == object::elf::PF_X => {
            Some((segment.file_range().0, segment.address()))
        }
        _ => None,
    }
}

/// The executable mappings of a snapshot with what is known of their files.
pub struct Process {
    modules: Vec<Module>,
}

/// A mapping; its file and bias, if it has one.
type Module = (Mapping, Option<(Arc<Prepared>, u64)>);

impl Process {
    /// The same as the kernel's walker would find it in its maps.
    pub fn maps(&self) -> Maps {
        let mut maps = Maps::default();
        // the search of the kernel's walker knows addresses below 2^63, so the vsyscall page stays out
        for (mapping, file) in self
            .modules
            .iter()
            .filter(|module| module.0.end <= abi::MS_FRAME_ADDR_MASK)
        {
            let (table, bias, kind) = match file {
                Some((file, bias)) => (maps.add_table(file.table.as_ref()), *bias, abi::MS_MAPPING_FILE),
                None => (abi::MS_NO_TABLE, 0, abi::MS_MAPPING_ANON),
            };
            maps.mappings.push(abi::ms_mapping {
                start: mapping.start,
                end: mapping.end,
                bias,
                table,
                kind,
            });
        }
        maps
    }

    pub fn name(&self, address: u64) -> String {
        let module = self
            .modules
            .iter()
            .find(|(mapping, _)| (mapping.start..mapping.end).contains(&address));
        match module {
            Some((mapping, Some((_, bias)))) => format!("{}+{:#x}", mapping.path, address - bias),
            Some((mapping, None)) => format!("{}?{address:#x}", mapping.path),
            None => format!("?{address:#x}"),
        }
    }
}

impl Modules for Process {
    fn find(&self, address: u64) -> Option<ModuleAt<'_>> {
        let module = self
            .modules
            .iter()
            .find(|(mapping, _)| (mapping.start..mapping.end).contains(&address));
        module.map(|(_, file)| match file {
            Some((file, bias)) => ModuleAt::File {
                bias: *bias,
                data: &file.data,
            },
            None => ModuleAt::Anonymous,
        })
    }
}
