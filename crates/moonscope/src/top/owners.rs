//! Whose samples there are: processes, in words.

use std::collections::HashMap;

use moonscope_profile::{LabelsId, Profile};
use rustc_hash::FxHashMap;

use super::names::shown;

/// Whose samples there are: what all of them have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// There are none.
    Nobody,
    /// Of one process: the number of some labels.
    Process(u32),
    /// Of several processes of one name.
    Namesakes(u32),
    /// Of others.
    Several,
}

impl Whose {
    /// Of both.
    pub fn with(self, other: Self, owners: &Owners) -> Self {
        let name = |whose| match whose {
            Self::Process(process) => owners.names.get(&process).copied(),
            Self::Namesakes(name) => Some(name),
            Self::Nobody | Self::Several => None,
        };
        match (self, other) {
            (Self::Nobody, one) | (one, Self::Nobody) => one,
            (one, other) if one == other => one,
            (one, other) => match (name(one), name(other)) {
                (Some(a), Some(b)) if a == b => Self::Namesakes(a),
                _ => Self::Several,
            },
        }
    }

    /// In words.
    pub fn text(self, owners: &Owners) -> String {
        match self {
            Self::Nobody => String::new(),
            Self::Process(number) => owners.texts[number as usize].clone(),
            Self::Namesakes(number) => format!("{} (several)", owners.texts[number as usize]),
            Self::Several => "(several)".to_owned(),
        }
    }
}

/// Whose samples there are in a profile.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    /// For each set of labels the number of its process.
    of: Vec<u32>,
    /// Of each process the number of its name.
    names: FxHashMap<u32, u32>,
    texts: Vec<String>,
}

impl Owners {
    /// Of a profile.
    pub fn new(profile: &Profile) -> Self {
        let mut owners = Self::default();
        let mut known = HashMap::new();
        for labels in profile.label_sets() {
            let text = |key| labels.get(key).map(ToString::to_string);
            let comm = text("comm").unwrap_or_default();
            let process = match text("pid") {
                Some(pid) => format!("{comm}-{pid}"),
                None => comm.clone(),
            };
            let mut number = |text: String| {
                *known.entry(text).or_insert_with_key(|text: &String| {
                    owners.texts.push(shown(text));
                    owners.texts.len() as u32 - 1
                })
            };
            let (process, comm) = (number(process), number(comm));
            owners.of.push(process);
            owners.names.insert(process, comm);
        }
        owners
    }

    /// Whose samples with these labels are.
    pub fn whose(&self, labels: LabelsId) -> Whose {
        Whose::Process(self.of[labels.index()])
    }
}
