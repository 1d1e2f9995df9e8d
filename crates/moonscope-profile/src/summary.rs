//! What each value of a label has: the samples of a plugin, of a phase, of a state of the Lua VM.

use std::collections::{BTreeMap, HashSet};

use crate::error::WriteError;
use crate::lineage::{Lineage, PHASE, PLUGIN};
use crate::meta::ValueType;
use crate::options::{Grouping, WriteOptions, readable_unit};
use crate::profile::Profile;
use crate::text::{Grouped, visible};

/// Lines of a printed summary; the rest is summed up.
const MAX_LINES: usize = 40;

/// One value of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryRow {
    /// The value; `None`: samples that have no such label.
    pub value: Option<String>,
    /// What it has by itself: it is the innermost plugin or phase.
    pub own: u64,
    /// With all plugins or phases that ran inside of it.
    pub total: u64,
}

/// All values of a label, those with the largest own part first, those without the label last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What is summed up, in words: `plugin`, `phase`, `lua-state`.
    pub word: String,
    /// The values.
    pub rows: Vec<SummaryRow>,
    /// The sum of everything.
    pub all: u64,
    /// What is added up.
    pub unit: ValueType,
    /// Whether one value can run inside another, so that own and total differ.
    pub is_nested: bool,
}

impl Summary {
    /// By the label that graphs are split by; `None` where that says little: by comm, and by none.
    pub fn of(profile: &Profile, options: &WriteOptions) -> Result<Option<Self>, WriteError> {
        let Grouping::Label(key) = &options.group else {
            return Ok(None);
        };
        if key == "comm" {
            return Ok(None);
        }
        let value_nr = options.value_of(profile)?;
        let is_nested = key == PLUGIN || key == PHASE;
        let lineage = is_nested.then(|| Lineage::of(profile, &options.plugins));
        let mut rows: BTreeMap<Option<String>, (u64, u64)> = BTreeMap::new();
        let mut all = 0u64;
        let mut values: HashSet<String> = HashSet::new();
        for sample in profile.samples() {
            let value = sample.values.get(value_nr).copied().unwrap_or(0);
            let Ok(value @ 1..) = u64::try_from(value) else {
                continue;
            };
            all = all.saturating_add(value);
            let own = options.group.value(profile.labels_of(sample.labels));
            let row = rows.entry(own.clone()).or_default();
            row.0 = row.0.saturating_add(value);
            values.clear();
            match &lineage {
                Some(lineage) if key == PHASE => {
                    values.extend(lineage.phases(sample.stack).map(|phase| phase.name().to_owned()));
                }
                Some(lineage) => values.extend(lineage.plugins(sample.stack).map(str::to_owned)),
                None => {}
            }
            let inner = own.as_ref();
            if inner.is_none_or(|own| !values.contains(own)) {
                row.1 = row.1.saturating_add(value);
            }
            for name in values.drain() {
                let total = &mut rows.entry(Some(name)).or_default().1;
                *total = total.saturating_add(value);
            }
        }
        let mut rows: Vec<SummaryRow> = rows
            .into_iter()
            .map(|(value, (own, total))| SummaryRow { value, own, total })
            .collect();
        rows.sort_by_key(|row| (row.value.is_none(), std::cmp::Reverse((row.own, row.total))));
        Ok(Some(Self {
            word: options.group.word().to_owned(),
            rows,
            all,
            unit: profile
                .value_types()
                .get(value_nr)
                .cloned()
                .unwrap_or_else(ValueType::samples),
            is_nested,
        }))
    }

    /// Lines of a table, heading first, each as columns and a name.
    pub fn lines(&self) -> Vec<(String, String)> {
        let (unit, factor) = readable_unit(&self.unit, self.all);
        let column = |value: u64| {
            let share = 100.0 * value as f64 / self.all.max(1) as f64;
            let readable = (value as f64 * factor).round() as u64;
            format!("{:>12} {share:>5.1} %", Grouped(readable))
        };
        let columns = |own: u64, total: u64| match self.is_nested {
            true => format!("{}  {}  ", column(own), column(total)),
            false => format!("{}  ", column(own)),
        };
        let name = self.word.to_uppercase();
        let heading = match self.is_nested {
            true => format!("{:>12} {:>7}  {:>12} {:>7}  ", "SELF", "", "TOTAL", ""),
            false => format!("{:>12} {:>7}  ", unit.to_uppercase(), ""),
        };
        let mut lines = vec![(heading, name)];
        let (named, none): (Vec<&SummaryRow>, Vec<&SummaryRow>) =
            self.rows.iter().partition(|row| row.value.is_some());
        for row in named.iter().take(MAX_LINES) {
            let value = row.value.as_deref().unwrap_or_default();
            lines.push((columns(row.own, row.total), visible(value).into_owned()));
        }
        if let Some(rest) = named.get(MAX_LINES..).filter(|rest| !rest.is_empty()) {
            let own = rest.iter().fold(0u64, |sum, row| sum.saturating_add(row.own));
            let blank = match self.is_nested {
                true => format!("{}  {:>20}  ", column(own), ""),
                false => columns(own, own),
            };
            lines.push((blank, format!("({} more)", Grouped(rest.len() as u64))));
        }
        for row in none {
            lines.push((columns(row.own, row.total), "(none)".to_owned()));
        }
        lines
    }

    /// What stands above the table.
    pub fn title(&self) -> String {
        let (unit, _) = readable_unit(&self.unit, self.all);
        match self.is_nested {
            true => format!(
                "BY {}, {unit}; TOTAL is with every other {} that ran inside",
                self.word.to_uppercase(),
                self.word
            ),
            false => format!("BY {}, {unit}", self.word.to_uppercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::example;
    use crate::plugin::PluginPaths;

    fn summary(word: &str) -> Summary {
        let options = WriteOptions {
            group: Grouping::by(word),
            plugins: PluginPaths::new(["/srv/own"]),
            ..WriteOptions::default()
        };
        let profile = example().with_lineage(&options.plugins);
        Summary::of(&profile, &options).unwrap().unwrap()
    }

    fn row(value: Option<&str>, own: u64, total: u64) -> SummaryRow {
        SummaryRow {
            value: value.map(str::to_owned),
            own,
            total,
        }
    }

    #[test]
    fn each_plugin_on_a_stack_has_it_in_its_total_and_the_innermost_as_its_own() {
        let summary = summary("plugin");
        assert_eq!(
            summary.rows,
            [
                row(Some("http-logger"), 16, 16),
                row(Some("limit-count"), 12, 28),
                row(Some("serverless-pre-function"), 0, 24),
                row(None, 3, 3),
            ]
        );
        assert_eq!(summary.all, 31);
        // own parts add up to everything
        assert_eq!(summary.rows.iter().map(|row| row.own).sum::<u64>(), summary.all);
    }

    #[test]
    fn the_same_holds_for_phases() {
        assert_eq!(
            summary("phase").rows,
            [
                row(Some("log"), 16, 16),
                row(Some("access"), 14, 30),
                row(None, 1, 1),
            ]
        );
    }

    #[test]
    fn other_labels_have_one_column() {
        let summary = summary("pid");
        assert!(!summary.is_nested);
        assert_eq!(summary.rows, [row(None, 31, 31)]);
        let lines: Vec<String> = summary
            .lines()
            .into_iter()
            .map(|(columns, name)| columns + &name)
            .collect();
        assert_eq!(
            lines,
            ["     SAMPLES          PID", "          31 100.0 %  (none)"]
        );
    }
}
