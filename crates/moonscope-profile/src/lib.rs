//! The profile model of moonscope, and every file format it is written to and read from.
//!
//! A [`Profile`] is plain data: frames, stacks as nodes of one tree, labels, values, and the
//! [`Accounting`] of every tick. It is where recording ends and every output begins. A [`Format`]
//! writes it, and some read it back; [`Comparison`] holds two of them side by side.

mod accounting;
mod diff;
mod error;
mod filter;
mod folded;
mod format;
mod frame;
mod frame_parse;
mod headline;
mod heaviest;
mod json;
mod labels;
pub mod limits;
mod lineage;
mod merge;
mod meta;
mod options;
mod phase;
mod plugin;
mod pprof;
mod profile;
mod speedscope;
mod stack_analyzer;
mod summary;
mod svg;
mod svg_boxes;
mod svg_footer;
mod svg_script;
mod table;
mod text;
mod time;
mod view;

pub use accounting::Accounting;
pub use diff::Comparison;
pub use error::{ReadError, WriteError};
pub use filter::Filter;
pub use format::{Format, UnknownEnding, UnknownFormat};
pub use frame::{Frame, FrameId, FrameKind, FrameText, Module, ModuleId};
pub use labels::{LabelSet, LabelValue, LabelsId};
pub use meta::{Meta, ValueType};
pub use options::{Grouping, WriteOptions};
pub use phase::Phase;
pub use plugin::PluginPaths;
pub use profile::{Profile, Sample, StackId, StackNode};
/// The regular expressions of [`Filter`].
pub use regex::Regex;
pub use summary::{Summary, SummaryRow};
pub use text::{Grouped, visible};
pub use time::Utc;
