//! The rules that all tables share: equal rules have one number, and rows carry only the number.
//!
//! Rules repeat a lot (libc has 23,800 rows and about 300 rules), so a machine full of programs stays far
//! below the 65,536 that a row can name.

use rustc_hash::FxHashMap;

use crate::abi;

/// How many different rules there can be, the fixed ones included (16 bytes each: 1 MiB in all).
pub const MAX_RULES: usize = abi::MS_MAX_RULES as usize;

/// The rule numbers of `bpf/abi.h` that mean the same in every set, as a row carries them.
pub(crate) mod fixed {
    use crate::abi;

    pub(crate) const HOLE: u16 = abi::MS_RULE_HOLE as u16;
    pub(crate) const UNSUPPORTED: u16 = abi::MS_RULE_UNSUPPORTED as u16;
}

/// All rules seen so far, numbered in the order of their first appearance.
///
/// Numbers never change, so the kernel's copy only ever grows: [`RuleSet::as_slice`] from the old length on.
#[derive(Clone, Debug)]
pub struct RuleSet {
    rules: Vec<abi::ms_rule>,
    numbers: FxHashMap<abi::ms_rule, u16>,
    capacity: usize,
    refused: u64,
}

impl Default for RuleSet {
    fn default() -> Self {
        RuleSet::new()
    }
}

impl RuleSet {
    /// A set with the fixed rules only.
    pub fn new() -> Self {
        RuleSet::with_capacity(MAX_RULES)
    }

    /// A set that takes at most `capacity` rules, the fixed ones included.
    fn with_capacity(capacity: usize) -> Self {
        let mut set = RuleSet {
            rules: Vec::new(),
            numbers: FxHashMap::default(),
            capacity,
            refused: 0,
        };
        for cfa in [abi::MS_CFA_HOLE, abi::MS_CFA_ROOT, abi::MS_CFA_UNSUPPORTED] {
            set.intern(abi::ms_rule {
                cfa: cfa as u8,
                ..Default::default()
            });
        }
        set
    }

    /// The number of `rule`, a new one if it was never seen. When the set is full a new rule gets
    /// `MS_RULE_UNSUPPORTED`, and [`RuleSet::refused`] counts it.
    pub fn intern(&mut self, rule: abi::ms_rule) -> u16 {
        if let Some(&number) = self.numbers.get(&rule) {
            return number;
        }
        match u16::try_from(self.rules.len()) {
            Ok(number) if self.rules.len() < self.capacity => {
                self.rules.push(rule);
                self.numbers.insert(rule, number);
                number
            }
            _ => {
                self.refused += 1;
                fixed::UNSUPPORTED
            }
        }
    }

    /// All rules; a rule's number is its place.
    pub fn as_slice(&self) -> &[abi::ms_rule] {
        &self.rules
    }

    /// The rule with this number.
    pub fn get(&self, number: u16) -> Option<&abi::ms_rule> {
        self.rules.get(usize::from(number))
    }

    /// How many rules there are; never less than the fixed ones.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are only the fixed rules.
    pub fn is_empty(&self) -> bool {
        self.rules.len() <= abi::MS_FIRST_FREE_RULE as usize
    }

    /// Takes back the rules from this number on: no table that is kept uses them.
    pub fn truncate(&mut self, len: usize) {
        let from = len.max(abi::MS_FIRST_FREE_RULE as usize).min(self.rules.len());
        for rule in self.rules.drain(from..) {
            self.numbers.remove(&rule);
        }
    }

    /// How often a rule found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(off: i32) -> abi::ms_rule {
        abi::ms_rule {
            cfa: abi::MS_CFA_REG as u8,
            reg: 7,
            window: 1,
            off,
            ..Default::default()
        }
    }

    #[test]
    fn the_first_numbers_are_those_of_the_c_header() {
        let mut set = RuleSet::new();
        assert!(set.is_empty());
        for (number, cfa) in [
            (abi::MS_RULE_HOLE, abi::MS_CFA_HOLE),
            (abi::MS_RULE_ROOT, abi::MS_CFA_ROOT),
            (abi::MS_RULE_UNSUPPORTED, abi::MS_CFA_UNSUPPORTED),
        ] {
            let number = u16::try_from(number).unwrap();
            let rule = *set.get(number).unwrap();
            assert_eq!(u32::from(rule.cfa), cfa);
            assert_eq!(set.intern(rule), number);
        }
        assert_eq!(
            set.intern(rule(8)),
            u16::try_from(abi::MS_FIRST_FREE_RULE).unwrap()
        );
    }

    #[test]
    fn equal_rules_share_a_number() {
        let mut set = RuleSet::new();
        let first = set.intern(rule(16));
        assert_ne!(first, set.intern(rule(24)));
        assert_eq!(first, set.intern(rule(16)));
        assert_eq!(set.len(), 5);
    }

    #[test]
    fn a_full_set_answers_unsupported_and_counts() {
        let mut set = RuleSet::with_capacity(4);
        let known = set.intern(rule(8));
        assert_eq!(set.intern(rule(16)), fixed::UNSUPPORTED);
        assert_eq!(set.intern(rule(16)), fixed::UNSUPPORTED);
        assert_eq!(set.intern(rule(8)), known);
        assert_eq!(set.refused(), 2);
    }

    #[test]
    fn rules_taken_back_leave_the_others_as_they_were() {
        let mut set = RuleSet::with_capacity(5);
        let kept = set.intern(rule(8));
        let taken = set.intern(rule(16));
        set.truncate(4);
        assert_eq!((set.len(), set.intern(rule(8))), (4, kept));
        assert_eq!((set.intern(rule(24)), set.refused()), (taken, 0));
        // those that the C header names stay
        set.truncate(0);
        assert_eq!(set.len(), 3);
    }

    #[test]
    fn all_numbers_of_a_row_can_be_used() {
        let mut set = RuleSet::new();
        for off in 0..i32::try_from(MAX_RULES).unwrap() {
            set.intern(rule(off));
        }
        assert_eq!(set.len(), MAX_RULES);
        assert_eq!(set.refused(), 3);
    }
}
