//! What a stack is made of: frames, the modules they lie in, and how a frame reads as text.

use std::fmt;
use std::sync::Arc;

/// What kind of code a frame runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrameKind {
    /// The kernel and its modules.
    Kernel,
    /// Machine code of an executable or library.
    Native,
    /// A Lua function run by the interpreter.
    LuaInterpreted,
    /// A Lua function run as a compiled trace.
    LuaCompiled,
    /// A function of LuaJIT's own library, such as `string.gsub`.
    LuaBuiltin,
    /// No code: says something about the stack, such as `[truncated]`.
    Marker,
}

impl FrameKind {
    /// Every kind there is.
    pub const ALL: [Self; 6] = [
        Self::Kernel,
        Self::Native,
        Self::LuaInterpreted,
        Self::LuaCompiled,
        Self::LuaBuiltin,
        Self::Marker,
    ];

    /// The name in files and tables: `kernel`, `native`, `lua-interpreted`, …
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Native => "native",
            Self::LuaInterpreted => "lua-interpreted",
            Self::LuaCompiled => "lua-compiled",
            Self::LuaBuiltin => "lua-builtin",
            Self::Marker => "marker",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether this is Lua, in whatever way it runs.
    pub fn is_lua(self) -> bool {
        matches!(self, Self::LuaInterpreted | Self::LuaCompiled | Self::LuaBuiltin)
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An executable file or library that frames lie in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Module {
    /// Its path as the process saw it, or a name in brackets such as `[vdso]`.
    pub path: String,
    /// Its build id in lower-case hexadecimal.
    pub build_id: Option<String>,
}

impl Module {
    /// A module with this path and no build id.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            build_id: None,
        }
    }

    /// The last part of the path, without the brackets of names such as `[vdso]`.
    pub fn base_name(&self) -> &str {
        let base = self
            .path
            .rsplit('/')
            .find(|part| !part.is_empty())
            .unwrap_or(&self.path);
        base.trim_matches(['[', ']'])
    }
}

/// A [`Module`] of one [`Profile`](crate::Profile).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(pub(crate) u32);

/// A [`Frame`] of one [`Profile`](crate::Profile).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameId(pub(crate) u32);

impl ModuleId {
    /// Its place in [`Profile::modules`](crate::Profile::modules).
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl FrameId {
    /// Its place in [`Profile::frames`](crate::Profile::frames).
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One function call of a stack. What is not known is `None`, never a guess.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// What kind of code it is.
    pub kind: FrameKind,
    /// Name of the function; for a marker its text, brackets included.
    pub function: Option<Arc<str>>,
    /// Source file.
    pub file: Option<Arc<str>>,
    /// The source line that was running.
    pub line: Option<u32>,
    /// The source line where the function is defined.
    pub defined_at: Option<u32>,
    /// The executable or library.
    pub module: Option<ModuleId>,
    /// Virtual address in the module's ELF file, as `addr2line` wants it. For a function without a
    /// name it is where the function starts.
    pub offset: Option<u64>,
    /// Whether the compiler inlined this function into the next outer frame.
    pub inlined: bool,
}

impl Frame {
    /// A frame of which nothing but the kind is known.
    pub fn unknown(kind: FrameKind) -> Self {
        Self {
            kind,
            function: None,
            file: None,
            line: None,
            defined_at: None,
            module: None,
            offset: None,
            inlined: false,
        }
    }

    /// A frame of which only the function's name is known.
    pub fn named(kind: FrameKind, function: impl Into<Arc<str>>) -> Self {
        Self {
            function: Some(function.into()),
            ..Self::unknown(kind)
        }
    }

    /// A marker: `Frame::marker("truncated")` reads `[truncated]`.
    pub fn marker(text: &str) -> Self {
        Self::named(FrameKind::Marker, format!("[{text}]"))
    }

    /// The function's name; `None` when it is unknown or empty.
    pub fn name(&self) -> Option<&str> {
        self.function.as_deref().filter(|name| !name.is_empty())
    }

    /// The line to show: the running one, else that of the definition.
    pub fn shown_line(&self) -> Option<u32> {
        self.line.or(self.defined_at)
    }

    /// What is appended to the text form: `_[k]`, `_[j]`, `_[b]`, `_[i]` or nothing. An inlined kernel
    /// function keeps `_[k]`.
    pub fn annotation(&self) -> &'static str {
        match self.kind {
            FrameKind::Kernel => "_[k]",
            FrameKind::LuaCompiled => "_[j]",
            FrameKind::LuaBuiltin => "_[b]",
            FrameKind::Native if self.inlined => "_[i]",
            FrameKind::Native | FrameKind::LuaInterpreted | FrameKind::Marker => "",
        }
    }
}

/// A frame as text: `ngx_http_core_run_phases`, `tcp_sendmsg_[k]`, `access@plugins/limit-count.lua:87`,
/// `[libfoo.so+0x1234]`. Characters are as they came; each format escapes what it must.
#[derive(Clone, Copy, Debug)]
pub struct FrameText<'a> {
    pub(crate) frame: &'a Frame,
    pub(crate) module: Option<&'a Module>,
}

impl<'a> FrameText<'a> {
    /// The text of `frame`, whose module is `module`.
    pub fn new(frame: &'a Frame, module: Option<&'a Module>) -> Self {
        Self { frame, module }
    }

    /// The name without annotation.
    fn write_name(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = self.frame;
        if matches!(frame.kind, FrameKind::LuaInterpreted | FrameKind::LuaCompiled)
            && let Some(file) = frame.file.as_deref()
        {
            write!(f, "{}@{}", frame.name().unwrap_or_default(), short_path(file))?;
            return match frame.shown_line() {
                Some(line) => write!(f, ":{line}"),
                None => Ok(()),
            };
        }
        match (frame.name(), self.module, frame.offset) {
            (Some(name), _, _) => f.write_str(name),
            (None, Some(module), Some(offset)) => write!(f, "[{}+{offset:#x}]", module.base_name()),
            (None, Some(module), None) => write!(f, "[{}]", module.base_name()),
            (None, None, _) => f.write_str("[unknown]"),
        }
    }
}

/// A Lua file as it is shown beside a function: the last two parts of its path, always, so that the same
/// function has the same text everywhere. What stands for a file, as `content_by_lua(nginx.conf:51)` does, is
/// shown as it is.
fn short_path(file: &str) -> &str {
    if file.contains(['(', '[']) {
        return file;
    }
    let short = match file.rmatch_indices('/').nth(1) {
        Some((slash, _)) => &file[slash..],
        None => file,
    };
    // what was shortened once stays as it is, also `a//b`
    short.trim_start_matches('/')
}

impl fmt::Display for FrameText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_name(f)?;
        f.write_str(self.frame.annotation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lua_file_is_shown_by_the_last_two_parts_of_its_path() {
        for (file, shown) in [
            (
                "/usr/local/apisix/plugins/limit-count.lua",
                "plugins/limit-count.lua",
            ),
            ("plugins/limit-count.lua", "plugins/limit-count.lua"),
            ("/a.lua", "a.lua"),
            ("a.lua", "a.lua"),
            ("//", ""),
            ("a//b.lua", "b.lua"),
            (
                "content_by_lua(/etc/nginx/nginx.conf:51)",
                "content_by_lua(/etc/nginx/nginx.conf:51)",
            ),
            ("[string \"return 1/2/3\"]", "[string \"return 1/2/3\"]"),
        ] {
            assert_eq!(short_path(file), shown);
        }
    }
}
