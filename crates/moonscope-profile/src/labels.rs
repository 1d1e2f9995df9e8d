//! Labels: what is known about the samples of a stack besides the stack, such as pid, tid and comm.

use std::fmt;
use std::sync::Arc;

/// The value of one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LabelValue {
    /// A word, such as the comm of a process.
    Text(Arc<str>),
    /// A number, such as a pid.
    Number(i64),
}

impl fmt::Display for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl From<&str> for LabelValue {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for LabelValue {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Arc<str>> for LabelValue {
    fn from(text: Arc<str>) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for LabelValue {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for LabelValue {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u32> for LabelValue {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

/// A set of labels of one [`Profile`](crate::Profile).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelsId(pub(crate) u32);

impl LabelsId {
    /// Its place in [`Profile::label_sets`](crate::Profile::label_sets).
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Labels sorted by key; a key may have more than one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSet(pub(crate) Arc<[(Arc<str>, LabelValue)]>);

impl LabelSet {
    /// The set of these labels, in any order.
    pub fn new(mut labels: Vec<(Arc<str>, LabelValue)>) -> Self {
        labels.sort();
        labels.dedup();
        Self(labels.into())
    }

    /// The (first) value of a key.
    pub fn get(&self, key: &str) -> Option<&LabelValue> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// All labels, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &LabelValue)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
