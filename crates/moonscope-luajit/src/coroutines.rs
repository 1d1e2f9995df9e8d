//! Every coroutine of a VM, found on the list of all its objects (`global_State.gc.root`), and what each is doing.
//!
//! All objects but strings are on that list, the newest first (lj_gc.c, lj_gc.h). The first object of a VM is its main
//! coroutine, so it is the last one that matters; only userdata are behind it (`lj_udata_new`). The list changes
//! while it is read: a broken one is read again, and what was found is checked by whoever uses it. What nothing refers
//! to any more is on it until it is collected.

use std::time::{Duration, Instant};

use moonscope_process::RemoteMemory;
use rustc_hash::FxHashSet;

use crate::layout::{GcMode, Layout};
use crate::lua_state::LuaState;
use crate::object::reference_at;
use crate::pages::Pages;
use crate::value::{Value, gct};
use crate::vms;

/// Bytes of `global_State` in which the head of the list is looked for: it is at 0x28 or 0x20 since 2020, and 0x10
/// later before, behind the allocator, the table of strings and the counters of `GCState` (lj_obj.h). Tarantool's fork has
/// 32 bytes of `strbloom` before these too.
const HEADS: u64 = 0x60;
/// Objects that must hang together at a word, for it to be taken for the head.
const PROBE: usize = 64;
/// How often a list that changed under our eyes is read.
const TRIES: usize = 3;
/// Pages kept in our memory while a list is followed: 64 MiB.
const MAX_PAGES: usize = 1 << 14;
/// Objects between two looks at the clock.
const CLOCK_STEP: u64 = 4096;

/// How far a list may be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListBudget {
    /// Objects looked at.
    pub objects: u64,
    /// Bytes of the process read.
    pub bytes: u64,
    /// Time.
    pub time: Duration,
}

impl Default for ListBudget {
    /// 50 million objects (a heap of some 4 GiB), 8 GiB, 3 seconds.
    fn default() -> Self {
        Self {
            objects: 50_000_000,
            bytes: 8 << 30,
            time: Duration::from_secs(3),
        }
    }
}

/// How a list ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListEnd {
    /// At the main coroutine: nothing is missing.
    Complete,
    /// It changed while it was read, each time.
    Changed,
    /// The budget was used up.
    Budget,
    /// No word of the `global_State` is the head of such a list.
    NoList,
}

/// The coroutines of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coroutines {
    /// Addresses of `lua_State`s, the newest first; the main coroutine is not among them.
    pub found: Vec<u64>,
    /// Objects that were looked at.
    pub objects: u64,
    /// How the list ended.
    pub end: ListEnd,
}

/// What a coroutine is doing (`coroutine.status`, lib_base.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CoroutineStatus {
    /// It runs.
    Running,
    /// It has resumed another one, or C code has.
    Normal,
    /// It has yielded.
    Suspended,
    /// It was made and not yet resumed.
    NotStarted,
    /// It ended with an error.
    Failed,
    /// It ended, or is the main coroutine between two calls.
    Ended,
}

impl CoroutineStatus {
    /// What a coroutine is doing; `current` is the one that runs (`cur_L` with a frame on the native stack).
    pub fn of(state: &LuaState, mode: GcMode, current: Option<u64>) -> Self {
        const LUA_YIELD: u8 = 1;
        let first = state.bottom(mode) + 8;
        match state.status {
            _ if current == Some(state.addr) => Self::Running,
            LUA_YIELD => Self::Suspended,
            0 if state.cframe != 0 || state.base > first => Self::Normal,
            0 if state.top == state.base => Self::Ended,
            0 => Self::NotStarted,
            _ => Self::Failed,
        }
    }
}

/// The function that a coroutine will begin with: the address of its object. It is the first value on the stack.
pub fn first_function(memory: &impl RemoteMemory, mode: GcMode, state: &LuaState) -> Option<u64> {
    match Value::decode(mode, memory.read_u64(state.base).ok()?) {
        Value::Function(address) => Some(address),
        _ => None,
    }
}

/// Looks for all coroutines of the VM at `g`.
pub fn coroutines(memory: &impl RemoteMemory, g: u64, layout: &Layout, budget: ListBudget) -> Coroutines {
    let mut all = Coroutines {
        found: Vec::new(),
        objects: 0,
        end: ListEnd::NoList,
    };
    let Ok(main) = vms::main_thread(memory, g, layout) else {
        return all;
    };
    let deadline = Instant::now().checked_add(budget.time);
    let mut seen = FxHashSet::default();
    let mut bytes = 0;
    for _ in 0..TRIES {
        let mut list = List {
            pages: Pages::new(memory, MAX_PAGES),
            bytes,
            layout,
            main,
            budget,
            deadline,
        };
        let Some(head) = list.head(g) else { continue };
        let mut objects = 0;
        all.end = list.follow(head, &mut objects, |thread| {
            if seen.insert(thread) {
                all.found.push(thread);
            }
        });
        bytes += list.pages.bytes();
        all.objects = all.objects.max(objects);
        if all.end != ListEnd::Changed {
            break;
        }
    }
    all
}

struct List<'a, M> {
    pages: Pages<'a, M>,
    /// Bytes that were read before.
    bytes: u64,
    layout: &'a Layout,
    main: u64,
    budget: ListBudget,
    deadline: Option<Instant>,
}

impl<M: RemoteMemory> List<'_, M> {
    /// The head is the first word that leads to objects: `gc.sweep` and `gc.gray`, which may as well, are behind it.
    fn head(&mut self, g: u64) -> Option<u64> {
        let mut bytes = [0; HEADS as usize];
        self.pages.memory().read_exact(g, &mut bytes).ok()?;
        let fields = self.layout.fields();
        let words = (0..HEADS as u16).step_by(usize::from(fields.ref_size).max(1));
        words
            .filter_map(|at| reference_at(fields, &bytes, at))
            .find(|&word| self.is_list(word))
    }

    fn is_list(&mut self, mut at: u64) -> bool {
        for _ in 0..PROBE {
            match self.object(at) {
                Some(_) if at == self.main => return true,
                Some((next, _)) => at = next,
                None => return false,
            }
        }
        true
    }

    fn follow(&mut self, mut at: u64, objects: &mut u64, mut found: impl FnMut(u64)) -> ListEnd {
        while at != self.main {
            let Some((next, kind)) = self.object(at) else {
                return ListEnd::Changed;
            };
            if kind == gct::THREAD {
                found(at);
            }
            *objects += 1;
            let is_late = || self.deadline.is_some_and(|deadline| Instant::now() > deadline);
            if *objects >= self.budget.objects
                || self.bytes + self.pages.bytes() >= self.budget.bytes
                || (objects.is_multiple_of(CLOCK_STEP) && is_late())
            {
                return ListEnd::Budget;
            }
            at = next;
        }
        ListEnd::Complete
    }

    /// The next object and the type of this one, if this can be one.
    fn object(&mut self, at: u64) -> Option<(u64, u8)> {
        /// `~LJ_TUPVAL`
        const FIRST: u8 = 5;
        let fields = self.layout.fields();
        if at == 0 || !at.is_multiple_of(8) {
            return None;
        }
        let next = self.pages.word(at)?;
        let next = match self.layout.mode {
            GcMode::Gc64 => next,
            GcMode::Gc32 => next & u64::from(u32::MAX),
        };
        let kind = self.pages.byte(at.checked_add(fields.gct.into())?)?;
        (FIRST..=gct::USERDATA).contains(&kind).then_some((next, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Image, MODES, layout};

    /// Right behind the main coroutine, which luajit2 has in 112 and 80 bytes.
    fn g(mode: GcMode) -> u64 {
        let size = match mode {
            GcMode::Gc64 => 0x70,
            GcMode::Gc32 => 0x50,
        };
        Image::L + size
    }

    /// A VM whose list has these objects, by type, and then the main coroutine; the head is where LuaJIT 2.1 has it.
    fn vm(mode: GcMode, kinds: &[u8]) -> (Image, Vec<u64>) {
        let mut image = Image::new(mode);
        let fields = mode.fields();
        let g = g(mode);
        image.reference(Image::L + u64::from(fields.l_glref), g);
        let objects: Vec<u64> = (0..kinds.len() as u64)
            .map(|index| Image::START + 0x3000 + index * 0x40)
            .collect();
        for (index, (&object, &kind)) in objects.iter().zip(kinds).enumerate() {
            image.put(object + u64::from(fields.gct), &[kind]);
            image.reference(object, objects.get(index + 1).copied().unwrap_or(Image::L));
        }
        let head = match mode {
            GcMode::Gc64 => 0x28,
            GcMode::Gc32 => 0x20,
        };
        image.reference(g + head, objects.first().copied().unwrap_or(Image::L));
        (image, objects)
    }

    #[test]
    fn coroutines_are_found_among_other_objects_up_to_the_main_one() {
        for mode in MODES {
            let (image, objects) = vm(mode, &[8, 6, 11, 6, 7, 5]);
            let all = coroutines(&image, g(mode), &layout(mode), ListBudget::default());
            assert_eq!(all.found, [objects[1], objects[3]]);
            assert_eq!((all.end, all.objects), (ListEnd::Complete, 6));
        }
    }

    #[test]
    fn the_head_is_found_where_old_builds_have_it_too() {
        for mode in MODES {
            let (mut image, objects) = vm(mode, &[6]);
            let (new, old) = match mode {
                GcMode::Gc64 => (0x28, 0x38),
                GcMode::Gc32 => (0x20, 0x30),
            };
            image.reference(g(mode) + new, 0x1234_5678);
            image.reference(g(mode) + old, objects[0]);
            let all = coroutines(&image, g(mode), &layout(mode), ListBudget::default());
            assert_eq!((all.found, all.end), (objects, ListEnd::Complete));
        }
    }

    #[test]
    fn a_list_that_breaks_off_says_so_and_keeps_what_it_had() {
        for mode in MODES {
            let kinds: Vec<u8> = [6].into_iter().chain([8; 100]).collect();
            let (mut image, objects) = vm(mode, &kinds);
            image.put(objects[80] + u64::from(mode.fields().gct), &[0]);
            let all = coroutines(&image, g(mode), &layout(mode), ListBudget::default());
            assert_eq!((all.found.as_slice(), all.end), (&objects[..1], ListEnd::Changed));
        }
    }

    #[test]
    fn a_list_in_a_circle_ends_with_the_budget() {
        for mode in MODES {
            let (mut image, objects) = vm(mode, &[6, 8, 6]);
            image.reference(objects[2], objects[0]);
            let budget = ListBudget {
                objects: 10_000,
                ..ListBudget::default()
            };
            let all = coroutines(&image, g(mode), &layout(mode), budget);
            assert_eq!((all.found.len(), all.end), (2, ListEnd::Budget));
        }
    }

    #[test]
    fn without_a_vm_or_a_list_there_are_no_coroutines() {
        for mode in MODES {
            let (mut image, objects) = vm(mode, &[6]);
            image.put(objects[0] + u64::from(mode.fields().gct), &[99]);
            let all = coroutines(&image, g(mode), &layout(mode), ListBudget::default());
            assert_eq!((all.found.len(), all.end), (0, ListEnd::NoList));
            let nowhere = coroutines(&image, 0x40, &layout(mode), ListBudget::default());
            assert_eq!(nowhere.end, ListEnd::NoList);
        }
    }

    #[test]
    fn status_is_what_coroutine_status_says() {
        for mode in MODES {
            let bottom = Image::STACK + 8 * u64::from(mode.fields().frame_slots);
            let state = LuaState {
                addr: Image::L,
                glref: g(mode),
                base: bottom,
                top: bottom,
                stack: Image::STACK,
                maxstack: Image::STACK + 0x800,
                cframe: 0,
                status: 0,
            };
            let of = |state: LuaState| CoroutineStatus::of(&state, mode, None);
            assert_eq!(of(state), CoroutineStatus::Ended);
            assert_eq!(of(LuaState { status: 1, ..state }), CoroutineStatus::Suspended);
            assert_eq!(of(LuaState { status: 2, ..state }), CoroutineStatus::Failed);
            let called = LuaState {
                base: bottom + 16,
                ..state
            };
            assert_eq!(of(called), CoroutineStatus::Normal);
            let new = LuaState {
                top: bottom + 8,
                ..state
            };
            assert_eq!(of(new), CoroutineStatus::NotStarted);
            assert_eq!(
                CoroutineStatus::of(&called, mode, Some(Image::L)),
                CoroutineStatus::Running
            );
        }
    }
}
