//! A part of a profile that takes less memory: its heaviest stacks.

use crate::frame::Frame;
use crate::labels::LabelSet;
use crate::merge::Copier;
use crate::profile::Profile;

/// What stands for the stacks that were left out.
const LEFT_OUT: &str = "stacks left out";

impl Profile {
    /// The samples with the largest values, until they have so many stacks, or are so many; the sum of all others is under
    /// the stack `[stacks left out]`, without labels. A value counts by its share of all that there is of its type.
    #[must_use]
    pub fn heaviest(&self, stacks: usize) -> Self {
        let totals: Vec<f64> = (0..self.value_types().len())
            .map(|value| self.total(value).max(1) as f64)
            .collect();
        let weight = |values: &[i64]| -> f64 {
            let shares = values
                .iter()
                .zip(&totals)
                .map(|(value, total)| *value as f64 / total);
            shares.fold(0.0, f64::max)
        };
        let mut samples: Vec<_> = self
            .samples()
            .map(|sample| (weight(sample.values), sample))
            .collect();
        samples.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut part = Self::new(self.value_types().to_vec());
        part.meta = self.meta.clone();
        part.accounting = self.accounting.clone();
        let mut copy = Copier::new(self);
        let mut rest = None;
        for (_, sample) in samples {
            if part.stacks().len() < stacks && part.samples().len() < stacks {
                copy.sample(&mut part, sample, sample.values);
            } else {
                let rest = *rest.get_or_insert_with(|| {
                    let frame = part.frame(Frame::marker(LEFT_OUT));
                    (part.child(None, frame), part.label_set(LabelSet::default()))
                });
                part.add(Some(rest.0), rest.1, sample.values);
            }
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameKind;
    use crate::meta::ValueType;

    #[test]
    fn the_lightest_stacks_are_summed_up_and_nothing_is_lost() {
        let mut profile = Profile::new(vec![ValueType::samples(), ValueType::new("io", "bytes")]);
        for (name, values) in [
            ("light", [1, 0]),
            ("heavy", [90, 0]),
            ("bytes", [2, 1000]),
            ("low", [3, 0]),
        ] {
            let frame = profile.frame(Frame::named(FrameKind::Native, name));
            let stack = profile.child(None, frame);
            let labels = profile.labels(&[("comm", name.into())]);
            profile.add(Some(stack), labels, &values);
        }
        let part = profile.heaviest(2);
        let rows: Vec<(String, Vec<i64>)> = part
            .samples()
            .map(|sample| {
                let frame = part.leaf_to_root(sample.stack).next().unwrap();
                (part.text_of(frame).to_string(), sample.values.to_vec())
            })
            .collect();
        assert_eq!(
            rows,
            [
                ("bytes".to_owned(), vec![2, 1000]),
                ("heavy".to_owned(), vec![90, 0]),
                ("[stacks left out]".to_owned(), vec![4, 0]),
            ]
        );
        // what is summed up once is summed up again
        assert_eq!(part.heaviest(1).total(0), 96);
    }
}
