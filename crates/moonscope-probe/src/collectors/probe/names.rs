//! Names that were asked for: with `*` for whatever, and which others come near to one that there is not.

/// A name in which `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// `None`: an empty name.
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// As it was asked for.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// May it be more than one name?
    pub fn is_open(&self) -> bool {
        self.0.contains('*')
    }

    /// Is this name meant?
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

/// How many names are suggested.
const SUGGESTIONS: usize = 4;

/// Names longer than this are not compared: C++ has some of many kilobytes.
const LONGEST: usize = 80;

/// The names that come nearest to one that there is not: with a few letters changed, or with it in them, or it with
/// them in it.
pub fn nearest<'a>(asked: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let asked = asked.trim_matches('*');
    let mut found: Vec<(usize, &str)> = names
        .filter(|name| !name.is_empty() && name.len() <= LONGEST)
        .filter_map(|name| Some((distance(asked, name)?, name)))
        .collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(SUGGESTIONS);
    found.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// `None`: too far.
fn distance(asked: &str, name: &str) -> Option<usize> {
    let most = asked.len() / 4 + 1;
    if asked.len().abs_diff(name.len()) <= most {
        let changed = edits(asked.as_bytes(), name.as_bytes());
        if changed <= most {
            return Some(changed);
        }
    }
    let is_part = asked.len() >= 3 && name.contains(asked) || name.len() >= 5 && asked.contains(name);
    is_part.then(|| most + asked.len().abs_diff(name.len()))
}

/// Letters to change, add and leave out (Levenshtein).
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Which of these names tell of most of the same, by the words that underscores part: `tcp_retransmit_skb` for
/// `tcp_retransmit_skb_impl`.
pub fn alike<'a>(asked: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let words = |name: &str| -> Vec<String> {
        let name = name.rsplit(':').next().unwrap_or_default();
        let words = name.split(|c: char| !c.is_ascii_alphanumeric());
        let words = words.filter(|word| word.len() >= 3 && !["sys", "enter", "exit", "x64"].contains(word));
        words.map(str::to_owned).collect()
    };
    let wanted = words(asked);
    let mut found: Vec<(std::cmp::Reverse<usize>, usize, &str)> = names
        .filter_map(|name| {
            let has = words(name);
            let common = has.iter().filter(|word| wanted.contains(word)).count();
            (common > 0).then_some((std::cmp::Reverse(common), has.len(), name))
        })
        .collect();
    found.sort_unstable();
    found.truncate(SUGGESTIONS);
    found.into_iter().map(|(_, _, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_whatever() {
        let matches = |pattern: &str, name: &str| Pattern::new(pattern).unwrap().matches(name);
        assert!(matches("malloc", "malloc") && !matches("malloc", "malloc2"));
        assert!(matches("*", "") && matches("*", "anything"));
        assert!(matches("m*c", "malloc") && matches("m*c", "mc") && !matches("m*c", "m"));
        assert!(matches("a*b*c", "a-b-b-c") && !matches("a*b*c", "a-c"));
        // nothing counts twice
        assert!(!matches("ab*ba", "aba"));
    }

    #[test]
    fn names_with_a_typing_error_come_first() {
        let names = ["malloc", "realloc", "mallopt", "free", "malloc_usable_size"];
        assert_eq!(nearest("maloc", names.into_iter())[0], "malloc");
        assert_eq!(nearest("usable_size", names.into_iter()), ["malloc_usable_size"]);
        assert!(nearest("quite_another", names.into_iter()).is_empty());
    }

    #[test]
    fn tracepoints_are_found_by_their_words() {
        let names = [
            "tcp:tcp_retransmit_skb",
            "sched:sched_switch",
            "syscalls:sys_enter_read",
        ];
        assert_eq!(
            alike("__tcp_retransmit_skb", names.into_iter()),
            ["tcp:tcp_retransmit_skb"]
        );
        assert_eq!(alike("vfs_read", names.into_iter()), ["syscalls:sys_enter_read"]);
    }
}
