//! What kept event loops from turning, by line of Lua, the worst first: printed at the end of a recording of
//! `lua-loop`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use moonscope_probe::collectors::lua_loop;
use moonscope_profile::{FrameKind, Profile, StackId};

/// Lines that are shown; the others are in the files.
const MOST: usize = 10;

/// A table; nothing if the profile has no such event.
pub fn lines(profile: &Profile) -> Vec<String> {
    let (Some(time), Some(turns)) = (
        profile.value_named(lua_loop::TIME),
        profile.value_named(lua_loop::TURNS),
    ) else {
        return Vec::new();
    };
    let mut culprits: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for sample in profile.samples() {
        let value = |place: usize| sample.values.get(place).copied().unwrap_or(0);
        if value(time) != 0 || value(turns) != 0 {
            let culprit = culprits.entry(culprit(profile, sample.stack)).or_default();
            culprit.0 += value(time);
            culprit.1 += value(turns);
        }
    }
    let mut culprits: Vec<_> = culprits.into_iter().collect();
    culprits.sort_by_key(|(_, (time, turns))| Reverse((*time, *turns)));
    let row = |(name, (time, turns)): &(String, (i64, i64))| {
        let milliseconds = *time as f64 / 1e6;
        format!(
            "{milliseconds:>12.1} {turns:>8}  {}",
            moonscope_profile::visible(name)
        )
    };
    let heading = format!("{:>12} {:>8}  EVENT LOOP BLOCKED BY", "MS", "TURNS");
    let more = culprits.len().saturating_sub(MOST);
    let more = (more > 0).then(|| format!("{:>21}  ({more} more)", ""));
    std::iter::once(heading)
        .chain(culprits.iter().take(MOST).map(row))
        .chain(more)
        .collect()
}

/// The innermost Lua function and its line; where there is none, the innermost function of the program.
fn culprit(profile: &Profile, stack: Option<StackId>) -> String {
    let is_lua = |kind| matches!(kind, FrameKind::LuaInterpreted | FrameKind::LuaCompiled);
    let frames = || profile.leaf_to_root(stack);
    let found = frames()
        .find(|frame| is_lua(profile.frame_of(*frame).kind))
        .or_else(|| frames().find(|frame| profile.frame_of(*frame).kind != FrameKind::Kernel));
    let text = found.map_or_else(
        || "[unknown]".to_owned(),
        |frame| profile.text_of(frame).to_string(),
    );
    // compiled or not, it is the same line
    text.strip_suffix("_[j]").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moonscope_profile::{Frame, ValueType};

    #[test]
    fn the_line_that_took_longest_is_first_compiled_or_not() {
        let mut profile = Profile::new(vec![
            ValueType::new(lua_loop::TIME, "nanoseconds"),
            ValueType::new(lua_loop::TURNS, "count"),
        ]);
        let lua = |kind, name: &str, line| Frame {
            file: Some("a.lua".into()),
            line: Some(line),
            ..Frame::named(kind, name)
        };
        let main = profile.frame(Frame::named(FrameKind::Native, "main"));
        let quick = profile.frame(lua(FrameKind::LuaInterpreted, "quick", 3));
        let slow = profile.frame(lua(FrameKind::LuaInterpreted, "slow", 7));
        let compiled = profile.frame(lua(FrameKind::LuaCompiled, "slow", 7));
        let builtin = profile.frame(Frame::named(FrameKind::LuaBuiltin, "os.execute"));
        let labels = profile.labels(&[("comm", "nginx".into())]);
        for (frames, time, turns) in [
            (vec![main, quick], 30_000_000, 1),
            (vec![main, slow, builtin], 25_000_000, 0),
            (vec![main, compiled], 25_000_000, 2),
            (vec![main], 1_000_000, 0),
        ] {
            let stack = profile.stack(frames);
            profile.add(stack, labels, &[time, turns]);
        }
        let lines = lines(&profile);
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert_eq!(lines[1], format!("{:>12} {:>8}  slow@a.lua:7", "50.0", 2));
        assert_eq!(lines[2], format!("{:>12} {:>8}  quick@a.lua:3", "30.0", 1));
        assert!(lines[3].ends_with("  main"), "{lines:#?}");
    }

    #[test]
    fn a_profile_without_the_event_has_no_table() {
        assert!(lines(&Profile::new(vec![ValueType::samples()])).is_empty());
    }
}
