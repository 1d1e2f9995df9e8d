//! How graphs and tables show a profile.

use crate::error::WriteError;
use crate::labels::LabelSet;
use crate::meta::ValueType;
use crate::profile::Profile;

/// What the outermost frame of every stack says, besides the stack itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// Nothing: stacks of all processes are merged.
    None,
    /// The value of this label, where a sample has it. `pid` reads `nginx-4321`, `tid`
    /// `nginx-4321/4325`.
    Label(String),
}

impl Default for Grouping {
    fn default() -> Self {
        Self::Label("comm".to_owned())
    }
}

impl Grouping {
    /// The outermost frame for samples with these labels.
    pub(crate) fn root(&self, labels: &LabelSet) -> Option<String> {
        let Self::Label(key) = self else { return None };
        let value = labels.get(key)?;
        let comm = labels
            .get("comm")
            .map(|comm| format!("{comm}-"))
            .unwrap_or_default();
        match key.as_str() {
            "pid" => Some(format!("{comm}{value}")),
            "tid" => match labels.get("pid") {
                Some(pid) => Some(format!("{comm}{pid}/{value}")),
                None => Some(format!("{comm}{value}")),
            },
            _ => Some(value.to_string()).filter(|text| !text.is_empty()),
        }
    }
}

/// How graphs and tables show a profile. `json` and `pprof` hold everything and look at none of this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// What the outermost frame says.
    pub group: Grouping,
    /// The value type to show, such as `cpu`; `None` for [`Profile::default_value`].
    pub value: Option<String>,
    /// Show source lines: `name (file:line)`. Without it, lines of one function are added up.
    pub lines: bool,
    /// Columns of the text table; `None` for as many as it takes.
    pub width: Option<usize>,
    /// Title of the graph; `None` for one made of what is known.
    pub title: Option<String>,
}

impl WriteOptions {
    /// The place of the value to show.
    pub(crate) fn value_of(&self, profile: &Profile) -> Result<usize, WriteError> {
        let Some(wanted) = &self.value else {
            return Ok(profile.default_value());
        };
        profile.value_named(wanted).ok_or_else(|| {
            let known: Vec<_> = profile
                .value_types()
                .iter()
                .map(|value| value.kind.as_str())
                .collect();
            WriteError::NoSuchValue {
                wanted: wanted.clone(),
                known: known.join(", "),
            }
        })
    }
}

/// A unit that people read, and what to multiply a value with to get it.
pub(crate) fn readable_unit(value: &ValueType, total: u64) -> (&str, f64) {
    match (value.unit.as_str(), total) {
        ("nanoseconds", total) if total >= 1_000_000_000 => ("ms", 1e-6),
        ("nanoseconds", total) if total >= 1_000_000 => ("µs", 1e-3),
        ("nanoseconds", _) => ("ns", 1.0),
        ("count", _) => (&value.kind, 1.0),
        (unit, _) => (unit, 1.0),
    }
}
