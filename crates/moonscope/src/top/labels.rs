//! Labels that samples can be told apart by, in words.

use moonscope_profile::{Grouping, Profile};

/// The label that is shown when none was chosen.
pub const FIRST: &str = "pid";

/// What stands for samples without a label.
pub const NONE: &str = "(none)";

/// Those that come first, in this order; then those of events.
const ORDER: [&str; 6] = ["pid", "tid", "lua-state", "nginx-phase", "lua-plugin", "cgroup"];

/// Those that others say better: the name of a process stands beside its pid.
const HIDDEN: [&str; 3] = ["comm", "thread", "ns-pid"];

/// Keys of the labels that samples of a profile have.
pub fn keys(profile: &Profile) -> Vec<String> {
    let mut keys: Vec<&str> = profile
        .label_sets()
        .iter()
        .flat_map(|labels| labels.iter().map(|(key, _)| key))
        .filter(|key| !HIDDEN.contains(key))
        .collect();
    keys.sort_unstable_by_key(|key| {
        let place = ORDER.iter().position(|known| known == key);
        (place.unwrap_or(ORDER.len()), *key)
    });
    keys.dedup();
    keys.into_iter().map(str::to_owned).collect()
}

/// The key that a word on the command line means, as for `record --by`.
pub fn key(word: &str) -> Option<String> {
    match Grouping::by(word) {
        Grouping::Label(key) if key != "comm" => Some(key),
        _ => None,
    }
}

/// What a label is called on the screen.
pub fn name(key: &str) -> String {
    match key {
        "pid" => "process".to_owned(),
        "tid" => "thread".to_owned(),
        key => Grouping::Label(key.to_owned()).word().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_are_there_come_in_the_order_of_their_use() {
        let mut profile = Profile::new(Vec::new());
        profile.labels(&[
            ("comm", "a".into()),
            ("pid", 7.into()),
            ("offcpu-reason", "sleep".into()),
        ]);
        profile.labels(&[
            ("lua-plugin", "cors".into()),
            ("tid", 7.into()),
            ("pid", 8.into()),
        ]);
        let words: Vec<_> = keys(&profile).iter().map(|key| name(key)).collect();
        assert_eq!(words, ["process", "thread", "plugin", "offcpu-reason"]);
        assert_eq!(key("plugin").as_deref(), Some("lua-plugin"));
        assert_eq!((key("none"), key("comm")), (None, None));
    }
}
