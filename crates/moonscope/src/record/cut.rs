//! Where stacks were cut for want of unwind rows, the worst first: the last lines of a recording name the files.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use moonscope_process::counted;
use moonscope_profile::{FrameKind, Profile, StackId, visible};
use moonscope_unwind::WalkEnd;

/// Files that are told of; `doctor` shows the others.
const MOST: usize = 3;

/// Cut stacks in one file that are worth a line, of all samples.
const WORTH: f64 = 0.05;

/// A line for each file in which many stacks were cut. `lacks_lua`: there is a LuaJIT that was refused, and has code of its own.
pub fn lines(profile: &Profile, lacks_lua: bool) -> Vec<String> {
    let accounting = &profile.accounting;
    let kept = accounting.kept();
    let without_row = accounting
        .truncated
        .get(WalkEnd::NoRow.phrase())
        .copied()
        .unwrap_or(0);
    // who else was cut cannot be told apart
    if without_row * 2 < accounting.truncated_total() {
        return Vec::new();
    }
    let value = profile.default_value();
    let count = profile.value_named("samples").unwrap_or(value);
    let mut cut: BTreeMap<String, u64> = BTreeMap::new();
    for sample in profile.samples() {
        if let Some(place) = where_cut(profile, sample.stack) {
            let samples = sample.values.get(count).copied().unwrap_or(0);
            *cut.entry(place).or_default() += samples.unsigned_abs();
        }
    }
    let mut cut: Vec<_> = cut.into_iter().collect();
    cut.retain(|&(_, samples)| samples as f64 >= WORTH * kept as f64 && samples > 0);
    cut.sort_by_key(|&(_, samples)| Reverse(samples));
    let line = |(place, samples): (String, u64)| {
        let remedy = if place == GENERATED && lacks_lua {
            "of the LuaJIT whose Lua frames are missing, if nothing else generates code there"
        } else if place == GENERATED {
            "it keeps no frame pointers, or not everywhere: Java needs -XX:+PreserveFramePointer, Node.js \
             --interpreted-frames-native-stack, and also then what they call natively may be cut"
        } else {
            "its unwind tables say nothing of that code; a build with them (-fasynchronous-unwind-tables) has whole stacks"
        };
        format!(
            "stacks cut in {}: {}; {remedy}",
            visible(&place),
            counted(samples, "sample")
        )
    };
    cut.into_iter().take(MOST).map(line).collect()
}

const GENERATED: &str = "generated code";

/// The file of the outermost frame, if something is missing above it.
fn where_cut(profile: &Profile, stack: Option<StackId>) -> Option<String> {
    let frames = profile.root_to_leaf(stack);
    let (first, rest) = frames.split_first()?;
    let first = profile.frame_of(*first);
    if first.kind != FrameKind::Marker || first.function.as_deref() != Some("[truncated]") {
        return None;
    }
    let outermost = profile.frame_of(*rest.first()?);
    match (outermost.kind, outermost.module) {
        (FrameKind::Native, Some(module)) => Some(profile.module_of(module).path.clone()),
        (FrameKind::Native, None) => Some(GENERATED.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moonscope_profile::{Frame, Module, ValueType};

    /// So many samples cut in a file, cut in generated code, and whole.
    fn profile(in_file: i64, generated: i64, whole: i64) -> Profile {
        let mut profile = Profile::new(vec![ValueType::samples()]);
        let module = profile.module(Module::new("/bin/busy\x1bbox"));
        let cut = profile.frame(Frame::marker("truncated"));
        let in_module = profile.frame(Frame {
            module: Some(module),
            ..Frame::named(FrameKind::Native, "f")
        });
        let anonymous = profile.frame(Frame::named(FrameKind::Native, "jit"));
        let labels = profile.labels(&[]);
        for (frames, count) in [
            (vec![cut, in_module, anonymous], in_file),
            (vec![cut, anonymous, in_module], generated),
            (vec![in_module], whole),
        ] {
            let stack = profile.stack(frames);
            profile.add(stack, labels, &[count]);
        }
        let cut = (in_file + generated).unsigned_abs();
        profile.accounting.complete = whole.unsigned_abs();
        profile
            .accounting
            .truncated
            .insert(WalkEnd::NoRow.phrase().to_owned(), cut);
        profile
    }

    #[test]
    fn files_in_which_many_stacks_were_cut_are_named() {
        let said = lines(&profile(60, 10, 30), false);
        assert_eq!(said.len(), 2, "{said:#?}");
        assert!(
            said[0].starts_with("stacks cut in /bin/busy\\x1bbox: 60 samples; "),
            "{said:#?}"
        );
        assert!(
            said[1].starts_with("stacks cut in generated code: 10 samples; it keeps no frame pointers"),
            "{said:#?}"
        );
    }

    #[test]
    fn few_cut_stacks_are_not_worth_a_line_nor_are_those_cut_for_another_reason() {
        assert!(lines(&profile(4, 0, 96), false).is_empty());
        let mut deep = profile(60, 0, 40);
        deep.accounting.truncated = [(WalkEnd::Depth.phrase().to_owned(), 60)].into();
        assert!(lines(&deep, false).is_empty());
    }
}
