//! What stacks tell of themselves besides their frames: the phases of nginx and the plugins they run in.

use std::collections::HashMap;

use crate::labels::{LabelSet, LabelsId};
use crate::merge::Copier;
use crate::phase::{Phase, Phases};
use crate::plugin::PluginPaths;
use crate::profile::{Profile, StackId};

/// The label with the innermost plugin of a stack.
pub(crate) const PLUGIN: &str = "lua-plugin";
/// The label with the innermost phase of nginx of a stack.
pub(crate) const PHASE: &str = "nginx-phase";

/// Different plugins of one stack that are kept: a request goes through them one after the other, and few
/// call others. It bounds what a hostile file can cost.
const MAX_PLUGINS: usize = 32;

/// Phases and plugins of all stacks of a profile.
pub(crate) struct Lineage<'a> {
    /// Names of plugins, by number.
    names: Vec<&'a str>,
    /// For each stack.
    stacks: Vec<Node>,
    /// Plugin, the list of those outside of it, and their number.
    lists: Vec<(u32, Option<u32>, usize)>,
}

#[derive(Clone, Copy, Default)]
struct Node {
    phases: Phases,
    /// The innermost plugin.
    plugin: Option<u32>,
    /// All of them, as a place in the lists.
    plugins: Option<u32>,
}

impl<'a> Lineage<'a> {
    /// Of the stacks of a profile.
    pub fn of(profile: &'a Profile, paths: &PluginPaths) -> Self {
        let mut lineage = Self {
            names: Vec::new(),
            stacks: Vec::with_capacity(profile.stacks().len()),
            lists: Vec::new(),
        };
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let of_frame: Vec<Option<u32>> = profile
            .frames()
            .iter()
            .map(|frame| {
                let file = frame.file.as_deref().filter(|_| frame.kind.is_lua())?;
                let name = paths.plugin_of(file)?;
                Some(*numbers.entry(name).or_insert_with(|| {
                    lineage.names.push(name);
                    lineage.names.len() as u32 - 1
                }))
            })
            .collect();
        let mut known = HashMap::new();
        // parents stand before their children
        for stack in profile.stacks() {
            let mut node = stack
                .parent
                .map_or_else(Node::default, |parent| lineage.stacks[parent.index()]);
            node.phases = node.phases.then(profile.frame_of(stack.frame));
            if let Some(plugin) = of_frame[stack.frame.index()] {
                node.plugin = Some(plugin);
                node.plugins = lineage.with(node.plugins, plugin, &mut known);
            }
            lineage.stacks.push(node);
        }
        lineage
    }

    /// The list with one more plugin, if it is not in it and there is room.
    fn with(
        &mut self,
        list: Option<u32>,
        plugin: u32,
        known: &mut HashMap<(Option<u32>, u32), u32>,
    ) -> Option<u32> {
        let len = list.map_or(0, |list| self.lists[list as usize].2);
        if len >= MAX_PLUGINS || self.list(list).any(|other| other == plugin) {
            return list;
        }
        let lists = &mut self.lists;
        Some(*known.entry((list, plugin)).or_insert_with(|| {
            lists.push((plugin, list, len + 1));
            lists.len() as u32 - 1
        }))
    }

    fn list(&self, mut at: Option<u32>) -> impl Iterator<Item = u32> {
        std::iter::from_fn(move || {
            let (plugin, outer, _) = self.lists[at? as usize];
            at = outer;
            Some(plugin)
        })
    }

    fn node(&self, stack: Option<StackId>) -> Node {
        stack.map_or_else(Node::default, |stack| self.stacks[stack.index()])
    }

    /// The innermost phase.
    pub fn phase(&self, stack: Option<StackId>) -> Option<Phase> {
        self.node(stack).phases.current
    }

    /// Every phase, each once.
    pub fn phases(&self, stack: Option<StackId>) -> impl Iterator<Item = Phase> {
        self.node(stack).phases.iter()
    }

    /// The innermost plugin.
    pub fn plugin(&self, stack: Option<StackId>) -> Option<&'a str> {
        self.node(stack).plugin.map(|plugin| self.names[plugin as usize])
    }

    /// Every plugin, each once.
    pub fn plugins(&self, stack: Option<StackId>) -> impl Iterator<Item = &'a str> {
        self.list(self.node(stack).plugins)
            .map(|plugin| self.names[plugin as usize])
    }
}

impl Profile {
    /// The same with the labels `nginx-phase` and `lua-plugin` where the stack tells them: the innermost
    /// phase of nginx, and the innermost plugin of a gateway. Labels of these names that are there already
    /// stay where nothing is found.
    #[must_use]
    pub fn with_lineage(&self, paths: &PluginPaths) -> Self {
        let lineage = Lineage::of(self, paths);
        let mut labelled = Self::new(self.value_types().to_vec());
        labelled.meta = self.meta.clone();
        labelled.accounting = self.accounting.clone();
        let mut copy = Copier::new(self);
        let mut known: HashMap<(LabelsId, Option<Phase>, Option<&str>), LabelsId> = HashMap::new();
        for sample in self.samples() {
            let (phase, plugin) = (lineage.phase(sample.stack), lineage.plugin(sample.stack));
            let labels = *known.entry((sample.labels, phase, plugin)).or_insert_with(|| {
                let found = [(PHASE, phase.map(Phase::name)), (PLUGIN, plugin)];
                labelled.label_set(with(self.labels_of(sample.labels), &found))
            });
            copy.sample_with(&mut labelled, sample, labels, sample.values);
        }
        labelled
    }
}

/// A label set in which these stand for what was there of their names.
fn with(labels: &LabelSet, found: &[(&str, Option<&str>)]) -> LabelSet {
    let is_replaced = |key: &str| found.iter().any(|(name, value)| *name == key && value.is_some());
    let kept = labels
        .iter()
        .filter(|(key, _)| !is_replaced(key))
        .map(|(key, value)| (key.into(), value.clone()));
    let new = found
        .iter()
        .filter_map(|(key, value)| Some(((*key).into(), (*value)?.into())));
    LabelSet::new(kept.chain(new).collect())
}

/// Text forms of frames that stand for what a stack runs in, for tests.
#[cfg(test)]
pub(crate) fn example() -> Profile {
    use crate::frame::{Frame, FrameId, FrameKind};
    use crate::meta::ValueType;
    let mut profile = Profile::new(vec![ValueType::samples()]);
    let mut frame = |name: &str| -> FrameId {
        let frame = match name.split_once('@') {
            Some((function, file)) => Frame {
                file: Some(file.into()),
                ..Frame::named(FrameKind::LuaInterpreted, function)
            },
            None => Frame::named(FrameKind::Native, name),
        };
        profile.frame(frame)
    };
    let main = frame("main");
    let access = frame("ngx_http_lua_access_handler");
    let log = frame("ngx_http_lua_log_handler");
    let count = frame("access@/apisix/apisix/plugins/limit-count.lua");
    let redis = frame("incoming@/apisix/apisix/plugins/limit-count/redis.lua");
    let serverless = frame("access@/apisix/apisix/plugins/serverless-pre-function.lua");
    let core = frame("json@/apisix/apisix/core/json.lua");
    let logger = frame("log@/srv/own/http-logger.lua");
    for (frames, value) in [
        (&[main][..], 1),
        (&[main, access, core], 2),
        (&[main, access, count, redis, core], 4),
        (&[main, access, serverless, count], 8),
        (&[main, access, serverless, count, log, logger], 16),
    ] {
        let stack = profile.stack(frames.iter().copied());
        let labels = profile.labels(&[("comm", "nginx".into())]);
        profile.add(stack, labels, &[value]);
    }
    profile
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values by the value of a label.
    fn by(profile: &Profile, key: &str) -> Vec<(String, i64)> {
        let mut sums = std::collections::BTreeMap::new();
        for sample in profile.samples() {
            let value = profile.labels_of(sample.labels).get(key);
            let value = value.map_or_else(|| "-".to_owned(), ToString::to_string);
            *sums.entry(value).or_default() += sample.values[0];
        }
        sums.into_iter().collect()
    }

    fn pairs(expected: &[(&str, i64)]) -> Vec<(String, i64)> {
        expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }

    #[test]
    fn samples_are_labelled_with_the_innermost_phase_and_plugin() {
        let labelled = example().with_lineage(&PluginPaths::default());
        assert_eq!(
            by(&labelled, PHASE),
            pairs(&[("-", 1), ("access", 14), ("log", 16)])
        );
        assert_eq!(by(&labelled, PLUGIN), pairs(&[("-", 3), ("limit-count", 28)]));
        assert_eq!(by(&labelled, "comm"), pairs(&[("nginx", 31)]));
        let own = PluginPaths::new(["/srv/own"]);
        let labelled = labelled.with_lineage(&own);
        assert_eq!(
            by(&labelled, PLUGIN),
            pairs(&[("-", 3), ("http-logger", 16), ("limit-count", 12)])
        );
    }

    #[test]
    fn a_label_that_is_there_already_stays_where_the_stack_tells_nothing() {
        let own = example().with_lineage(&PluginPaths::new(["/srv/own", "/apisix/apisix/core"]));
        let again = own.with_lineage(&PluginPaths::default());
        assert_eq!(
            by(&again, PLUGIN),
            pairs(&[("-", 1), ("json", 2), ("limit-count", 28)])
        );
    }

    #[test]
    fn the_number_of_plugins_of_one_stack_is_bounded() {
        use crate::frame::{Frame, FrameId, FrameKind};
        let mut profile = Profile::new(vec![crate::meta::ValueType::samples()]);
        let frames: Vec<FrameId> = (0..2 * MAX_PLUGINS)
            .map(|nr| {
                profile.frame(Frame {
                    file: Some(format!("apisix/plugins/p{nr}.lua").into()),
                    ..Frame::unknown(FrameKind::LuaInterpreted)
                })
            })
            .collect();
        let stack = profile.stack(frames);
        let lineage = Lineage::of(&profile, &PluginPaths::default());
        assert_eq!(lineage.plugins(stack).count(), MAX_PLUGINS);
        assert_eq!(lineage.plugin(stack), Some("p63"));
    }
}
