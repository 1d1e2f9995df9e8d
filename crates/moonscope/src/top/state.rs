//! What the screen shows, and what was chosen: everything but drawing.

use std::time::{Duration, Instant};

use moonscope_process::counted;
use moonscope_profile::{Grouping, PluginPaths, Profile, Summary, ValueType, WriteOptions};

use super::branches::{Branches, Line};
use super::collected::{Collected, Span};
use super::cursor::Cursor;
use super::functions::{Function, Sort, functions};
use super::labels;
use super::names::{Detail, identity};
use super::tree::{Focus, Only, Query, Tree};

/// How long the screen shows what was just done.
const MESSAGE: Duration = Duration::from_secs(6);

/// Which of the views is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// A table of functions.
    Functions,
    /// The call tree as lines.
    Tree,
    /// The call tree as boxes.
    Flame,
    /// A table of the values of a label.
    Groups,
}

impl View {
    /// All, in the order of their keys.
    pub const ALL: [Self; 4] = [Self::Functions, Self::Tree, Self::Flame, Self::Groups];
}

/// What is typed at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// What for.
    pub what: Asked,
    /// What was typed so far.
    pub text: String,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A part of a name.
    Find,
    /// Another event.
    Event,
}

/// A sentence about what was just done.
#[derive(Clone, Debug)]
pub struct Message {
    text: String,
    since: Instant,
}

/// What is measured, for the heading.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Who.
    pub target: String,
    /// What, and how.
    pub event: String,
}

/// What is shown of a profile, made when something changes.
pub enum Shown {
    /// Functions of a tree.
    Functions(Tree, Vec<Function>),
    /// Lines of a tree.
    Tree(Tree, Vec<Line>),
    /// A tree, and the node on top.
    Flame(Tree, u32),
    /// Values of a label.
    Groups(Summary),
    /// Nothing, and why.
    Nothing(String),
}

/// What the screen shows, and what was chosen.
pub struct State {
    /// What there is.
    pub collected: Collected,
    /// The same when the screen was stopped.
    pub frozen: Option<Box<Collected>>,
    /// What is measured.
    pub facts: Facts,
    /// Which view is seen.
    pub view: View,
    /// Which part of the time.
    pub span: Span,
    /// What comes first.
    pub sort: Sort,
    /// How functions are told apart.
    pub detail: Detail,
    /// The value that was chosen, by its kind.
    pub value: Option<String>,
    /// The label that was chosen, by its key.
    pub label: Option<String>,
    /// Folders with plugins.
    pub plugins: PluginPaths,
    /// What is looked for.
    pub find: String,
    /// Samples of these only.
    pub only: Option<Only>,
    /// A function that trees begin with.
    pub focus: Option<Focus>,
    /// The box on top, by identity.
    pub zoom: u64,
    /// Open branches of the tree.
    pub branches: Branches,
    /// Where the cursor stands in each view.
    pub cursors: [Cursor; 4],
    /// What is typed.
    pub prompt: Option<Prompt>,
    /// The keys are shown.
    pub has_help: bool,
    /// Why nothing comes any more.
    pub ended: Option<String>,
    /// When it began.
    pub began: Instant,
    /// How wide the screen is.
    pub columns: u16,
    message: Option<Message>,
    shown: Option<Shown>,
}

impl State {
    /// Of something that just began.
    pub fn new(window: Duration, facts: Facts) -> Self {
        Self {
            collected: Collected::new(window),
            frozen: None,
            facts,
            view: View::Functions,
            span: Span::Window,
            sort: Sort::Own,
            detail: Detail::Function,
            value: None,
            label: None,
            plugins: PluginPaths::default(),
            find: String::new(),
            only: None,
            focus: None,
            zoom: 0,
            branches: Branches::default(),
            cursors: Default::default(),
            prompt: None,
            has_help: false,
            ended: None,
            began: Instant::now(),
            columns: 80,
            message: None,
            shown: None,
        }
    }

    /// Adds what was measured in the last second.
    pub fn add(&mut self, piece: Profile) {
        self.collected.add(piece);
        let profile = self.collected.profile(Span::All);
        if let Some(kind) = self.value.take_if(|kind| profile.value_named(kind).is_none()) {
            let known: Vec<&str> = profile
                .value_types()
                .iter()
                .map(|value| value.kind.as_str())
                .collect();
            let text = format!("there is no value {kind}: there are {}", known.join(", "));
            self.say(text);
        }
        if self.frozen.is_none() {
            self.changed();
        }
    }

    /// What is shown must be made anew.
    pub fn changed(&mut self) {
        self.shown = None;
    }

    /// Says something for a while.
    pub fn say(&mut self, text: impl Into<String>) {
        self.message = Some(Message {
            text: text.into(),
            since: Instant::now(),
        });
    }

    /// What was said, if that is not long ago.
    pub fn message(&self) -> Option<&str> {
        let message = self.message.as_ref()?;
        (message.since.elapsed() < MESSAGE).then_some(&message.text)
    }

    /// Forgets everything that was collected.
    pub fn clear(&mut self) {
        self.collected.clear();
        self.frozen = None;
        self.began = Instant::now();
        self.changed();
    }

    /// The profile that is shown.
    pub fn profile(&self) -> &Profile {
        self.frozen
            .as_deref()
            .unwrap_or(&self.collected)
            .profile(self.span)
    }

    /// The place of the value that is shown.
    pub fn value_nr(&self) -> usize {
        let profile = self.profile();
        let chosen = self.value.as_deref().and_then(|kind| profile.value_named(kind));
        chosen.unwrap_or_else(|| profile.default_value())
    }

    /// What the value that is shown means.
    pub fn value_type(&self) -> Option<&ValueType> {
        self.profile().value_types().get(self.value_nr())
    }

    /// The key of the label of the fourth view.
    pub fn label_key(&self) -> String {
        self.label.clone().unwrap_or_else(|| labels::FIRST.to_owned())
    }

    /// Where the cursor stands.
    pub fn cursor(&mut self) -> &mut Cursor {
        &mut self.cursors[self.view as usize]
    }

    /// What is shown.
    pub fn shown(&mut self) -> &Shown {
        if self.shown.is_none() {
            let shown = self.make();
            let (count, ids) = (shown.count(), shown.identities());
            self.cursor().follow(count, &ids);
            self.shown = Some(shown);
        }
        self.shown.get_or_insert_with(|| Shown::Nothing(String::new()))
    }

    fn make(&self) -> Shown {
        let profile = self.profile();
        if profile.total(self.value_nr()) <= 0 {
            return Shown::Nothing(self.why_nothing());
        }
        if self.view == View::Groups {
            return self.groups(profile);
        }
        let is_tree = self.view != View::Functions;
        let query = Query {
            value: self.value_nr(),
            detail: self.detail,
            only: self.only.as_ref(),
            find: if is_tree { &self.find } else { "" },
            focus: self.focus.as_ref().filter(|_| is_tree),
        };
        let tree = Tree::new(profile, &query);
        if tree.total() == 0 {
            let what = match (is_tree && !self.find.is_empty(), query.focus) {
                (true, _) => format!("no stack has a function with \"{}\" in its name", self.find),
                (false, Some(focus)) => format!("{} was not seen", focus.name),
                (false, None) => "nothing of this was seen".to_owned(),
            };
            return Shown::Nothing(format!("{what}   (Esc goes back)"));
        }
        match self.view {
            View::Functions => {
                let functions = functions(&tree, &self.find, self.sort);
                Shown::Functions(tree, functions)
            }
            View::Tree => {
                let lines = self.branches.lines(&tree);
                Shown::Tree(tree, lines)
            }
            _ => {
                let top = tree.find(self.zoom).unwrap_or(0);
                Shown::Flame(tree, top)
            }
        }
    }

    fn groups(&self, profile: &Profile) -> Shown {
        let options = WriteOptions {
            group: Grouping::Label(self.label_key()),
            value: self.value_type().map(|value| value.kind.clone()),
            plugins: self.plugins.clone(),
            ..WriteOptions::default()
        };
        let Ok(Some(mut summary)) = Summary::of(profile, &options) else {
            return Shown::Nothing("nothing to show".to_owned());
        };
        if !self.find.is_empty() {
            summary.rows.retain(|row| {
                let value = row.value.as_deref().unwrap_or(labels::NONE);
                super::names::contains(value, &self.find)
            });
        }
        if self.sort == Sort::Total {
            summary
                .rows
                .sort_by_key(|row| std::cmp::Reverse((row.total, row.own)));
        }
        Shown::Groups(summary)
    }

    /// Why there is nothing to see: what became of the ticks.
    fn why_nothing(&self) -> String {
        let accounting = &self.profile().accounting;
        if accounting.is_empty() && self.profile().meta.duration.is_none() {
            return "waiting for the first samples".to_owned();
        }
        if accounting.kept() > 0 {
            let kind = self.value_type().map_or("value", |value| &value.kind);
            return format!("no {kind} was measured");
        }
        match accounting.fired {
            0 => "nothing happened".to_owned(),
            fired => format!(
                "no samples: of {} {} found an idle CPU, {} something else   (-e offcpu shows what waits)",
                counted(fired, "tick"),
                accounting.idle,
                accounting.filtered
            ),
        }
    }
}

impl Shown {
    /// How many things the cursor can stand on.
    fn count(&self) -> usize {
        match self {
            Self::Functions(_, functions) => functions.len(),
            Self::Tree(_, lines) => lines.len(),
            Self::Groups(summary) => summary.rows.len(),
            Self::Flame(..) | Self::Nothing(_) => 0,
        }
    }

    /// What each of them is, the same in the next profile.
    pub fn identities(&self) -> Vec<u64> {
        match self {
            Self::Functions(tree, functions) => {
                let text = |function: &Function| &tree.names[function.name as usize].text;
                functions
                    .iter()
                    .map(|function| identity(0, text(function)))
                    .collect()
            }
            Self::Tree(tree, lines) => {
                let identity = |line: &Line| tree.nodes[line.node as usize].identity;
                lines.iter().map(identity).collect()
            }
            Self::Groups(summary) => {
                let value = |value: &Option<String>| identity(1, value.as_deref().unwrap_or_default());
                summary.rows.iter().map(|row| value(&row.value)).collect()
            }
            Self::Flame(..) | Self::Nothing(_) => Vec::new(),
        }
    }
}
