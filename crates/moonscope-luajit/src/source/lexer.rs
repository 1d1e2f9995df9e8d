//! Words of a Lua source: LuaJIT's lexical rules (lj_lex.c), with the operators that its syntax extensions of
//! 2026 added.
//!
//! A [`Token`] carries the line at its end, which is what LuaJIT's parser takes as "the line of the current
//! token". Numbers are not evaluated and escapes not decoded: only where tokens begin and end matters here.

/// Why a text is not a Lua source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct SourceError {
    /// The line, from 1.
    pub line: u32,
    /// What is wrong there.
    pub what: &'static str,
}

/// One word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind,
    /// The word itself; of a string what is between its delimiters.
    pub(super) text: &'t [u8],
    /// The line on which it ends.
    pub(super) line: u32,
}

/// What a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An identifier, soft keywords included.
    Name,
    /// A reserved word.
    Keyword,
    Number,
    String,
    /// Operators and punctuation.
    Symbol,
    End,
}

/// Reserved words of Lua 5.1. `goto`, `continue` and `const` are names unless the parser sees otherwise.
const KEYWORDS: [&[u8]; 21] = [
    b"and",
    b"break",
    b"do",
    b"else",
    b"elseif",
    b"end",
    b"false",
    b"for",
    b"function",
    b"if",
    b"in",
    b"local",
    b"nil",
    b"not",
    b"or",
    b"repeat",
    b"return",
    b"then",
    b"true",
    b"until",
    b"while",
];

/// Symbols of more than one character, longest first.
const SYMBOLS: [&[u8]; 16] = [
    b"...", b"~>>", b"..", b"==", b"~=", b"<=", b">=", b"::", b"->", b"<<", b">>", b"!=", b"?.", b"??",
    b"&&", b"||",
];

/// Cuts a text into words.
#[derive(Clone, Debug)]
pub(super) struct Lexer<'t> {
    text: &'t [u8],
    at: usize,
    line: u32,
}

impl<'t> Lexer<'t> {
    /// Starts behind a byte order mark and a first line that begins with `#`.
    pub(super) fn new(text: &'t [u8]) -> Self {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut lexer = Self { text, at: 0, line: 1 };
        if lexer.peek(0) == b'#' {
            lexer.skip_line();
        }
        lexer
    }

    /// The byte `ahead` of the current position; 0 at the end.
    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn rest(&self) -> &'t [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn error<T>(&self, what: &'static str) -> Result<T, SourceError> {
        let line = self.line;
        Err(SourceError { line, what })
    }

    /// Steps over a line break: LF, CR, CR LF or LF CR is one.
    fn newline(&mut self) {
        let first = self.peek(0);
        self.at += 1;
        let second = self.peek(0);
        if matches!(second, b'\n' | b'\r') && second != first {
            self.at += 1;
        }
        self.line += 1;
    }

    /// Moves to the end of this line, not over it.
    fn skip_line(&mut self) {
        let rest = self.rest();
        let to_end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        self.at += to_end.unwrap_or(rest.len());
    }

    /// If a long bracket opens here, its level.
    fn long_bracket(&self) -> Option<usize> {
        let level = self
            .rest()
            .get(1..)?
            .iter()
            .take_while(|byte| **byte == b'=')
            .count();
        (self.peek(0) == b'[' && self.peek(1 + level) == b'[').then_some(level)
    }

    /// Steps over a long string or comment whose opening bracket is here; its text.
    fn long_text(&mut self, level: usize) -> Result<&'t [u8], SourceError> {
        self.at += level + 2;
        let start = self.at;
        while self.at < self.text.len() {
            match self.peek(0) {
                b'\n' | b'\r' => self.newline(),
                b']' => {
                    let equals = self.rest()[1..].iter().take_while(|byte| **byte == b'=').count();
                    if equals == level && self.peek(1 + level) == b']' {
                        let text = &self.text[start..self.at];
                        self.at += level + 2;
                        return Ok(text);
                    }
                    self.at += 1 + equals;
                }
                _ => self.at += 1,
            }
        }
        self.error("a long string or comment does not end")
    }

    /// Steps over a string whose opening quote is here; its text, escapes as they stand.
    fn short_text(&mut self) -> Result<&'t [u8], SourceError> {
        let quote = self.peek(0);
        self.at += 1;
        let start = self.at;
        while self.at < self.text.len() {
            match self.peek(0) {
                byte if byte == quote => {
                    let text = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(text);
                }
                b'\n' | b'\r' => return self.error("a string does not end on its line"),
                b'\\' => self.escape(),
                _ => self.at += 1,
            }
        }
        self.error("a string does not end")
    }

    /// Steps over a backslash and as much behind it as could be mistaken for the end of the string.
    fn escape(&mut self) {
        self.at += 1;
        match self.peek(0) {
            b'\n' | b'\r' => self.newline(),
            b'z' => {
                self.at += 1;
                loop {
                    match self.peek(0) {
                        b'\n' | b'\r' => self.newline(),
                        b' ' | b'\t' | b'\x0b' | b'\x0c' => self.at += 1,
                        _ => break,
                    }
                }
            }
            _ => self.at += 1,
        }
    }

    /// Steps over white space and comments.
    fn skip_blank(&mut self) -> Result<(), SourceError> {
        while self.at < self.text.len() {
            match self.peek(0) {
                b'\n' | b'\r' => self.newline(),
                b' ' | b'\t' | b'\x0b' | b'\x0c' => self.at += 1,
                b'-' if self.peek(1) == b'-' => {
                    self.at += 2;
                    match self.long_bracket() {
                        Some(level) => _ = self.long_text(level)?,
                        None => self.skip_line(),
                    }
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Length of the number here: digits, letters and dots, and a sign behind an exponent. Whether it is a
    /// valid one was LuaJIT's to check.
    fn number_length(&self) -> usize {
        let rest = self.rest();
        let is_hex = rest.len() > 1 && rest[0] == b'0' && rest[1] | 0x20 == b'x';
        let exponent = if is_hex { b'p' } else { b'e' };
        let mut before = 0;
        let ends = |byte: &u8| {
            let is_sign = matches!(byte, b'+' | b'-') && before | 0x20 == exponent;
            before = *byte;
            !(is_sign || is_ident(*byte) || *byte == b'.')
        };
        rest.iter().position(ends).unwrap_or(rest.len())
    }

    /// The next word.
    pub(super) fn next(&mut self) -> Result<Token<'t>, SourceError> {
        self.skip_blank()?;
        let start = self.at;
        let first = self.peek(0);
        if start >= self.text.len() {
            return Ok(self.token(Kind::End, b""));
        }
        if first.is_ascii_digit() || first == b'.' && self.peek(1).is_ascii_digit() {
            let len = self.number_length();
            return Ok(self.take(Kind::Number, len));
        }
        if is_ident(first) {
            let len = self.rest().iter().take_while(|byte| is_ident(**byte)).count();
            let word = &self.rest()[..len];
            let kind = if KEYWORDS.contains(&word) {
                Kind::Keyword
            } else {
                Kind::Name
            };
            return Ok(self.take(kind, len));
        }
        if matches!(first, b'"' | b'\'') {
            let text = self.short_text()?;
            return Ok(self.token(Kind::String, text));
        }
        if let Some(level) = self.long_bracket() {
            let text = self.long_text(level)?;
            return Ok(self.token(Kind::String, text));
        }
        let symbol = SYMBOLS.iter().find(|symbol| self.rest().starts_with(symbol));
        let len = symbol.map_or(1, |symbol| symbol.len()).max(1);
        Ok(self.take(Kind::Symbol, len))
    }

    fn take(&mut self, kind: Kind, len: usize) -> Token<'t> {
        let text = &self.rest()[..len];
        self.at += len;
        self.token(kind, text)
    }

    fn token(&self, kind: Kind, text: &'t [u8]) -> Token<'t> {
        Token {
            kind,
            text,
            line: self.line,
        }
    }
}

/// Bytes of identifiers (lj_char.c): everything from 0x80 on counts.
pub(super) fn is_ident(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}
