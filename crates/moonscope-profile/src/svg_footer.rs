//! Lines below a flame graph: a legend of its colours, the accounting, comments.
//!
//! inferno has no place for them, so its picture is made a little higher at the bottom. Nothing that
//! its script works on is touched.

use std::borrow::Cow;
use std::io::{self, Write};

use crate::text::wrapped;

const LINE_HEIGHT: usize = 18;
/// Width of a character at font size 12 and what a legend square takes, in pixels.
const CHAR_WIDTH: usize = 7;
const SQUARE: usize = 16;
/// A line that is longer would leave a window of 800 pixels.
const MAX_CHARS: usize = 108;

/// One line of the footer.
pub(crate) enum Line {
    /// Coloured squares with their meaning: (CSS colour, word).
    Legend(Vec<(Cow<'static, str>, Cow<'static, str>)>),
    /// Plain text without control characters.
    Text(String),
}

/// Writes the picture with the footer below it.
pub(crate) fn append(svg: &str, footer: &[Line], out: &mut dyn Write) -> io::Result<()> {
    let (Some(height), Some(end)) = (height(svg), svg.rfind("</svg>")) else {
        return out.write_all(svg.as_bytes());
    };
    let lines: Vec<Line> = footer.iter().flat_map(fitting).collect();
    let taller = height + lines.len() * LINE_HEIGHT;
    // The height stands in the element `svg`, in its viewBox and in the background, all before the
    // frames; no text of ours that comes before them can look like this.
    let head_end = svg.find("id=\"title\"").unwrap_or(0);
    let head = svg[..head_end]
        .replacen(
            &format!("height=\"{height}\""),
            &format!("height=\"{taller}\""),
            1,
        )
        .replacen(&format!(" {height}\" xmlns"), &format!(" {taller}\" xmlns"), 1)
        .replacen(
            &format!("height=\"{height}\" fill"),
            &format!("height=\"{taller}\" fill"),
            1,
        );
    out.write_all(head.as_bytes())?;
    out.write_all(&svg.as_bytes()[head_end..end])?;
    for (nr, line) in lines.iter().enumerate() {
        write_line(line, height + nr * LINE_HEIGHT, out)?;
    }
    out.write_all(b"</svg>\n")
}

/// The height in the first tag.
fn height(svg: &str) -> Option<usize> {
    let tag = &svg[svg.find("<svg ")?..];
    let value = &tag[tag.find("height=\"")? + "height=\"".len()..];
    value[..value.find('"')?].parse().ok()
}

/// Lines that fit.
fn fitting(line: &Line) -> Vec<Line> {
    match line {
        Line::Legend(items) => vec![Line::Legend(items.clone())],
        Line::Text(text) => wrapped(text, MAX_CHARS).into_iter().map(Line::Text).collect(),
    }
}

fn write_line(line: &Line, top: usize, out: &mut dyn Write) -> io::Result<()> {
    let baseline = top + 11;
    match line {
        Line::Text(text) => {
            let text = escape(text);
            write!(
                out,
                "<text x=\"10\" y=\"{baseline}\" xml:space=\"preserve\">{text}</text>"
            )
        }
        Line::Legend(items) => {
            let mut x = 10;
            for (colour, meaning) in items {
                write!(
                    out,
                    "<rect x=\"{x}\" y=\"{top}\" width=\"12\" height=\"12\" fill=\"{}\"/>\
                     <text x=\"{}\" y=\"{baseline}\">{}</text>",
                    escape(colour),
                    x + SQUARE,
                    escape(meaning)
                )?;
                x += SQUARE + CHAR_WIDTH * (meaning.chars().count() + 2);
            }
            Ok(())
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
