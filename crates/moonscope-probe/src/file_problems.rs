//! Executable files of which something could not be used: damaged, gone, of a kind that is not known. Each is told once.

use crate::limits::MAX_REASONS;

/// What is wrong with files, a sentence each that begins with the path of the file; fit for a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileProblems {
    told: Vec<String>,
    /// How many more there were, some of them counted more than once.
    pub more: u64,
}

impl FileProblems {
    /// Takes note of one.
    pub(crate) fn add(&mut self, problem: String) {
        if self.told.contains(&problem) {
            return;
        }
        if self.told.len() >= MAX_REASONS {
            self.more += 1;
            return;
        }
        self.told.push(problem);
    }

    /// All that are remembered, in the order in which they were met.
    pub fn all(&self) -> &[String] {
        &self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_kept_once_and_those_beyond_the_limit_are_counted() {
        let mut problems = FileProblems::default();
        for number in (0..MAX_REASONS).chain(0..MAX_REASONS + 3) {
            problems.add(format!("file {number}"));
        }
        assert_eq!((problems.all().len(), problems.more), (MAX_REASONS, 3));
    }
}
