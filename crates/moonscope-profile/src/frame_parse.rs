//! The text form of a frame read back: `tcp_sendmsg_[k]` is a kernel frame again.
//!
//! Other tools use the same annotations, and `[libfoo.so+0x12]` or `[unknown]`, so this serves their
//! files too. What is not clearly one of these forms stays what it is: the name of a native function.

use crate::frame::{Frame, FrameKind, Module};
use crate::profile::Profile;

/// The frame that has this text form.
pub(crate) fn parse(profile: &mut Profile, text: &str) -> Frame {
    let (name, kind) = match text.strip_suffix("_[k]").or_else(|| text.strip_suffix("_[j]")) {
        Some(name) if text.ends_with("_[k]") => (name, FrameKind::Kernel),
        Some(name) => (name, FrameKind::LuaCompiled),
        None => match text.strip_suffix("_[b]") {
            Some(name) => (name, FrameKind::LuaBuiltin),
            None => (text.strip_suffix("_[i]").unwrap_or(text), FrameKind::Native),
        },
    };
    if name.is_empty() {
        return plain(profile, FrameKind::Native, text);
    }
    let inlined = kind == FrameKind::Native && name.len() < text.len();
    let frame = match kind {
        FrameKind::LuaCompiled => lua(profile, kind, name).unwrap_or_else(|| plain(profile, kind, name)),
        FrameKind::Native | FrameKind::Kernel => match in_brackets(profile, kind, name) {
            Some(frame) if !inlined || frame.kind != FrameKind::Marker => frame,
            _ if !inlined && kind == FrameKind::Native && is_lua_source(name) => {
                lua(profile, FrameKind::LuaInterpreted, name).unwrap_or_else(|| plain(profile, kind, name))
            }
            _ => plain(profile, kind, name),
        },
        _ => plain(profile, kind, name),
    };
    Frame { inlined, ..frame }
}

fn plain(profile: &mut Profile, kind: FrameKind, name: &str) -> Frame {
    if name.is_empty() {
        Frame::unknown(kind)
    } else {
        Frame::named(kind, profile.string(name))
    }
}

/// `[module+0xoffset]`, `[unknown]`, `[libfoo.so]`, or a marker.
fn in_brackets(profile: &mut Profile, kind: FrameKind, name: &str) -> Option<Frame> {
    let inner = name.strip_prefix('[')?.strip_suffix(']')?;
    if inner == "unknown" {
        return Some(Frame::unknown(kind));
    }
    let (path, offset) = match inner.rsplit_once("+0x") {
        Some((path, hex)) if is_plain_hex(hex) => (path, u64::from_str_radix(hex, 16).ok()),
        _ => (inner, None),
    };
    // The text form holds the last part of the path only, and no brackets.
    let is_base_name = !path.is_empty() && !path.contains(['/', '[', ']']);
    if is_base_name && (offset.is_some() || path.contains(".so")) {
        let module = Some(profile.module(Module::new(path)));
        return Some(Frame {
            module,
            offset,
            ..Frame::unknown(kind)
        });
    }
    (kind == FrameKind::Native).then(|| plain(profile, FrameKind::Marker, name))
}

/// Digits as `{:x}` writes them.
fn is_plain_hex(hex: &str) -> bool {
    hex.bytes()
        .all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
        && (hex == "0" || !hex.starts_with('0'))
}

/// Whether `f@file:line` speaks of Lua and not, say, of a JavaScript file in a scoped package.
fn is_lua_source(name: &str) -> bool {
    name.split_once('@')
        .is_some_and(|(_, source)| source.contains(".lua") || source.contains("by_lua"))
}

/// `f@file:line`.
fn lua(profile: &mut Profile, kind: FrameKind, name: &str) -> Option<Frame> {
    let (function, source) = name.split_once('@')?;
    let (file, line) = match source.rsplit_once(':') {
        Some((file, digits)) if !digits.starts_with(['0', '+']) => match digits.parse() {
            Ok(line) => (file, Some(line)),
            Err(_) => (source, None),
        },
        _ => (source, None),
    };
    let function = (!function.is_empty()).then(|| profile.string(function));
    let file = Some(profile.string(file));
    Some(Frame {
        function,
        file,
        line,
        ..Frame::unknown(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(text: &str) -> (FrameKind, Frame) {
        let mut profile = Profile::new(vec![]);
        let frame = parse(&mut profile, text);
        let id = profile.frame(frame.clone());
        assert_eq!(
            profile.text_of(id).to_string(),
            text,
            "the text form must not change"
        );
        (frame.kind, frame)
    }

    #[test]
    fn the_text_forms_of_all_kinds_are_read_back() {
        assert_eq!(kind_of("tcp_sendmsg_[k]").0, FrameKind::Kernel);
        assert_eq!(kind_of("string.gsub_[b]").0, FrameKind::LuaBuiltin);
        assert_eq!(kind_of("[truncated]").0, FrameKind::Marker);
        assert_eq!(kind_of("main").0, FrameKind::Native);
        assert!(kind_of("inl_[i]").1.inlined);

        let (kind, lua) = kind_of("access@plugins/limit-count.lua:87");
        assert_eq!((kind, lua.line), (FrameKind::LuaInterpreted, Some(87)));
        assert_eq!(lua.file.as_deref(), Some("plugins/limit-count.lua"));
        assert_eq!(kind_of("@a.lua:1_[j]").1.function, None);

        let (kind, unnamed) = kind_of("[libfoo.so+0x1234]");
        assert_eq!((kind, unnamed.offset), (FrameKind::Native, Some(0x1234)));
        assert_eq!(kind_of("[nf_tables+0x10]_[k]").0, FrameKind::Kernel);
        assert_eq!(kind_of("[unknown]").1, Frame::unknown(FrameKind::Native));
    }

    #[test]
    fn what_only_looks_similar_stays_a_native_name() {
        for text in [
            "_[k]",
            "memcpy@@GLIBC_2.14",
            "f /m/@babel/x.js:3",
            "a_[x]",
            "f+0x12",
            "[;0]_[i]",
        ] {
            assert_ne!(kind_of(text).0, FrameKind::LuaInterpreted, "{text}");
            assert_ne!(kind_of(text).0, FrameKind::Kernel, "{text}");
        }
        for text in [
            "[a/b+0x1]",
            "[+0x1]",
            "[a+0x01]",
            "[a+0xFF]",
            "[[x].so]",
            "[]",
            "f@x.lua:+1",
            "@:0_[j]",
        ] {
            kind_of(text);
        }
    }
}
