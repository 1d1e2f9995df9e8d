//! Folded stacks: `root;caller;leaf 12`, one line for each stack.
//!
//! The form of `stackcollapse-perf.pl`; flamegraph.pl, inferno and speedscope read it. A line ends with
//! its count after the last blank, and `;` separates frames, so a name that contains one of these (or
//! a control character) is escaped: `\x3b` is `;`. Only the few characters that need it are escaped,
//! and only their escapes are read back, so that a backslash in another tool's names stays one.

use std::borrow::Cow;
use std::io::Write;

use crate::error::{ReadError, WriteError};
use crate::frame_parse;
use crate::limits;
use crate::meta::ValueType;
use crate::options::WriteOptions;
use crate::profile::Profile;
use crate::text::is_deceptive;
use crate::view::View;

/// Writes one line for each stack, sorted.
pub(crate) fn write(
    profile: &Profile,
    options: &WriteOptions,
    out: &mut dyn Write,
) -> Result<(), WriteError> {
    let view = View::new(profile, options)?;
    let names: Vec<_> = view.names.iter().map(|name| escape(&name.text)).collect();
    let mut line = Vec::new();
    for row in &view.rows {
        line.clear();
        join(&names, &row.path, &mut line);
        writeln!(line, " {}", row.value)?;
        out.write_all(&line)?;
    }
    Ok(())
}

/// Appends the names of a path with `;` between them.
pub(crate) fn join(names: &[Cow<'_, str>], path: &[u32], line: &mut Vec<u8>) {
    for (depth, name) in path.iter().enumerate() {
        if depth > 0 {
            line.push(b';');
        }
        line.extend_from_slice(names[*name as usize].as_bytes());
    }
}

/// A name in which nothing can be taken for the syntax of a line.
pub(crate) fn escape(name: &str) -> Cow<'_, str> {
    // Where a blank would read as the one before the count: at the start, at the end, and before a
    // last word that is itself a number.
    let number_at = name
        .rfind(' ')
        .filter(|at| name[at + 1..].bytes().all(|c| c.is_ascii_digit() || c == b'.'));
    let needs_escape = |at: usize, c: char| match c {
        ';' => true,
        '#' => at == 0,
        ' ' => at == 0 || at + 1 == name.len() || number_at.is_some_and(|from| at >= from),
        '\\' => decode(&name[at..]).is_some(),
        c => is_hidden(c),
    };
    if !name.char_indices().any(|(at, c)| needs_escape(at, c)) {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len() + 16);
    for (at, c) in name.char_indices() {
        let code = u32::from(c);
        match (needs_escape(at, c), code) {
            (false, _) => out.push(c),
            (true, 0..=0xff) => out.push_str(&format!("\\x{code:02x}")),
            (true, _) => out.push_str(&format!("\\u{code:04x}")),
        }
    }
    Cow::Owned(out)
}

/// Characters that break lines, fields or terminals. All of them have codes below 65536.
fn is_hidden(c: char) -> bool {
    // an escape has four digits at most
    u32::from(c) <= 0xffff && (is_deceptive(c) || (c.is_whitespace() && c != ' '))
}

/// The character that an escape at the start of `text` stands for, and the length of the escape.
fn decode(text: &str) -> Option<(char, usize)> {
    let digits = match text.get(..2)? {
        "\\x" => 2,
        "\\u" => 4,
        _ => return None,
    };
    let hex = text.get(2..2 + digits)?;
    let lower_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    let code = u32::from_str_radix(hex, 16)
        .ok()
        .filter(|_| hex.bytes().all(lower_hex))?;
    let c = char::from_u32(code)?;
    let ours = (matches!(c, ';' | '#' | ' ' | '\\') || is_hidden(c)) && (code > 0xff) == (digits == 4);
    ours.then_some((c, 2 + digits))
}

/// The name that was escaped.
pub(crate) fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (c, len) = decode(rest).unwrap_or(('\\', 1));
        out.push(c);
        rest = &rest[len..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Whether the first line that is not a comment has the form of a folded stack.
pub(crate) fn looks_folded(content: &[u8]) -> bool {
    let mut lines = content.split(|c| *c == b'\n').map(|line| line.trim_ascii());
    lines
        .find(|line| !is_skipped(line))
        .is_some_and(|line| !line.contains(&0) && split_count(&String::from_utf8_lossy(line)).is_ok())
}

fn is_skipped(line: &[u8]) -> bool {
    line.is_empty() || line == b"#" || line.starts_with(b"# ")
}

/// Reads folded stacks of any producer. The samples have no labels: a first frame that names the
/// process cannot be told from a function.
pub(crate) fn read(content: &[u8]) -> Result<Profile, ReadError> {
    let mut profile = Profile::new(vec![ValueType::samples()]);
    let labels = profile.labels(&[]);
    let (mut lines, mut lines_with_two) = (0usize, 0usize);
    let mut first = 1;
    for (nr, line) in content.split(|c| *c == b'\n').enumerate() {
        let line = line.trim_ascii();
        if is_skipped(line) {
            continue;
        }
        let text = String::from_utf8_lossy(line);
        let error = |what| ReadError::Folded { line: nr + 1, what };
        let (stack, count) = split_count(&text).map_err(error)?;
        if lines == 0 {
            first = nr + 1;
        }
        lines += 1;
        lines_with_two += usize::from(split_count(stack).is_ok());
        let mut at = None;
        for (depth, name) in stack.split(';').enumerate() {
            if depth >= limits::MAX_DEPTH {
                return Err(ReadError::too_large("frames in one stack", limits::MAX_DEPTH));
            }
            let frame = frame_parse::parse(&mut profile, &unescape(name));
            let frame = profile.frame(frame);
            at = Some(profile.child(at, frame));
        }
        profile.add(at, labels, &[count]);
        check_size(&profile)?;
    }
    if lines > 0 && lines == lines_with_two {
        let what = "two counts on every line: this is a comparison of two profiles, not a profile";
        return Err(ReadError::Folded { line: first, what });
    }
    Ok(profile)
}

fn check_size(profile: &Profile) -> Result<(), ReadError> {
    if profile.frames().len() > limits::MAX_FRAMES {
        return Err(ReadError::too_large("frames", limits::MAX_FRAMES));
    }
    if profile.stacks().len() > limits::MAX_STACKS {
        return Err(ReadError::too_large("stack nodes", limits::MAX_STACKS));
    }
    Ok(())
}

/// Splits `stack count`. Fractions, which some tools write, are rounded.
fn split_count(line: &str) -> Result<(&str, i64), &'static str> {
    let (stack, count) = line
        .rsplit_once([' ', '\t'])
        .ok_or("no count: a line is the stack, a blank, and the number of samples")?;
    let stack = stack.trim_end_matches([' ', '\t', '\r']);
    if stack.is_empty() {
        return Err("no stack before the count");
    }
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    let (whole, fraction) = count.split_once('.').unwrap_or((count, ""));
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return Err("the last word is not a count");
    }
    let whole: i64 = whole.parse().map_err(|_| "the count is too large")?;
    let up = fraction.bytes().next().is_some_and(|digit| digit >= b'5');
    Ok((stack, whole.saturating_add(i64::from(up))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_breaks_a_line_is_escaped() {
        let same = |text: &str| assert_eq!(escape(text), text);
        same("operator new(unsigned long)");
        same("App\\Http\\xyz");
        same("v8::f <a, b>");
        assert_eq!(escape("[u8; 4]"), "[u8\\x3b 4]");
        assert_eq!(escape("a\nb\u{1b}[31m"), "a\\x0ab\\x1b[31m");
        assert_eq!(escape("foo 12"), "foo\\x2012");
        assert_eq!(escape("foo 1 2.5"), "foo 1\\x202.5");
        assert_eq!(escape("# foo "), "\\x23 foo\\x20");
        assert_eq!(escape("\\x3b"), "\\x5cx3b");
        assert_eq!(escape("\u{2028}\u{a0}"), "\\u2028\\xa0");
    }

    #[test]
    fn files_of_other_tools_are_read() {
        let text = b"# captured\r\nswapper;[unknown];do_idle_[k] 3\n\njava;Lfoo;:bar 1.6\nperl\xff 1\n";
        let profile = read(text).unwrap();
        assert_eq!(profile.total(0), 6);
        let texts: Vec<_> = (0..profile.frames().len())
            .map(|nr| profile.text_of(crate::FrameId(nr as u32)).to_string())
            .collect();
        assert_eq!(
            texts,
            [
                "swapper",
                "[unknown]",
                "do_idle_[k]",
                "java",
                "Lfoo",
                ":bar",
                "perl\u{fffd}"
            ]
        );
    }

    #[test]
    fn bad_lines_are_named() {
        for (text, line, what) in [
            ("a 1\nb\n", 2, "no count"),
            ("a 1\nb -3\n", 2, "not a count"),
            ("12\n", 1, "no count"),
            ("a 99999999999999999999", 1, "too large"),
            ("a;b 1 2\na 3 4\n", 1, "comparison"),
        ] {
            let err = read(text.as_bytes()).unwrap_err().to_string();
            assert!(
                err.starts_with(&format!("line {line}: ")) && err.contains(what),
                "{text:?}: {err}"
            );
        }
    }

    #[test]
    fn too_deep_a_stack_is_refused() {
        let text = format!("{}b 1", "a;".repeat(limits::MAX_DEPTH));
        assert!(matches!(read(text.as_bytes()), Err(ReadError::TooLarge { .. })));
    }

    proptest::proptest! {
        #[test]
        fn every_name_comes_back(name in r"(\PC|[\\;x3b5c20 #\n\t\x1b\u{85}\u{2028}\u{feff}0-9.]){0,12}") {
            let escaped = escape(&name).into_owned();
            assert_eq!(unescape(&escaped), name);
            assert!(!escaped.contains([';', '\n', '\r', '\t']));
            assert_eq!(escaped.trim(), escaped);
        }

        #[test]
        fn no_input_panics(content in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = read(&content);
        }
    }
}
