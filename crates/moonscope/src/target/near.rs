//! Other names for one that nothing has: people mistype.

use moonscope_process::visible;
use std::collections::BTreeSet;
use std::ffi::OsStr;

/// How many other names an error offers.
const OFFERED: usize = 10;

/// Names that are like those asked for, the most alike first.
pub(super) fn near(known: &BTreeSet<String>, asked: &[&OsStr]) -> Vec<String> {
    let base = |name: &str| name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let asked: Vec<String> = asked.iter().map(|name| base(&name.to_string_lossy())).collect();
    let distance = |name: &&String| {
        let name = base(name);
        let one = |asked: &String| match name.contains(asked.as_str()) || asked.contains(&name) {
            true => 1,
            false => edits(&name, asked),
        };
        asked.iter().map(one).min().unwrap_or(usize::MAX)
    };
    let mut found: Vec<_> = known
        .iter()
        .map(|name| (distance(&name), name))
        .filter(|(far, _)| *far <= 2)
        .collect();
    found.sort();
    found
        .into_iter()
        .take(OFFERED)
        .map(|(_, name)| visible(name).to_string())
        .collect()
}

/// Edit distance (Levenshtein) of two short names.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted_like_a_person_would() {
        assert_eq!(edits("nginx", "nginx"), 0);
        assert_eq!(edits("ngnix", "nginx"), 2);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
    }

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        let known = ["nginx", "nginx-debug", "bash", "/usr/sbin/nginx"]
            .map(str::to_owned)
            .into();
        assert_eq!(near(&known, &[OsStr::new("ngnix")]), ["/usr/sbin/nginx", "nginx"]);
        assert_eq!(
            near(&known, &[OsStr::new("ngin")]),
            ["/usr/sbin/nginx", "nginx", "nginx-debug"]
        );
        assert_eq!(near(&known, &[OsStr::new("postgres")]), Vec::<String>::new());
    }
}
