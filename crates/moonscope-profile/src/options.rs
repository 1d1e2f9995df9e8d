//! How graphs and tables show a profile.

use crate::error::WriteError;
use crate::labels::LabelSet;
use crate::lineage::{PHASE, PLUGIN};
use crate::meta::ValueType;
use crate::plugin::PluginPaths;
use crate::profile::Profile;

/// What the outermost frame of every stack says, besides the stack itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// Nothing: stacks of all processes are merged.
    None,
    /// The value of this label, where a sample has it. `pid` reads `nginx-4321`, `tid`
    /// `nginx-4321/4325`. What a Lua VM or nginx was doing is no name of a process or thread and stands in
    /// brackets: `[lua-state: compiled]`, `[phase: access]`, `[plugin: none]`.
    Label(String),
}

impl Default for Grouping {
    fn default() -> Self {
        Self::Label("comm".to_owned())
    }
}

/// Labels that say what code was doing, not whose it is: every sample has a frame for them.
const ACTIVITIES: [&str; 3] = [LUA_STATE, PHASE, PLUGIN];
const LUA_STATE: &str = "lua-state";

impl Grouping {
    /// What a word on the command line means: `none`, `plugin` (label `lua-plugin`), `phase` (label
    /// `nginx-phase`), or any label.
    pub fn by(word: &str) -> Self {
        match word {
            "none" => Self::None,
            "plugin" => Self::Label(PLUGIN.to_owned()),
            "phase" => Self::Label(PHASE.to_owned()),
            label => Self::Label(label.to_owned()),
        }
    }

    /// Whether it is by what [`Profile::with_lineage`] finds out.
    pub fn needs_lineage(&self) -> bool {
        matches!(self, Self::Label(key) if key == PLUGIN || key == PHASE)
    }

    /// The word for it: see [`Grouping::by`].
    pub fn word(&self) -> &str {
        match self {
            Self::None => "none",
            Self::Label(key) if key == PLUGIN => "plugin",
            Self::Label(key) if key == PHASE => "phase",
            Self::Label(key) => key,
        }
    }

    /// The outermost frame for samples with these labels.
    pub(crate) fn root(&self, labels: &LabelSet) -> Option<String> {
        match self {
            Self::Label(key) if ACTIVITIES.contains(&key.as_str()) => {
                let value = self.value(labels);
                Some(format!(
                    "[{}: {}]",
                    self.word(),
                    value.as_deref().unwrap_or("none")
                ))
            }
            _ => self.value(labels),
        }
    }

    /// What samples with these labels are summed up under.
    pub fn value(&self, labels: &LabelSet) -> Option<String> {
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
    /// Where plugins are, for tables by plugin.
    pub plugins: PluginPaths,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_makes_its_outermost_frame() {
        let labels = LabelSet::new(
            [
                ("comm", "nginx"),
                ("pid", "7"),
                (LUA_STATE, "compiled"),
                (PHASE, "access"),
            ]
            .map(|(key, value)| (key.into(), value.into()))
            .to_vec(),
        );
        for (word, root) in [
            ("none", None),
            ("comm", Some("nginx")),
            ("pid", Some("nginx-7")),
            ("lua-state", Some("[lua-state: compiled]")),
            ("phase", Some("[phase: access]")),
            ("nginx-phase", Some("[phase: access]")),
            ("plugin", Some("[plugin: none]")),
            ("something", None),
        ] {
            assert_eq!(Grouping::by(word).root(&labels).as_deref(), root, "{word}");
        }
    }
}
