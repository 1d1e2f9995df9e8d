//! Things that have numbers: a number is never given twice, also when what had it is needed no more.

use std::ops::{Index, IndexMut};

use rustc_hash::FxHashMap;

/// Things by number.
#[derive(Debug)]
pub struct Numbered<T> {
    next: u32,
    things: FxHashMap<u32, T>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self {
            next: 0,
            things: FxHashMap::default(),
        }
    }
}

impl<T> Numbered<T> {
    /// Gives a thing its number.
    pub fn add(&mut self, thing: T) -> u32 {
        let number = self.next;
        self.next += 1;
        self.things.insert(number, thing);
        number
    }

    /// The thing of a number, if it is still here.
    pub fn get(&self, number: u32) -> Option<&T> {
        self.things.get(&number)
    }

    /// How many are here.
    pub fn len(&self) -> usize {
        self.things.len()
    }

    /// All that are here, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.things.iter().map(|(&number, thing)| (number, thing))
    }

    /// The things themselves.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.things.values()
    }

    /// The same, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.things.values_mut()
    }

    /// Keeps those of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(u32, &mut T) -> bool) {
        self.things.retain(|&number, thing| keep(number, thing));
        self.things.shrink_to(2 * self.things.len());
    }
}

/// Of what is known to be here: it is in use.
impl<T> Index<u32> for Numbered<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.things[&number]
    }
}

impl<T> IndexMut<u32> for Numbered<T> {
    #[expect(
        clippy::expect_used,
        reason = "as with a vector: the number is one of those that were given"
    )]
    fn index_mut(&mut self, number: u32) -> &mut T {
        self.things.get_mut(&number).expect("a number that was given")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_not_given_again() {
        let mut things = Numbered::default();
        let [one, two] = ["one", "two"].map(|thing| things.add(thing));
        things.retain(|_, thing| *thing == "two");
        let three = things.add("three");
        assert!(three != one && three != two);
        assert_eq!(
            (things.get(one), things[two], things[three]),
            (None, "two", "three")
        );
    }
}
