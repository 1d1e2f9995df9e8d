//! Handlers of the phases of a request, in the order in which they run.
//!
//! Two witnesses must agree: the engine (`cmcf->phase_engine.handlers`), which requests run through, and the lists of handlers
//! of each phase from which it was made (`cmcf->phases`; src/http/ngx_http.c, ngx_http_init_phase_handlers). Where the lists are
//! is found by that: there the engine made of them has the same checkers in the same order, and for each phase
//! the same handlers. Their order is the engine's: nginx reverses each list, and ngx_lua moves its own handlers to the end of
//! their phase when the first request comes.

use moonscope_process::RemoteMemory;

use crate::block::Block;
use crate::error::NginxError;
use crate::image::Image;
use crate::modules::Module;
use crate::phases::{Phase, Place};
use crate::setup::Setup;
use crate::worker::Worker;

/// Bytes of `ngx_http_core_main_conf_t` that are looked through; `phases` ends at 672 in all builds that were looked at.
const CONF_SIZE: u64 = 1024;
/// sizeof(ngx_array_t): elts, nelts, size, nalloc, pool
const ARRAY: u64 = 40;
/// `NGX_HTTP_LOG_PHASE + 1`
const PHASES: u64 = 11;
const MAX_HANDLERS: u64 = 512;
/// How often the engine is read again when it changes meanwhile.
const ATTEMPTS: usize = 5;

/// A function that nginx calls for each request: a filter or a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its address.
    pub addr: u64,
    /// Its file and place there: `nginx+0xa3690`.
    pub place: String,
    /// Its name, where the file has a symbol for it.
    pub name: Option<String>,
    /// The module that set it up; `None`: it could not be told.
    pub module: Option<String>,
}

impl Function {
    pub(crate) fn new(images: &[&Image], addr: u64, module: Option<&Module>) -> Self {
        let name = images.iter().find_map(|image| image.name_at(addr));
        Self {
            addr,
            place: Self::place_in(images, addr),
            name: name.map(str::to_owned),
            module: module.map(|module| module.name.clone()),
        }
    }

    pub(crate) fn place_in(images: &[&Image], addr: u64) -> String {
        let image = images.iter().find(|image| image.holds(addr));
        image.map_or_else(|| format!("{addr:#x}"), |image| image.place(addr))
    }
}

/// The handlers of a phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handlers {
    /// The phase.
    pub phase: Phase,
    /// Its handlers, the first first.
    pub handlers: Vec<Function>,
}

/// Lists of handlers as modules registered them, by phase.
type Registered = Vec<Vec<u64>>;

/// The lists at this offset, if there are any that look like it.
fn lists(memory: &impl RemoteMemory, conf: &Block, at: u64, pool: u64) -> Option<Registered> {
    let list = |number: u64| {
        let array = at + number * ARRAY;
        let (elements, count) = (conf.word(array), conf.word(array + 8));
        let is_unused = (0..5).all(|word| conf.word(array + 8 * word) == 0);
        let is_list = elements != 0
            && conf.word(array + 16) == 8
            && count <= conf.word(array + 24)
            && count <= MAX_HANDLERS
            && conf.word(array + 32) == pool;
        match (is_unused, is_list) {
            (true, _) => Some(Vec::new()),
            (_, true) => {
                let block = Block::read(memory, elements, 8 * count).ok()?;
                Some((0..count).map(|each| block.word(8 * each)).collect())
            }
            _ => None,
        }
    };
    let lists: Registered = (0..PHASES).map(list).collect::<Option<_>>()?;
    // all but three phases always have one
    (lists.len() as u64 == PHASES && conf.word(at) != 0).then_some(lists)
}

/// The phase of each place of the engine that is made of these lists; `None`: it is another engine.
fn phases(engine: &[Place], lists: &Registered) -> Option<Vec<Phase>> {
    let mut rest = engine;
    let mut phases = Vec::new();
    for (number, registered) in lists.iter().enumerate().take(Phase::ENGINE.len()) {
        let phase = Phase::ENGINE[number];
        let count = match phase {
            Phase::FindConfig => 1,
            Phase::PostRewrite => usize::from(!lists[Phase::Rewrite.number()].is_empty()),
            Phase::PostAccess => usize::from(!lists[Phase::Access.number()].is_empty()),
            // up to 1.13.3 there was a phase without handlers
            Phase::Precontent if rest.first().is_some_and(Place::is_try_files) => 1,
            _ => registered.len(),
        };
        let (these, others) = rest.split_at_checked(count)?;
        if !these.iter().all(|place| place.may_be_of(phase)) {
            return None;
        }
        let mut handlers: Vec<u64> = these.iter().filter_map(Place::handler).collect();
        let mut registered = registered.clone();
        handlers.sort_unstable();
        registered.sort_unstable();
        if handlers != registered {
            return None;
        }
        phases.extend(std::iter::repeat_n(phase, count));
        rest = others;
    }
    rest.is_empty().then_some(phases)
}

/// The engine, the phase of each of its places, and the handlers of the log phase.
pub(crate) struct Engine {
    pub(crate) places: Vec<Place>,
    pub(crate) phases: Vec<Phase>,
    log: Vec<u64>,
}

/// Finds the lists that this engine was made of.
fn engine(memory: &impl RemoteMemory, conf: &Block, places: Vec<Place>, pool: u64) -> Result<Engine, String> {
    if places.is_empty() {
        return Err("the engine has no places".to_owned());
    }
    let offsets = (0..=CONF_SIZE - PHASES * ARRAY).step_by(8);
    let mut found: Vec<(u64, Vec<Phase>, Vec<u64>)> = offsets
        .filter_map(|at| {
            let mut lists = lists(memory, conf, at, pool)?;
            let phases = phases(&places, &lists)?;
            Some((at, phases, lists.pop()?))
        })
        .collect();
    match (found.pop(), found.len()) {
        (Some((_, phases, log)), 0) => Ok(Engine { places, phases, log }),
        (Some(_), others) => Err(format!("it may be at {} places", others + 1)),
        (None, _) => Err("there are no lists of handlers that this engine was made of".to_owned()),
    }
}

impl<M: RemoteMemory> Worker<M> {
    /// The engine of phases; `None` without a configuration of HTTP.
    pub(crate) fn engine(&self) -> Result<Option<Engine>, NginxError> {
        let Some(conf) = self.http_main_conf("ngx_http_core_module") else {
            return Ok(None);
        };
        let pool = self.cycle()?.word(self.layout.cycle.pool);
        let mut why = String::new();
        for _ in 0..ATTEMPTS {
            let block = Block::read(&self.memory, conf, CONF_SIZE)?;
            match engine(&self.memory, &block, self.places(conf), pool) {
                Ok(engine) => return Ok(Some(engine)),
                Err(reason) => why = reason,
            }
        }
        Err(NginxError::layout("ngx_http_core_main_conf_t.phases", why))
    }

    /// The handlers of each phase that has some, in their order.
    pub fn handlers(&self) -> Result<Vec<Handlers>, NginxError> {
        let Some(engine) = self.engine()? else {
            return Ok(Vec::new());
        };
        let images = self.images()?;
        let setup = Setup::find(&self.memory, &images, &self.modules, &self.tops());
        let function = |addr: u64| {
            let module = setup.handler(addr).and_then(|module| self.modules.get(module));
            Function::new(&images, addr, module)
        };
        let mut all: Vec<Handlers> = Vec::new();
        for (place, &phase) in engine.places.iter().zip(&engine.phases) {
            let Some(handler) = place.handler().map(function) else {
                continue;
            };
            match all.last_mut().filter(|last| last.phase == phase) {
                Some(last) => last.handlers.push(handler),
                None => all.push(Handlers {
                    phase,
                    handlers: vec![handler],
                }),
            }
        }
        if !engine.log.is_empty() {
            let handlers = engine.log.into_iter().map(function).collect();
            all.push(Handlers {
                phase: Phase::Log,
                handlers,
            });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests;
