//! Counts in words.

use std::fmt::Display;

/// `1 process`, `0 processes`, `3 unwind tables`: a count and what is counted, which is given for one of it.
pub fn counted<N: Display + PartialEq + From<u8>>(count: N, one: &str) -> String {
    if count == N::from(1) {
        return format!("1 {one}");
    }
    let before_y = one
        .strip_suffix('y')
        .filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u']));
    match before_y {
        Some(stem) => format!("{count} {stem}ies"),
        None if one.ends_with(['s', 'x']) || one.ends_with("ch") => format!("{count} {one}es"),
        None => format!("{count} {one}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_is_singular_and_all_else_is_plural() {
        for (count, one, expected) in [
            (0, "sample", "0 samples"),
            (1, "sample", "1 sample"),
            (2, "sample", "2 samples"),
            (1, "process", "1 process"),
            (12, "process", "12 processes"),
            (2, "entry", "2 entries"),
            (2, "key", "2 keys"),
            (2, "mutex", "2 mutexes"),
            (3, "unwind table", "3 unwind tables"),
        ] {
            assert_eq!(counted::<u64>(count, one), expected);
        }
    }
}
