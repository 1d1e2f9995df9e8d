//! Text for people and terminals: numbers with thousands separators, control characters made visible.

use std::borrow::Cow;
use std::fmt;

/// A number with thousands separators: `1,980`.
#[derive(Clone, Copy, Debug)]
pub struct Grouped(pub u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(digits.len() + digits.len() / 3);
        for (nr, digit) in digits.chars().enumerate() {
            if nr > 0 && (digits.len() - nr).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad_integral(true, "", &text)
    }
}

/// `(1 more function)`, `(1,980 more functions)`: what a table leaves out.
pub(crate) fn more_functions(count: usize) -> String {
    let functions = if count == 1 { "function" } else { "functions" };
    format!("({} more {functions})", Grouped(count as u64))
}

/// Whether a terminal or a reader could be deceived by this character: control characters, and those
/// that change the direction of the text or have no width.
pub(crate) fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
        || matches!(c, '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with everything in it made visible that a terminal would obey: escape sequences, line
/// breaks, changes of direction. They become `\n`, `\t`, `\x1b`, `\u{202e}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_deceptive) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_deceptive(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Text broken between words into lines of at most `width` characters, further ones indented. A word
/// that is longer than that stays whole.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut chars = 0;
    for word in text.split(' ') {
        let more = word.chars().count();
        if chars > 0 && chars + 1 + more > width {
            lines.push(format!("  {word}"));
            chars = 2 + more;
        } else if let Some(line) = lines.last_mut() {
            if chars > 0 {
                line.push(' ');
                chars += 1;
            }
            line.push_str(word);
            chars += more;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        let texts = [0, 999, 1_000, 12_345, 999_999, 1_000_000].map(|nr| Grouped(nr).to_string());
        assert_eq!(texts, ["0", "999", "1,000", "12,345", "999,999", "1,000,000"]);
    }

    #[test]
    fn one_function_is_singular() {
        assert_eq!(more_functions(1), "(1 more function)");
        assert_eq!(more_functions(1_980), "(1,980 more functions)");
    }

    #[test]
    fn escape_sequences_become_visible() {
        assert_eq!(visible("plain <name>; λ"), "plain <name>; λ");
        assert_eq!(visible("a\u{1b}[31mb\n\u{202e}c"), "a\\x1b[31mb\\n\\u{202e}c");
    }
}
