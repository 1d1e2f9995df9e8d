//! Functions of a Lua source file: their lines, and their names by definition.
//!
//! Names at call sites change with the caller, and tail calls leave none; what a function is called where it
//! is defined does not change. [`SourceFile::parse`] reads a source as LuaJIT does; a prototype then finds
//! its definition by first and last line, number of parameters and `...`.
//!
//! | definition | name |
//! | --- | --- |
//! | `function a.b:c() end` | `a.b:c` |
//! | `local function f() end`, `f = function() end`, `local f = g or function() end` | `f` |
//! | `a.b["k"] = function() end`, `local a = { b = { k = function() end } }` | `a.b.k` |
//! | `a[k] = function() end`, `a[1 + n] = …` | `a[k]`, `a[?]` |
//! | `local t = { function() end }` | `t[1]` |
//! | `return { k = function() end }`, `setmetatable({ k = function() end })` | `k` |
//! | `pcall(function() end)` | `anonymous in pcall` |
//! | `function f() return function() end end` | `anonymous returned by f` |
//! | `(function() end)()` | `anonymous` |

mod definition;
mod lexer;
mod parser;

use std::collections::HashSet;
use std::ops::RangeInclusive;

use lexer::{Kind, Lexer};

pub use lexer::SourceError;

/// Largest source that is read, in bytes. The largest hand-written Lua files have some hundred KiB; generated
/// tables of data are larger, and hold no functions worth the time.
pub const MAX_SOURCE: usize = 8 << 20;

/// Functions in one source: some 100 bytes each.
pub const MAX_FUNCTIONS: usize = 1 << 16;

/// The name of what stands outside of all functions, in LuaJIT's own words (lib_aux.c, `luaL_traceback`).
pub const MAIN_CHUNK: &str = "main chunk";

/// One function of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSpan {
    /// First line, `GCproto.firstline`; 0 for the main chunk.
    pub first_line: u32,
    /// Last line, `GCproto.firstline + numline`.
    pub last_line: u32,
    /// Named parameters, `self` of a method included.
    pub params: u32,
    /// Has `...`.
    pub is_vararg: bool,
    /// What it is called where it is defined.
    pub name: Box<str>,
}

impl FunctionSpan {
    fn key(&self) -> (u32, u32, u32, bool) {
        (self.first_line, self.last_line, self.params, self.is_vararg)
    }
}

/// All functions of one source.
#[derive(Clone, Debug, Default)]
pub struct SourceFile {
    /// Sorted by [`FunctionSpan::key`].
    functions: Vec<FunctionSpan>,
    /// Names and strings with their lines, in order; empty unless asked for.
    words: Vec<(u32, Box<[u8]>)>,
}

impl SourceFile {
    /// Reads a source. Refuses what LuaJIT would not load, bytecode, and what is larger than [`MAX_SOURCE`].
    pub fn parse(text: &[u8]) -> Result<Self, SourceError> {
        if text.len() > MAX_SOURCE {
            return Err(SourceError {
                line: 0,
                what: "the source is larger than 8 MiB",
            });
        }
        let mut functions = parser::parse(text)?;
        functions.sort_by_key(FunctionSpan::key);
        Ok(Self {
            functions,
            words: Vec::new(),
        })
    }

    /// The same with what [`Self::has_words`] needs, which is about as large as the text.
    pub fn parse_with_words(text: &[u8]) -> Result<Self, SourceError> {
        let source = Self::parse(text)?;
        let mut lexer = Lexer::new(text);
        let mut words = Vec::new();
        loop {
            let token = lexer.next()?;
            match token.kind {
                Kind::End => break,
                Kind::Name | Kind::String => words.push((token.line, token.text.into())),
                _ => {}
            }
        }
        Ok(Self { words, ..source })
    }

    /// Are these all among the names and strings of these lines? Strings are compared as they are written: one with an
    /// escape in it is not found.
    pub fn has_words(&self, lines: RangeInclusive<u32>, words: &[Vec<u8>]) -> bool {
        let from = self.words.partition_point(|(line, _)| line < lines.start());
        let there = self.words.get(from..).unwrap_or_default().iter();
        let there: HashSet<&[u8]> = there
            .take_while(|(line, _)| line <= lines.end())
            .map(|(_, word)| &**word)
            .collect();
        words.iter().all(|word| there.contains(word.as_slice()))
    }

    /// All of them, the main chunk first.
    pub fn functions(&self) -> &[FunctionSpan] {
        &self.functions
    }

    /// The name of the function with these lines and parameters; `None` if there is none, or several that are
    /// called differently.
    pub fn name_of(&self, first_line: u32, last_line: u32, params: u32, is_vararg: bool) -> Option<&str> {
        let key = (first_line, last_line, params, is_vararg);
        let from = self.functions.partition_point(|function| function.key() < key);
        let mut same = self
            .functions
            .get(from..)?
            .iter()
            .take_while(|it| it.key() == key);
        let name = &same.next()?.name;
        same.all(|other| other.name == *name).then_some(name)
    }
}

#[cfg(test)]
mod tests;
