//! A process of nginx, and what is known of it before anything is looked at.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moonscope_process::{Mapping, Pid, ProcessMemory, RemoteMemory, process, read_maps};

use crate::block::Block;
use crate::chain;
use crate::error::NginxError;
use crate::image::Image;
use crate::layout::{ConnectionLayout, CycleLayout, Layout, RequestLayout};
use crate::modules::{Module, modules};
use crate::variables::Variables;

/// Bytes of `ngx_cycle_t` that are copied; it has some 650.
const CYCLE_SIZE: u64 = 640;

/// What a process of nginx does (`ngx_process`, src/os/unix/ngx_process_cycle.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The only one: `master_process off`.
    Single,
    /// Starts the others.
    Master,
    /// Serves.
    Worker,
    /// Cache manager, cache loader, privileged agent.
    Helper,
}

impl Role {
    fn of(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Single),
            1 => Some(Self::Master),
            3 => Some(Self::Worker),
            4 => Some(Self::Helper),
            _ => None,
        }
    }

    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Single => "the only process",
            Self::Master => "the master",
            Self::Worker => "a worker",
            Self::Helper => "a helper",
        }
    }
}

/// A process of nginx that serves.
pub struct Worker<M = ProcessMemory> {
    pub(crate) memory: M,
    pub(crate) image: Image,
    pub(crate) layout: Layout,
    pub(crate) modules: Vec<Module>,
    pid: Pid,
    role: Role,
    cycle: u64,
    now: Duration,
    /// Files of dynamic modules; opened when they are asked for.
    extensions: OnceCell<Vec<Image>>,
}

impl Worker {
    /// Looks at a process: a worker, or the only one of an nginx without master.
    pub fn open(pid: Pid) -> Result<Self, NginxError> {
        let image = program(pid)?;
        let memory = ProcessMemory::new(pid);
        let symbol = |symbol: &'static str| image.symbol(symbol).ok_or(NginxError::NotNginx { pid, symbol });
        let cycle_pointer = symbol("ngx_cycle")?;
        let core = symbol("ngx_core_module")?;
        let role = role_of(&memory, &image)?;
        if !matches!(role, Role::Single | Role::Worker) {
            return Err(NginxError::NotAWorker {
                pid,
                role: role.as_str(),
            });
        }
        let cycle = memory.read_u64(cycle_pointer)?;
        if cycle == 0 {
            return Err(NginxError::NoCycle { pid });
        }
        let cycle_layout = CycleLayout::find(&memory, cycle, core)?;
        let variables = Variables::find(&memory, &image);
        let block = Block::read(&memory, cycle, CYCLE_SIZE)?;
        let connection = ConnectionLayout::find(&memory, &block, &cycle_layout, &image, &variables)?;
        let has_http = image.symbol("ngx_http_core_module").is_some();
        let request = has_http
            .then(|| RequestLayout::find(&image, &variables))
            .transpose()?;
        let modules = modules(&memory, &block, &cycle_layout)?;
        Ok(Self {
            memory,
            image,
            layout: Layout {
                cycle: cycle_layout,
                connection,
                request,
            },
            modules,
            pid,
            role,
            cycle,
            now: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            extensions: OnceCell::new(),
        })
    }

    /// What a process of nginx does, without looking at more; an error if it is no nginx.
    pub fn role(pid: Pid) -> Result<Role, NginxError> {
        let image = program(pid)?;
        role_of(&ProcessMemory::new(pid), &image)
    }
}

fn role_of(memory: &impl RemoteMemory, image: &Image) -> Result<Role, NginxError> {
    let number = match image.symbol("ngx_process") {
        Some(addr) => memory.read_u64(addr)?,
        None => return Ok(Role::Worker),
    };
    Role::of(number)
        .ok_or_else(|| NginxError::layout("ngx_process", format!("there is no kind {number} of processes")))
}

fn program(pid: Pid) -> Result<Image, NginxError> {
    let maps = read_maps(pid)?;
    let exe = process::exe(pid)?;
    let of_exe: Vec<&Mapping> = maps
        .iter()
        .filter(|mapping| mapping.path() == Some(exe.as_path()))
        .collect();
    // .bss begins in the file's last page and goes on in memory without a name: what is needed is in the file's part
    Image::open(pid, &of_exe)?.ok_or(NginxError::NotNginx {
        pid,
        symbol: "ngx_cycle",
    })
}

impl<M: RemoteMemory> Worker<M> {
    /// Its process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// What it does.
    pub fn kind(&self) -> Role {
        self.role
    }

    /// Where its fields are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its modules, in their order.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// When it was looked at, since 1970.
    pub fn looked_at(&self) -> Duration {
        self.now
    }

    /// The program and the files of dynamic modules.
    pub(crate) fn images(&self) -> Result<Vec<&Image>, NginxError> {
        let extensions = match self.extensions.get() {
            Some(extensions) => extensions,
            None => {
                let opened = self.open_extensions()?;
                self.extensions.get_or_init(|| opened)
            }
        };
        Ok(std::iter::once(&self.image).chain(extensions).collect())
    }

    fn open_extensions(&self) -> Result<Vec<Image>, NginxError> {
        let maps = read_maps(self.pid)?;
        let mut paths = HashSet::new();
        let mut opened = Vec::new();
        for module in self
            .modules
            .iter()
            .filter(|module| !self.image.holds(module.addr))
        {
            let mapping = maps.iter().find(|mapping| mapping.contains(module.addr));
            let Some(path) = mapping.and_then(Mapping::path) else {
                continue;
            };
            if paths.insert(path) {
                let of_file: Vec<&Mapping> = maps
                    .iter()
                    .filter(|mapping| mapping.path() == Some(path))
                    .collect();
                opened.extend(Image::open(self.pid, &of_file)?);
            }
        }
        Ok(opened)
    }

    /// A copy of the cycle.
    pub(crate) fn cycle(&self) -> Result<Block, NginxError> {
        Ok(Block::read(&self.memory, self.cycle, CYCLE_SIZE)?)
    }

    /// `files_n`, and how many files the configuration opens (logs).
    pub fn open_files(&self) -> Result<(u64, u64), NginxError> {
        let cycle = self.cycle()?;
        let (files, _) = chain::elements(&self.memory, cycle.at(self.layout.cycle.open_files));
        Ok((cycle.word(self.layout.cycle.connection_n + 8), files.len() as u64))
    }

    /// The main configuration of an HTTP module.
    pub(crate) fn http_main_conf(&self, module: &str) -> Option<u64> {
        let http = self
            .modules
            .iter()
            .find(|module| module.name == "ngx_http_module")?;
        let module = self.modules.iter().find(|other| other.name == module)?;
        let conf_ctx = self.cycle().ok()?.word(self.layout.cycle.conf_ctx);
        let http_ctx = self.memory.read_u64(conf_ctx.wrapping_add(8 * http.index)).ok()?;
        let main_conf = self.memory.read_u64(http_ctx).ok()?;
        let conf = self
            .memory
            .read_u64(main_conf.wrapping_add(8 * module.ctx_index))
            .ok()?;
        (conf != 0).then_some(conf)
    }
}
