//! What a function is called by the place where it is defined.

use super::lexer::{Kind, Token, is_ident};
use std::borrow::Cow;

/// Longest name that is made, in bytes before escaping; longer ones end in `…`. Names in sources have tens.
const MAX_NAME: usize = 120;

/// What becomes of the value of an expression.
#[derive(Clone, Debug)]
pub(super) enum Definition {
    /// It is stored under this name.
    Named(String),
    /// It is an argument of a call of this.
    Argument(String),
    /// It is returned, by the function of this name or by the main chunk.
    Returned(Option<String>),
    /// Nothing that gives a name.
    Unnamed,
}

impl Definition {
    /// The name of a function in this place.
    pub(super) fn function_name(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::Argument(callee) => anonymous("anonymous in", callee),
            Self::Returned(Some(function)) => anonymous("anonymous returned by", function),
            Self::Returned(None) => anonymous("anonymous returned by", "main chunk"),
            Self::Unnamed => "anonymous".to_owned(),
        }
    }

    /// A table constructor in this place, to put keys behind.
    pub(super) fn table(&self) -> Target {
        match self {
            Self::Named(name) => Target { text: name.clone() },
            _ => Target::unknown(),
        }
    }
}

/// A nested function of an anonymous one is not given the whole chain.
fn anonymous(what: &str, of: &str) -> String {
    let of = of.rsplit("anonymous in ").next().unwrap_or(of);
    let of = of.rsplit("anonymous returned by ").next().unwrap_or(of);
    if of.is_empty() || of == "anonymous" {
        "anonymous".to_owned()
    } else {
        format!("{what} {of}")
    }
}

/// The left side of an assignment, the function of a call: `a.b[1]:c`.
#[derive(Clone, Debug)]
pub(super) struct Target {
    text: String,
}

impl Target {
    pub(super) fn unknown() -> Self {
        Self { text: String::new() }
    }

    pub(super) fn name(name: &[u8]) -> Self {
        let mut target = Self::unknown();
        target.push(&shown(name));
        target
    }

    fn push(&mut self, text: &str) {
        if self.text.ends_with('…') {
            return;
        }
        if self.text.len() + text.len() <= MAX_NAME {
            self.text.push_str(text);
        } else {
            let room = MAX_NAME.saturating_sub(self.text.len());
            let fits = text
                .char_indices()
                .take_while(|(at, c)| at + c.len_utf8() <= room);
            self.text.extend(fits.map(|(_, c)| c));
            self.text.push('…');
        }
    }

    pub(super) fn field(&mut self, name: &[u8]) {
        if !self.text.is_empty() {
            self.push(".");
        }
        self.push(&shown(name));
    }

    pub(super) fn method(&mut self, name: &[u8]) {
        self.push(":");
        self.push(&shown(name));
    }

    /// `[key]`; `None` if the key is more than one word.
    pub(super) fn index(&mut self, key: Option<Token<'_>>) {
        match key {
            Some(key) if key.kind == Kind::String && is_identifier(key.text) => self.field(key.text),
            Some(key) if key.kind == Kind::String => self.push(&format!("[\"{}\"]", shown(key.text))),
            Some(key) => self.push(&format!("[{}]", shown(key.text))),
            None => self.push("[?]"),
        }
    }

    pub(super) fn position(&mut self, position: u32) {
        if !self.text.is_empty() {
            self.push(&format!("[{position}]"));
        }
    }

    pub(super) fn call(&mut self) {
        if !self.text.is_empty() {
            self.push("()");
        }
    }

    pub(super) fn into_name(self) -> String {
        self.text
    }

    pub(super) fn into_definition(self) -> Definition {
        match self.text.is_empty() {
            true => Definition::Unnamed,
            false => Definition::Named(self.text),
        }
    }
}

fn is_identifier(text: &[u8]) -> bool {
    text.iter().all(|byte| is_ident(*byte)) && text.first().is_some_and(|byte| !byte.is_ascii_digit())
}

/// As text: what is not UTF-8 is replaced, what is not printable is escaped.
fn shown(bytes: &[u8]) -> Cow<'_, str> {
    let bytes = bytes.get(..MAX_NAME).unwrap_or(bytes);
    let text = String::from_utf8_lossy(bytes);
    if !text.contains(char::is_control) {
        return text;
    }
    let escaped = text.chars().map(|c| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    });
    Cow::Owned(escaped.collect())
}
