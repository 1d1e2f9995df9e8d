//! A part of a profile: some labels, some frames.

use regex::Regex;

use crate::frame::FrameId;
use crate::merge::Copier;
use crate::profile::Profile;

/// Which samples to keep. The default keeps all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Keep stacks in which the text form of some frame matches one of these. Empty: all stacks.
    pub only: Vec<Regex>,
    /// Drop stacks in which the text form of some frame matches one of these.
    pub without: Vec<Regex>,
    /// For each key: keep samples whose label has one of these values, as text.
    pub labels: Vec<(String, Vec<String>)>,
}

impl Filter {
    /// Whether everything is kept.
    pub fn is_empty(&self) -> bool {
        self.only.is_empty() && self.without.is_empty() && self.labels.is_empty()
    }

    /// The part of `profile` that is kept. Its accounting stays that of the whole recording; a comment
    /// says so.
    pub fn apply(&self, profile: &Profile) -> Profile {
        let texts: Vec<String> = (0..profile.frames().len())
            .map(|nr| profile.text_of(FrameId(nr as u32)).to_string())
            .collect();
        let matches = |patterns: &[Regex]| -> Vec<bool> {
            texts
                .iter()
                .map(|text| patterns.iter().any(|pattern| pattern.is_match(text)))
                .collect()
        };
        let (only, without) = (matches(&self.only), matches(&self.without));
        // Parents stand before their children, so one pass says for every stack what is in it.
        let (mut has_only, mut has_without) = (Vec::new(), Vec::new());
        for node in profile.stacks() {
            let inherited = |of: &[bool]| node.parent.is_some_and(|parent| of[parent.index()]);
            let here = (inherited(&has_only), inherited(&has_without));
            has_only.push(here.0 || only[node.frame.index()]);
            has_without.push(here.1 || without[node.frame.index()]);
        }
        let kept_labels: Vec<bool> = profile
            .label_sets()
            .iter()
            .map(|labels| {
                self.labels.iter().all(|(wanted, values)| {
                    labels
                        .iter()
                        .any(|(key, value)| key == wanted && values.contains(&value.to_string()))
                })
            })
            .collect();

        let mut part = Profile::new(profile.value_types().to_vec());
        part.meta = profile.meta.clone();
        part.accounting = profile.accounting.clone();
        let mut copy = Copier::new(profile);
        for sample in profile.samples() {
            let in_stack = |of: &[bool]| sample.stack.is_some_and(|stack| of[stack.index()]);
            let keep = kept_labels[sample.labels.index()]
                && (self.only.is_empty() || in_stack(&has_only))
                && !in_stack(&has_without);
            if keep {
                copy.sample(&mut part, sample, sample.values);
            }
        }
        if !self.is_empty() {
            part.meta.comments.push(self.comment());
        }
        part
    }

    fn comment(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.only.iter().map(|pattern| format!("only /{pattern}/")));
        parts.extend(self.without.iter().map(|pattern| format!("without /{pattern}/")));
        parts.extend(
            self.labels
                .iter()
                .map(|(key, values)| format!("{key} {}", values.join(" or "))),
        );
        format!(
            "a part of the recording: {}; ticks are counted for all of it",
            parts.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, FrameKind};
    use crate::meta::ValueType;

    fn kept(filter: &Filter) -> i64 {
        let mut profile = Profile::new(vec![ValueType::samples()]);
        let [main, work, read] = ["main", "work", "read"].map(|name| {
            let kind = if name == "read" {
                FrameKind::Kernel
            } else {
                FrameKind::Native
            };
            profile.frame(Frame::named(kind, name))
        });
        for (pid, frames, value) in [
            (1, &[main][..], 1),
            (1, &[main, work], 2),
            (2, &[main, work, read], 4),
            (2, &[], 8),
        ] {
            let stack = profile.stack(frames.iter().copied());
            let labels = profile.labels(&[("pid", pid.into())]);
            profile.add(stack, labels, &[value]);
        }
        filter.apply(&profile).total(0)
    }

    fn regex(pattern: &str) -> Vec<Regex> {
        vec![Regex::new(pattern).unwrap()]
    }

    #[test]
    fn frames_and_labels_choose_the_samples() {
        assert_eq!(kept(&Filter::default()), 15);
        assert_eq!(
            kept(&Filter {
                only: regex("^work$"),
                ..Filter::default()
            }),
            6
        );
        assert_eq!(
            kept(&Filter {
                without: regex(r"_\[k\]"),
                ..Filter::default()
            }),
            11
        );
        let pids = vec![("pid".to_owned(), vec!["2".to_owned(), "3".to_owned()])];
        assert_eq!(
            kept(&Filter {
                labels: pids.clone(),
                ..Filter::default()
            }),
            12
        );
        let both = Filter {
            only: regex("main"),
            without: regex("read"),
            labels: pids,
        };
        assert_eq!(kept(&both), 0);
    }
}
