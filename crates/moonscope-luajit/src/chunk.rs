//! Names of chunks: where the text of a function came from.
//!
//! `@path` is a file, `=label` a name that the loader made up, everything else is the text itself (the
//! manual of Lua 5.1, `lua_Debug.source`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Room for a short name with its end (luaconf.h, `LUA_IDSIZE`).
const LUA_IDSIZE: usize = 60;

/// Where a chunk came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// A file, as the process called it: absolute, or relative to what its working directory was.
    File(PathBuf),
    /// The end of a path whose beginning was cut off by a loader that keeps names short (`...`).
    CutFile(PathBuf),
    /// A name that the loader gave: `content_by_lua(nginx.conf:42)`.
    Label(String),
    /// Loaded from a string; the short name of it, `[string "return 1"]`.
    Text(String),
    /// Bytecode that LuaJIT brings; the name of the function.
    Builtin(String),
}

impl Chunk {
    /// Sorts a chunk name. `firstline`: that of the prototype, which tells LuaJIT's own bytecode.
    pub fn parse(chunkname: &[u8], firstline: u32) -> Self {
        match chunkname {
            _ if firstline == !0 => Self::Builtin(lossy(chunkname)),
            [b'@', path @ ..] => match path.strip_prefix(b"...") {
                Some(end) => Self::CutFile(to_path(end)),
                None => Self::File(to_path(path)),
            },
            [b'=', label @ ..] => Self::Label(lossy(label)),
            _ => Self::Text(short_source(chunkname, firstline)),
        }
    }

    /// The file or what stands for it, complete.
    pub fn file(&self) -> String {
        match self {
            Self::File(path) => path.to_string_lossy().into_owned(),
            Self::CutFile(path) => format!("...{}", path.to_string_lossy()),
            Self::Label(label) => label.clone(),
            Self::Text(text) => text.clone(),
            Self::Builtin(name) => format!("[builtin:{name}]"),
        }
    }

    /// The file as it is shown beside a function. A path is shown by its last two components, always, so that
    /// the same function has the same text everywhere: `plugins/limit-count.lua`, `resty/core.lua`.
    pub fn short_file(&self) -> String {
        match self {
            Self::File(path) | Self::CutFile(path) => {
                let parts = path
                    .components()
                    .filter(|part| matches!(part, Component::Normal(_)));
                let parts: Vec<_> = parts.collect();
                let last: PathBuf = parts[parts.len().saturating_sub(2)..].iter().collect();
                last.to_string_lossy().into_owned()
            }
            _ => self.file(),
        }
    }
}

fn to_path(bytes: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(bytes)).to_owned()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The short name of a chunk as LuaJIT's messages have it (lj_debug_shortname): `debug.getinfo(f).short_src`.
/// For a long text its first 100 bytes are enough. What is not UTF-8 is replaced.
pub fn short_source(chunkname: &[u8], firstline: u32) -> String {
    let until_end = |bytes: &[u8]| bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    match chunkname {
        [b'=', label @ ..] => {
            let label = until_end(label);
            lossy(&label[..label.len().min(LUA_IDSIZE - 1)])
        }
        [b'@', path @ ..] if path.len() >= LUA_IDSIZE => {
            let end = &path[path.len() - (LUA_IDSIZE - 4)..];
            format!("...{}", lossy(&until_end(end)))
        }
        [b'@', path @ ..] => lossy(&until_end(path)),
        text => {
            let (before, after) = if firstline == !0 {
                ("[builtin:", "]")
            } else {
                ("[string \"", "\"]")
            };
            // Up to the first control character; a text that goes on behind that is cut.
            let printable = text
                .iter()
                .take(LUA_IDSIZE - 12)
                .take_while(|byte| **byte >= b' ')
                .count();
            match text.get(printable) {
                Some(next) if *next != 0 => {
                    let cut = &text[..printable.min(LUA_IDSIZE - 15)];
                    format!("{before}{}...{after}", lossy(cut))
                }
                _ => format!("{before}{}{after}", lossy(&text[..printable])),
            }
        }
    }
}
