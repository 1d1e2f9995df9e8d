//! A recorded `.json` file, read with `docs/formats.md` in hand and none of moonscope's own code.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use serde_json::Value;

/// A frame as recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frame {
    /// `kernel`, `native`, `marker`, …
    pub kind: String,
    /// The function, if known.
    pub function: Option<String>,
    /// Path of the module, if known.
    pub module: Option<String>,
    /// Address in the module's file; of a function without a name where it starts.
    pub offset: Option<u64>,
    /// Source file, if known.
    pub file: Option<String>,
    /// The line that was running, if known.
    pub line: Option<u64>,
    /// Did the compiler inline it into the frame before it?
    pub inlined: bool,
}

impl Frame {
    /// The function, or `""`.
    pub fn name(&self) -> &str {
        self.function.as_deref().unwrap_or_default()
    }

    /// The last part of the module's path, or `""`.
    pub fn file_name(&self) -> &str {
        let path = self.module.as_deref().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }

    /// Is it kernel code?
    pub fn is_kernel(&self) -> bool {
        self.kind == "kernel"
    }
}

/// A stack with where and how often it was seen.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Root first.
    pub stack: Vec<Rc<Frame>>,
    pub pid: u32,
    pub tid: u32,
    /// Name of the process.
    pub comm: String,
    /// Name of the thread.
    pub thread: String,
    pub count: u64,
    /// All labels as text.
    pub labels: BTreeMap<String, String>,
    /// One for each of [`Profile::columns`].
    pub values: Vec<u64>,
}

impl Sample {
    /// Is this function anywhere in the stack?
    pub fn has(&self, function: &str) -> bool {
        self.user().any(|frame| frame.name() == function)
    }

    /// The frames that are not of the kernel, root first.
    pub fn user(&self) -> impl Iterator<Item = &Frame> {
        self.stack
            .iter()
            .map(Rc::as_ref)
            .filter(|frame| !frame.is_kernel())
    }

    /// The frames of the kernel, root first.
    pub fn kernel(&self) -> impl Iterator<Item = &Frame> {
        self.stack
            .iter()
            .map(Rc::as_ref)
            .filter(|frame| frame.is_kernel())
    }

    /// Names of the user part, root first.
    pub fn names(&self) -> Vec<&str> {
        self.user().map(Frame::name).collect()
    }

    /// Names of the user part from `main` on; `None` without a `main`.
    pub fn below_main(&self) -> Option<Vec<&str>> {
        self.below("main")
    }

    /// Names of the user part from the outermost frame of this function on.
    pub fn below(&self, function: &str) -> Option<Vec<&str>> {
        let names = self.names();
        let at = names.iter().position(|name| *name == function)?;
        Some(names[at..].to_vec())
    }

    /// Does the stack miss its callers?
    pub fn is_truncated(&self) -> bool {
        self.stack.first().is_some_and(|frame| frame.kind == "marker")
    }

    /// Does it miss its callers, or Lua frames anywhere?
    pub fn lacks_frames(&self) -> bool {
        self.is_truncated() || self.has("[Lua frames missing]")
    }
}

/// All samples of a recording.
#[derive(Debug)]
pub struct Profile {
    pub samples: Vec<Sample>,
    /// Kinds of the values: `samples`, `cpu`, `offcpu`, …
    pub columns: Vec<String>,
    /// The file as it is.
    pub json: Value,
}

impl Profile {
    /// Reads a `.json` file.
    pub fn read(path: &Path) -> Self {
        let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(json["format"], "moonscope-profile");
        assert_eq!(json["version"], 1);
        let list = |key: &str| json[key].as_array().unwrap().as_slice();
        let number = |value: &Value| value.as_u64().unwrap() as usize;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let hex = |text: &str| u64::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap();

        let frame = |frame: &Value| {
            let module = frame["module"]
                .as_u64()
                .map(|module| &list("modules")[module as usize]["path"]);
            Rc::new(Frame {
                kind: text(&frame["kind"]).unwrap(),
                function: text(&frame["function"]),
                module: module.and_then(text),
                offset: frame["offset"].as_str().map(hex),
                file: text(&frame["file"]),
                line: frame["line"].as_u64(),
                inlined: frame["inlined"].as_bool().unwrap_or(false),
            })
        };
        let frames: Vec<Rc<Frame>> = list("frames").iter().map(frame).collect();
        let stack_of = |id: &Value| {
            let mut stack = Vec::new();
            let mut at = id.as_u64();
            while let Some(node) = at {
                let entry = &list("stacks")[node as usize];
                stack.push(Rc::clone(&frames[number(&entry[1])]));
                at = entry[0].as_u64();
            }
            stack.reverse();
            stack
        };
        let sample = |sample: &Value| {
            let labels = list("labels")[number(&sample[1])].as_array().unwrap();
            let label = |key: &str| {
                labels
                    .iter()
                    .find(|label| label[0] == key)
                    .map(|label| &label[1])
                    .unwrap()
            };
            Sample {
                stack: stack_of(&sample[0]),
                pid: number(label("pid")) as u32,
                tid: number(label("tid")) as u32,
                comm: text(label("comm")).unwrap(),
                thread: text(label("thread")).unwrap(),
                count: sample[2][0].as_u64().unwrap(),
                labels: labels
                    .iter()
                    .map(|label| {
                        let value = &label[1];
                        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                        (label[0].as_str().unwrap().to_owned(), value)
                    })
                    .collect(),
                values: sample[2]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|value| value.as_u64().unwrap())
                    .collect(),
            }
        };
        let samples = list("samples").iter().map(sample).collect();
        let columns = list("value_types").iter();
        let columns = columns.filter_map(|column| text(&column["kind"])).collect();
        Self {
            samples,
            columns,
            json,
        }
    }

    /// The sum of a column over the samples that are like this.
    pub fn sum(&self, column: &str, mut is_wanted: impl FnMut(&Sample) -> bool) -> u64 {
        let place = self.columns.iter().position(|other| other == column);
        let place = place.unwrap_or_else(|| panic!("no {column} in {:?}", self.columns));
        let wanted = self.samples.iter().filter(|sample| is_wanted(sample));
        wanted.map(|sample| sample.values[place]).sum()
    }

    /// How many samples are like this.
    pub fn count(&self, mut is_wanted: impl FnMut(&Sample) -> bool) -> u64 {
        self.samples
            .iter()
            .filter(|sample| is_wanted(sample))
            .map(|sample| sample.count)
            .sum()
    }

    /// All samples.
    pub fn total(&self) -> u64 {
        self.count(|_| true)
    }

    /// How many samples have this function in their stack.
    pub fn with(&self, function: &str) -> u64 {
        self.count(|sample| sample.has(function))
    }

    /// At least this part of the samples is like that; shows those that are not.
    #[track_caller]
    pub fn assert_most(&self, part: f64, what: &str, mut is_so: impl FnMut(&Sample) -> bool) {
        let total = self.total();
        let mut others: Vec<&Sample> = self.samples.iter().filter(|sample| !is_so(sample)).collect();
        others.sort_by_key(|sample| std::cmp::Reverse(sample.count));
        let count: u64 = others.iter().map(|sample| sample.count).sum();
        assert!(total >= 100, "{what}: only {total} samples");
        assert!(
            count as f64 <= (1.0 - part) * total as f64,
            "{what}: {count} of {total} samples are not so, among them\n{}",
            others
                .iter()
                .take(5)
                .map(|sample| format!("{sample}\n"))
                .collect::<String>()
        );
    }

    /// Every sample is like that.
    #[track_caller]
    pub fn assert_all(&self, what: &str, is_so: impl FnMut(&Sample) -> bool) {
        self.assert_most(1.0, what, is_so);
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x pid {} ({}):", self.count, self.pid, self.comm)?;
        for frame in &self.stack {
            match (&frame.function, frame.offset) {
                (Some(name), _) => write!(f, " {name};")?,
                (None, offset) => write!(f, " [{}+{:#x}];", frame.file_name(), offset.unwrap_or(0))?,
            }
        }
        Ok(())
    }
}
