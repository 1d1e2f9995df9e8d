//! One profile out of two.

use crate::frame::{Frame, FrameId, ModuleId};
use crate::labels::LabelsId;
use crate::profile::{Profile, Sample, StackId};

impl Profile {
    /// Adds all samples of `other`, and its accounting. Values go to the same value type; types that
    /// only `other` has are added. The time range grows to hold both.
    pub fn merge(&mut self, other: &Self) {
        let places: Vec<usize> = other
            .value_types()
            .iter()
            .map(|value| self.value_type(value.clone()))
            .collect();
        let mut copy = Copier::new(other);
        let mut values = vec![0; self.value_types().len()];
        for sample in other.samples() {
            values.fill(0);
            for (place, value) in places.iter().zip(sample.values) {
                values[*place] = *value;
            }
            copy.sample(self, sample, &values);
        }
        self.accounting.merge(&other.accounting);
        self.merge_meta(other);
    }

    /// Takes away what [`Profile::merge`] of the same profile added to the values. Its stacks stay, with values of 0; so do
    /// accounting and circumstances.
    pub fn subtract(&mut self, other: &Self) {
        let places: Vec<usize> = other
            .value_types()
            .iter()
            .map(|value| self.value_type(value.clone()))
            .collect();
        let mut copy = Copier::new(other);
        let mut values = vec![0; self.value_types().len()];
        for sample in other.samples() {
            values.fill(0);
            for (place, value) in places.iter().zip(sample.values) {
                values[*place] = value.saturating_neg();
            }
            copy.sample(self, sample, &values);
        }
    }

    fn merge_meta(&mut self, other: &Self) {
        let (mine, others) = (&mut self.meta, &other.meta);
        let end =
            |start: Option<u64>, duration: Option<u64>| Some(start?.saturating_add(duration.unwrap_or(0)));
        let ends = [end(mine.start, mine.duration), end(others.start, others.duration)];
        let start = [mine.start, others.start].into_iter().flatten().min();
        mine.duration = match (start, ends.into_iter().flatten().max()) {
            (Some(start), Some(end)) => Some(end - start),
            _ => mine.duration.max(others.duration),
        };
        mine.start = start;
        if mine.period != others.period {
            mine.period = None;
        }
        if mine.frequency_hz != others.frequency_hz {
            mine.frequency_hz = None;
        }
        let fields = [
            (&mut mine.event, &others.event),
            (&mut mine.target, &others.target),
            (&mut mine.host, &others.host),
            (&mut mine.kernel, &others.kernel),
            (&mut mine.producer, &others.producer),
        ];
        for (mine, other) in fields {
            // a part may have commas of its own
            let is_new = !format!(", {mine}, ").contains(&format!(", {other}, "));
            match (mine.is_empty(), is_new && !other.is_empty()) {
                (true, _) => mine.clone_from(other),
                (false, true) => *mine = format!("{mine}, {other}"),
                (false, false) => {}
            }
        }
        for comment in &others.comments {
            if !mine.comments.contains(comment) {
                mine.comments.push(comment.clone());
            }
        }
    }
}

/// Carries samples from one profile into another, which numbers everything anew.
pub(crate) struct Copier<'a> {
    from: &'a Profile,
    modules: Vec<Option<ModuleId>>,
    frames: Vec<Option<FrameId>>,
    stacks: Vec<Option<StackId>>,
    labels: Vec<Option<LabelsId>>,
}

impl<'a> Copier<'a> {
    pub fn new(from: &'a Profile) -> Self {
        Self {
            from,
            modules: vec![None; from.modules().len()],
            frames: vec![None; from.frames().len()],
            stacks: vec![None; from.stacks().len()],
            labels: vec![None; from.label_sets().len()],
        }
    }

    /// Adds the stack of `sample` with these values.
    pub fn sample(&mut self, to: &mut Profile, sample: Sample<'_>, values: &[i64]) {
        let labels = *self.labels[sample.labels.index()]
            .get_or_insert_with(|| to.label_set(self.from.labels_of(sample.labels).clone()));
        self.sample_with(to, sample, labels, values);
    }

    /// The same with other labels, those of `to`.
    pub fn sample_with(&mut self, to: &mut Profile, sample: Sample<'_>, labels: LabelsId, values: &[i64]) {
        let stack = sample.stack.map(|stack| self.stack(to, stack));
        to.add(stack, labels, values);
    }

    fn stack(&mut self, to: &mut Profile, stack: StackId) -> StackId {
        // Down to the nearest caller that was copied already, then back up.
        let mut missing = Vec::new();
        let mut at = Some(stack);
        let mut copied = None;
        while let Some(id) = at {
            copied = self.stacks[id.index()];
            if copied.is_some() {
                break;
            }
            missing.push(id);
            at = self.from.node(id).parent;
        }
        for id in missing.into_iter().rev() {
            let frame = self.frame(to, self.from.node(id).frame);
            let new = to.child(copied, frame);
            self.stacks[id.index()] = Some(new);
            copied = Some(new);
        }
        copied.unwrap_or(stack)
    }

    fn frame(&mut self, to: &mut Profile, id: FrameId) -> FrameId {
        if let Some(copied) = self.frames[id.index()] {
            return copied;
        }
        let frame = self.from.frame_of(id);
        let module = frame.module.map(|module| {
            *self.modules[module.index()]
                .get_or_insert_with(|| to.module(self.from.module_of(module).clone()))
        });
        let copied = to.frame(Frame {
            module,
            ..frame.clone()
        });
        self.frames[id.index()] = Some(copied);
        copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameKind, Module};
    use crate::meta::ValueType;

    fn example(kind: &str, path: &str, value: i64) -> Profile {
        let mut profile = Profile::new(vec![ValueType::new(kind, "count")]);
        let module = profile.module(Module::new(path));
        let main = profile.frame(Frame {
            module: Some(module),
            ..Frame::named(FrameKind::Native, "main")
        });
        let leaf = profile.frame(Frame::named(FrameKind::Kernel, "leaf"));
        let stack = profile.stack([main, leaf]);
        let labels = profile.labels(&[("comm", "a".into())]);
        profile.add(stack, labels, &[value]);
        profile.meta.start = Some(value as u64 * 100);
        profile.meta.duration = Some(50);
        profile
    }

    #[test]
    fn equal_stacks_are_added_up_and_others_kept_apart() {
        let mut all = example("samples", "/bin/a", 1);
        all.merge(&example("samples", "/bin/a", 2));
        all.merge(&example("samples", "/bin/b", 4));
        assert_eq!(
            all.samples()
                .map(|sample| sample.values.to_vec())
                .collect::<Vec<_>>(),
            [[3], [4]]
        );
        assert_eq!((all.meta.start, all.meta.duration), (Some(100), Some(350)));
        assert_eq!(all.modules().len(), 2);
    }

    #[test]
    fn values_of_another_type_stand_beside() {
        let mut all = example("samples", "/bin/a", 1);
        all.merge(&example("faults", "/bin/a", 2));
        assert_eq!(
            all.samples()
                .map(|sample| sample.values.to_vec())
                .collect::<Vec<_>>(),
            [[1, 2]]
        );
    }

    #[test]
    fn what_was_added_can_be_taken_away() {
        let mut all = example("samples", "/bin/a", 1);
        all.merge(&example("faults", "/bin/a", 2));
        all.subtract(&example("samples", "/bin/a", 1));
        assert_eq!(
            all.samples()
                .map(|sample| sample.values.to_vec())
                .collect::<Vec<_>>(),
            [[0, 2]]
        );
    }

    #[test]
    fn circumstances_that_are_the_same_are_told_once() {
        let mut all = Profile::new(Vec::new());
        for target in [
            "nginx (master 7, 3 processes)",
            "nginx (master 7, 3 processes)",
            "job",
            "job",
        ] {
            let mut profile = example("samples", "/bin/a", 1);
            profile.meta.target = target.to_owned();
            all.merge(&profile);
        }
        assert_eq!(all.meta.target, "nginx (master 7, 3 processes), job");
    }
}
