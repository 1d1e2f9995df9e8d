//! A line that is marked, and the part of a list around it that is seen.

/// The cursor in a list that changes all the time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    /// What it stands on, once somebody moved it: it follows that.
    pub on: Option<u64>,
    /// The number of its line.
    pub line: usize,
    /// The first line that is seen.
    pub first: usize,
    /// How many lines the list has.
    count: usize,
    /// How many lines are seen at once.
    pub page: usize,
}

impl Cursor {
    /// The list changed: it has so many lines, which are these.
    pub fn follow(&mut self, count: usize, identities: &[u64]) {
        self.count = count;
        let line = self
            .on
            .and_then(|on| identities.iter().position(|identity| *identity == on));
        self.line = line.unwrap_or(self.line).min(count.saturating_sub(1));
        self.scroll();
    }

    /// Goes so many lines down, or up.
    pub fn go(&mut self, lines: isize, identities: &[u64]) {
        let last = identities.len().saturating_sub(1);
        self.line = self.line.saturating_add_signed(lines).min(last);
        // on the first line it stays there, whatever that is
        self.on = identities.get(self.line).copied().filter(|_| self.line > 0);
        self.scroll();
    }

    /// So many lines are seen at once.
    pub fn see(&mut self, page: usize) {
        self.page = page;
        self.scroll();
    }

    fn scroll(&mut self) {
        let page = self.page.max(1);
        self.first = self
            .first
            .min(self.count.saturating_sub(page))
            .min(self.line)
            .max((self.line + 1).saturating_sub(page));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_it_stands_on_and_stays_in_sight() {
        let mut cursor = Cursor::default();
        let ids: Vec<u64> = (0..100).collect();
        cursor.see(10);
        cursor.follow(100, &ids);
        cursor.go(14, &ids);
        assert_eq!((cursor.line, cursor.first), (14, 5));
        let turned: Vec<u64> = ids.iter().rev().copied().collect();
        cursor.follow(100, &turned);
        assert_eq!((cursor.line, cursor.first), (85, 76));
        cursor.follow(3, &[7, 8, 9]);
        assert_eq!((cursor.line, cursor.first), (2, 0));
        cursor.go(-100, &[7, 8, 9]);
        assert_eq!((cursor.line, cursor.on), (0, None));
        cursor.follow(0, &[]);
        assert_eq!((cursor.line, cursor.first), (0, 0));
    }
}
