//! Two profiles side by side: what takes a larger share now, and what a smaller one.

mod graph;
mod text;

use std::io::Write;

use crate::error::WriteError;
use crate::folded;
use crate::format::Format;
use crate::headline::{circumstances, subject};
use crate::meta::ValueType;
use crate::options::WriteOptions;
use crate::profile::Profile;
use crate::view::{Name, Names, Row, View, ranked};

/// A path in both profiles; 0 where it does not occur.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    path: Vec<u32>,
    before: u64,
    after: u64,
}

/// One of the two profiles, in words.
#[derive(Clone, Debug)]
struct Side {
    subject: String,
    circumstances: String,
    total: u64,
}

/// Two profiles side by side, matched by the names in their stacks.
#[derive(Clone, Debug)]
pub struct Comparison {
    names: Vec<Name>,
    /// Sorted by path.
    pairs: Vec<Pair>,
    value: ValueType,
    before: Side,
    after: Side,
    raw: bool,
    options: WriteOptions,
}

impl Comparison {
    /// Compares `before` with `after`. Values are shares of each profile's total, unless `raw`, which
    /// compares them as they are and so needs recordings of equal length and load.
    pub fn new(
        before: &Profile,
        after: &Profile,
        options: &WriteOptions,
        raw: bool,
    ) -> Result<Self, WriteError> {
        let mut views = [View::new(before, options)?, View::new(after, options)?];
        match views.each_ref().map(View::has_groups) {
            [true, false] => views[1].make_groups_of_roots(),
            [false, true] => views[0].make_groups_of_roots(),
            _ => {}
        }
        let side = |profile: &Profile, view: &View| Side {
            subject: subject(profile),
            circumstances: circumstances(profile),
            total: view.total,
        };
        let (before, after) = (side(before, &views[0]), side(after, &views[1]));
        let value = views[1].value.clone();
        let mut names = Names::default();
        let [old, new] = views.map(|view| {
            let numbers: Vec<u32> = view.names.into_iter().map(|name| names.number(name)).collect();
            (numbers, view.rows)
        });
        let (names, rank) = ranked(names.items);
        let renamed = |(numbers, rows): (Vec<u32>, Vec<Row>)| {
            rows.into_iter().map(move |row| {
                let path: Vec<u32> = row
                    .path
                    .iter()
                    .map(|name| rank[numbers[*name as usize] as usize])
                    .collect();
                (path, row.value)
            })
        };
        let mut pairs: Vec<Pair> = renamed.clone()(old)
            .map(|(path, before)| Pair {
                path,
                before,
                after: 0,
            })
            .chain(renamed(new).map(|(path, after)| Pair {
                path,
                before: 0,
                after,
            }))
            .collect();
        pairs.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        pairs.dedup_by(|next, kept| {
            let same = next.path == kept.path;
            if same {
                kept.before = kept.before.saturating_add(next.before);
                kept.after = kept.after.saturating_add(next.after);
            }
            same
        });
        Ok(Self {
            names,
            pairs,
            value,
            before,
            after,
            raw,
            options: options.clone(),
        })
    }

    /// Writes it. Only some formats [can hold](Format::holds_diff) a comparison: `.svg` is a flame graph
    /// of `after` in which red grew and blue shrank, `.folded` has two counts on each line, `.txt` is a
    /// table of the functions that changed most.
    pub fn write(&self, format: Format, out: &mut dyn Write) -> Result<(), WriteError> {
        match format {
            Format::Svg => graph::write(self, out),
            Format::Folded => self.write_folded(out),
            Format::Text => text::write(self, out),
            Format::Pprof | Format::Speedscope | Format::Json | Format::StackAnalyzer => {
                let known: Vec<_> = Format::all()
                    .into_iter()
                    .filter(|format| format.holds_diff())
                    .map(Format::name)
                    .collect();
                Err(WriteError::NoDiff {
                    format,
                    known: known.join(", "),
                })
            }
        }
    }

    /// What to multiply values of `before` with, so that both have the same total.
    fn scale(&self) -> f64 {
        if self.raw || self.before.total == 0 {
            1.0
        } else {
            self.after.total as f64 / self.before.total as f64
        }
    }

    /// Both counts, scaled unless raw; `inferno-diff-folded` and `difffolded.pl` write the same form.
    fn write_folded(&self, out: &mut dyn Write) -> Result<(), WriteError> {
        let names: Vec<_> = self.names.iter().map(|name| folded::escape(&name.text)).collect();
        let scale = self.scale();
        let mut line = Vec::new();
        for pair in &self.pairs {
            line.clear();
            folded::join(&names, &pair.path, &mut line);
            let before = (pair.before as f64 * scale).round() as u64;
            writeln!(line, " {before} {}", pair.after)?;
            out.write_all(&line)?;
        }
        Ok(())
    }
}
