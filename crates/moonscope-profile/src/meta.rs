//! What a profile is about: when, where, of what, how often.

/// What a value of a sample means: `cpu` in `nanoseconds`, `samples` in `count`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ValueType {
    /// What is measured: `samples`, `cpu`, `offcpu`, `alloc_space`, …
    pub kind: String,
    /// The unit, in the words of pprof: `count`, `nanoseconds`, `bytes`, …
    pub unit: String,
}

impl ValueType {
    /// A value type; `ValueType::new("cpu", "nanoseconds")`.
    pub fn new(kind: impl Into<String>, unit: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            unit: unit.into(),
        }
    }

    /// The number of samples.
    pub fn samples() -> Self {
        Self::new("samples", "count")
    }

    /// Time on a processor.
    pub fn cpu() -> Self {
        Self::new("cpu", "nanoseconds")
    }
}

/// Circumstances of a recording. What is not known is empty or `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Start of the recording in nanoseconds since 1970.
    pub start: Option<u64>,
    /// Length of the recording in nanoseconds.
    pub duration: Option<u64>,
    /// Distance between two samples, in the unit of its value type.
    pub period: Option<(ValueType, i64)>,
    /// The event that was sampled, such as `cpu-clock` or `cycles`.
    pub event: String,
    /// Samples per second and processor that were asked for.
    pub frequency_hz: Option<u64>,
    /// What was sampled, in words: `process 4321 (nginx)`.
    pub target: String,
    /// Name of the machine.
    pub host: String,
    /// Kernel release of the machine.
    pub kernel: String,
    /// The program that made the recording: `moonscope 0.1.0`.
    pub producer: String,
    /// Anything else a reader should know, one sentence each.
    pub comments: Vec<String>,
}
