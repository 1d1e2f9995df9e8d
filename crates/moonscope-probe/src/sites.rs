//! What coroutines call to wait, by the name that their code has for it: few names, each with a number that is a tag.

use std::sync::Arc;

use rustc_hash::FxHashMap;

/// Names that are kept: programs have a dozen. Others have none.
const MOST: usize = 1 << 12;

/// Names and their numbers, from 1 on.
#[derive(Debug, Default)]
pub struct Sites {
    names: Vec<Arc<str>>,
    numbers: FxHashMap<Arc<str>, u32>,
}

impl Sites {
    /// The number of a name; `None` if there are too many.
    pub fn number(&mut self, name: &str) -> Option<u32> {
        if let Some(&number) = self.numbers.get(name) {
            return Some(number);
        }
        if self.names.len() >= MOST {
            return None;
        }
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        let number = self.names.len() as u32;
        self.numbers.insert(name, number);
        Some(number)
    }

    /// The names, that of number 1 first.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.names.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number() {
        let mut sites = Sites::default();
        assert_eq!(sites.number("sleep"), Some(1));
        assert_eq!(sites.number("receive"), Some(2));
        assert_eq!(sites.number("sleep"), Some(1));
        assert_eq!(sites.names().len(), 2);
    }
}
