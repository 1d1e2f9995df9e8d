//! What functions are called on the screen.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use moonscope_profile::{Frame, FrameId, FrameKind, FrameText, Profile, visible};

/// Characters of a name at most: nothing reads more, and marks above letters take no room but memory.
const LONGEST: usize = 400;

/// A name, fit for a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// As it is shown.
    pub text: String,
    /// What kind of code it is.
    pub kind: FrameKind,
}

/// How functions are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// By what they are and where they are defined.
    Function,
    /// By the line that was running too.
    Line,
}

/// All names of a profile, and for each frame the number of its name.
pub fn names(profile: &Profile, detail: Detail) -> (Vec<Name>, Vec<u32>) {
    let mut names: Vec<Name> = Vec::new();
    let mut known: HashMap<Name, u32> = HashMap::new();
    let mut of_frame = vec![0; profile.frames().len()];
    for frame in frame_ids(profile) {
        let name = name(profile, frame, detail);
        of_frame[frame.index()] = *known.entry(name).or_insert_with_key(|name| {
            names.push(name.clone());
            names.len() as u32 - 1
        });
    }
    (names, of_frame)
}

/// Frames of stacks, each once, in the order of their numbers.
fn frame_ids(profile: &Profile) -> Vec<FrameId> {
    let mut ids: Vec<FrameId> = profile.stacks().iter().map(|node| node.frame).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn name(profile: &Profile, id: FrameId, detail: Detail) -> Name {
    let frame = profile.frame_of(id);
    let text = match detail {
        Detail::Line => profile.text_with_line(id),
        Detail::Function => {
            let module = frame.module.map(|module| profile.module_of(module));
            let defined = Frame {
                line: None,
                ..frame.clone()
            };
            FrameText::new(&defined, module).to_string()
        }
    };
    Name {
        text: shown(&text),
        kind: frame.kind,
    }
}

/// A text of others as it may stand on the screen.
pub fn shown(text: &str) -> String {
    let end = text
        .char_indices()
        .nth(LONGEST)
        .map_or(text.len(), |(end, _)| end);
    visible(&text[..end]).into_owned()
}

/// A number that stands for a name below another one, the same each time.
pub fn identity(parent: u64, text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (parent, text).hash(&mut hasher);
    hasher.finish()
}

/// Is a text found in another? Capital letters matter if there are any in what is looked for.
pub fn contains(text: &str, wanted: &str) -> bool {
    match wanted.chars().any(char::is_uppercase) {
        true => text.contains(wanted),
        false => text.to_lowercase().contains(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_function_are_one_name_or_several() {
        let mut profile = Profile::new(Vec::new());
        for line in [81, 87] {
            let frame = profile.frame(Frame {
                file: Some("/apisix/plugins/limit-count.lua".into()),
                line: Some(line),
                defined_at: Some(80),
                ..Frame::named(FrameKind::LuaInterpreted, "access")
            });
            profile.child(None, frame);
        }
        let texts = |detail| {
            let (names, of_frame) = names(&profile, detail);
            let texts = of_frame.iter().map(|&name| names[name as usize].text.clone());
            texts.collect::<Vec<_>>()
        };
        assert_eq!(texts(Detail::Function), ["access@plugins/limit-count.lua:80"; 2]);
        assert_eq!(
            texts(Detail::Line),
            [
                "access@plugins/limit-count.lua:81",
                "access@plugins/limit-count.lua:87"
            ]
        );
    }

    #[test]
    fn a_name_gives_the_terminal_no_orders_and_is_not_endless() {
        assert_eq!(shown("a\u{1b}[2Jb\n"), "a\\x1b[2Jb\\n");
        assert_eq!(shown(&"e\u{301}".repeat(100_000)).chars().count(), LONGEST);
    }

    #[test]
    fn capital_letters_matter_if_there_are_any_in_what_is_looked_for() {
        assert!(contains("Lua_Call", "call") && contains("Lua_Call", "Call"));
        assert!(!contains("lua_call", "Call"));
    }
}
