//! Where in the bytecode of a function snapshots are, and what lies between two of them.
//!
//! The snapshot of a comparison gets the place where its other outcome leads, so that a side trace goes on there
//! (`rec_comp_fixup`, lj_record.c). So the program counter of a snapshot may be that of the instruction that comes next, or the
//! other side of a comparison. `ISTC` to `ISF` have no snapshot: the type of what they test decides.

use crate::bytecode::{Calls, Instruction, op};

/// Returns of one function to which all ways are followed.
const MAX_RETURNS: usize = 16;

/// What is behind it does not follow it: returns, tail calls and jumps.
fn leaves(instruction: Instruction) -> bool {
    instruction.is_return()
        || matches!(
            instruction.op(),
            op::CALLMT | op::CALLT | op::JMP | op::UCLO | op::ISNEXT
        )
}

/// The instructions of a function.
#[derive(Clone, Copy)]
pub(super) struct Code<'a>(pub &'a [Instruction]);

impl Code<'_> {
    fn at(&self, index: usize) -> Option<Instruction> {
        self.0.get(index).copied()
    }

    /// Where the code that runs up to a snapshot with this place may end.
    pub(super) fn ends(&self, place: usize) -> Vec<usize> {
        let compared = self.comparisons(place).map(|(comparison, _)| comparison);
        compared.chain(self.itself(place)).collect()
    }

    /// Where the code that runs behind a snapshot with this place may begin.
    pub(super) fn starts(&self, place: usize) -> Vec<usize> {
        let taken = self.comparisons(place).map(|(_, taken)| taken);
        taken.chain(self.itself(place)).collect()
    }

    /// The returns that code may come to from one of these places; `None` if they are many.
    pub(super) fn returns(&self, starts: &[usize]) -> Option<Vec<usize>> {
        let mut found = Vec::new();
        for &start in starts {
            let reached = self.reached(start, self.0.len(), &|_| false)?;
            let at = (start..).zip(reached).filter(|(_, is_reached)| *is_reached);
            found.extend(
                at.map(|(at, _)| at)
                    .filter(|at| self.at(*at).is_some_and(Instruction::is_return)),
            );
        }
        found.sort_unstable();
        found.dedup();
        (found.len() <= MAX_RETURNS).then_some(found)
    }

    /// The place itself, if there can be a snapshot: behind a call or a store, at a comparison or in a loop.
    fn itself(&self, place: usize) -> Option<usize> {
        let before = place.checked_sub(1).and_then(|before| self.at(before));
        let follows = before.is_none_or(|before| !before.is_border() && !leaves(before));
        let is_own = self.at(place).is_none_or(|own| {
            own.is_border() || matches!(own.op(), op::ITERC | op::ITERN | op::ISNEXT | op::JMP)
        });
        (follows || is_own).then_some(place)
    }

    /// Comparisons whose other side this place is, and the side that is taken then.
    fn comparisons(&self, place: usize) -> impl Iterator<Item = (usize, usize)> {
        let pairs = self.0.windows(2).enumerate();
        pairs.filter_map(move |(at, pair)| {
            let [comparison, jump] = pair else { return None };
            if !op::COMPARISONS.contains(&comparison.op()) || jump.op() != op::JMP {
                return None;
            }
            let (behind, target) = (at + 2, jump.jump(at + 1)?);
            match place {
                place if place == behind => Some((at, target)),
                place if place == target => Some((at, behind)),
                _ => None,
            }
        })
    }

    fn successors(&self, at: usize) -> impl Iterator<Item = usize> {
        let each = self.at(at);
        let behind = each.filter(|each| !leaves(*each)).map(|_| at + 1);
        let target = each.and_then(|each| each.jump(at));
        behind.into_iter().chain(target)
    }

    /// Which instructions, counted from `start`, are reached from there forwards up to `end`, without going through those
    /// that are avoided.
    fn reached(&self, start: usize, end: usize, avoid: &dyn Fn(usize) -> bool) -> Option<Vec<bool>> {
        let len = end.checked_sub(start).filter(|_| end <= self.0.len())?;
        let mut is_reached = vec![false; len + 1];
        *is_reached.first_mut()? = true;
        for at in 0..len {
            if is_reached.get(at) == Some(&true) && !avoid(start + at) {
                for to in self.successors(start + at) {
                    if let Some(reached) = is_reached.get_mut(to.wrapping_sub(start)) {
                        *reached = true;
                    }
                }
            }
        }
        Some(is_reached)
    }

    /// All ways forwards from `start` to `end` lead through one of these.
    pub(super) fn leads_through(&self, start: usize, end: usize, those: &[usize]) -> bool {
        let reached = self.reached(start, end, &|at| those.contains(&at));
        reached.is_some_and(|reached| reached.last() == Some(&false))
    }

    /// The instructions on all ways forwards from `start` to `end`, ascending; `None` if there is none, or a loop on it.
    pub(super) fn between(&self, start: usize, end: usize) -> Option<Vec<usize>> {
        let len = end.checked_sub(start)?;
        let is_reached = self.reached(start, end, &|_| false)?;
        let mut leads = vec![false; len + 1];
        *leads.last_mut()? = true;
        for at in (0..len).rev() {
            let leads_on = self
                .successors(start + at)
                .any(|to| leads.get(to.wrapping_sub(start)) == Some(&true));
            if let Some(leading) = leads.get_mut(at) {
                *leading = leads_on;
            }
        }
        let reached = |at: &usize| is_reached.get(*at) == Some(&true);
        // another turn of a loop would be another way
        let has_loop = (0..len)
            .filter(reached)
            .any(|at| self.at(start + at).is_some_and(Instruction::loops));
        if !reached(&len) || has_loop {
            return None;
        }
        let on_way = (0..len).filter(|at| reached(at) && leads.get(*at) == Some(&true));
        Some(on_way.map(|at| start + at).collect())
    }
}

/// All ways between two snapshots of a function, each of which may be in several places.
pub(super) struct Ways<'a> {
    code: Code<'a>,
    pairs: Vec<(usize, usize)>,
    /// The instructions on any of them, ascending.
    pub(super) on_way: Vec<usize>,
}

impl<'a> Ways<'a> {
    /// `None` if they may lead through a loop, or nowhere.
    pub(super) fn new(code: Code<'a>, starts: &[usize], ends: &[usize]) -> Option<Self> {
        let pairs = starts
            .iter()
            .flat_map(|start| ends.iter().map(|end| (*start, *end)));
        let pairs: Vec<_> = pairs.collect();
        // in the same place: nothing runs, or a whole loop
        let between = |&(start, end): &(usize, usize)| code.between(start, end).filter(|_| start != end);
        let on_ways: Option<Vec<Vec<usize>>> = pairs.iter().map(between).collect();
        let mut on_way = on_ways.filter(|on_ways| !on_ways.is_empty())?.concat();
        on_way.sort_unstable();
        on_way.dedup();
        Some(Self { code, pairs, on_way })
    }

    /// The calls on any of them.
    pub(super) fn calls(&self) -> impl Iterator<Item = usize> {
        let is_call = |at: &usize| {
            self.code
                .at(*at)
                .is_some_and(|each| each.calls() == Calls::Function)
        };
        self.on_way.iter().copied().filter(is_call)
    }

    /// Each of them leads through one of these.
    pub(super) fn lead_through(&self, those: &[usize]) -> bool {
        self.pairs
            .iter()
            .all(|&(start, end)| self.code.leads_through(start, end, those))
    }
}
