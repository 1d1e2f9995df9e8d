//! The flame graph: inferno draws it, we choose its colours and add a legend and the accounting.

use std::borrow::Cow;
use std::io::Write;

use inferno::flamegraph::color::{BackgroundColor, Color, PaletteMap};
use inferno::flamegraph::{self, Options, TextTruncateDirection};

use crate::error::WriteError;
use crate::frame::FrameKind;
use crate::headline::{circumstances, subject};
use crate::options::{Grouping, WriteOptions, readable_unit};
use crate::profile::Profile;
use crate::svg_boxes;
use crate::svg_footer::{self, Line};
use crate::svg_script;
use crate::text::visible;
use crate::view::{Name, NameKind, View};

/// Above this a sum would not be exact in JavaScript, which counts in doubles.
const MAX_TOTAL: u64 = 1 << 52;

/// What stands for `;` and blank inside a name while inferno, to which they are syntax, works on it.
/// They are private characters; `visible_name` lets none of them through from a name.
const SEMICOLON: char = '\u{f8ff}';
const BLANK: char = '\u{f8fe}';
/// The same for the `[` of annotations such as `_[k]`, which inferno would cut off.
const BRACKET: char = '\u{f8fc}';
/// Marks the value of a label, so that a process `main` and a function `main` differ in colour.
const GROUP: char = '\u{f8fd}';

/// The colour of the box below everything.
const ROOT: Color = Color {
    r: 225,
    g: 225,
    b: 230,
};
/// The background. inferno would choose a yellow one, too close to native frames.
const WHITE: Color = Color {
    r: 255,
    g: 255,
    b: 255,
};

/// A colour of the legend and what it means.
struct Tint {
    kind: NameKind,
    meaning: &'static str,
    red: u8,
    green: u8,
    blue: u8,
}

/// Far apart in hue, and told apart by lightness too where hue is not seen.
const TINTS: [Tint; 8] = [
    Tint {
        kind: NameKind::Group,
        meaning: "process",
        red: 205,
        green: 205,
        blue: 215,
    },
    Tint {
        kind: NameKind::Frame(FrameKind::Kernel),
        meaning: "kernel",
        red: 240,
        green: 150,
        blue: 70,
    },
    Tint {
        kind: NameKind::Frame(FrameKind::Native),
        meaning: "native",
        red: 238,
        green: 214,
        blue: 96,
    },
    Tint {
        kind: NameKind::Inlined,
        meaning: "inlined",
        red: 246,
        green: 236,
        blue: 170,
    },
    Tint {
        kind: NameKind::Frame(FrameKind::LuaInterpreted),
        meaning: "Lua interpreted",
        red: 100,
        green: 170,
        blue: 240,
    },
    Tint {
        kind: NameKind::Frame(FrameKind::LuaCompiled),
        meaning: "Lua compiled",
        red: 110,
        green: 205,
        blue: 130,
    },
    Tint {
        kind: NameKind::Frame(FrameKind::LuaBuiltin),
        meaning: "Lua built-in",
        red: 185,
        green: 160,
        blue: 235,
    },
    Tint {
        kind: NameKind::Frame(FrameKind::Marker),
        meaning: "marker",
        red: 235,
        green: 110,
        blue: 120,
    },
];

/// Writes the flame graph. It needs no network and no other file; search is Ctrl-F, a click zooms.
pub(crate) fn write(
    profile: &Profile,
    options: &WriteOptions,
    out: &mut dyn Write,
) -> Result<(), WriteError> {
    let view = View::new(profile, options)?;
    if view.total == 0 {
        return Err(WriteError::Empty);
    }
    let (unit, factor) = readable_unit(&view.value, view.total);
    let shift = shift_for(view.total);
    let names: Vec<_> = view.names.iter().map(graph_name).collect();
    let lines: Vec<_> = view
        .rows
        .iter()
        .map(|row| line(&names, &row.path, &[row.value >> shift]))
        .collect();

    let mut palette = PaletteMap::default();
    palette.insert("", ROOT);
    for (name, text) in view.names.iter().zip(&names) {
        palette.insert(text, colour(name));
    }
    let mut graph = graph_options(unit, factor * (1u64 << shift) as f64);
    graph.palette_map = Some(&mut palette);
    graph.min_width = svg_boxes::smallest(view.rows.iter().map(|row| (&*row.path, row.value)), view.total);
    graph.bgcolors = Some(BackgroundColor::Flat(WHITE));
    graph.title = options
        .title
        .as_deref()
        .map_or_else(|| subject(profile), |title| visible(title).into_owned());
    graph.subtitle = Some(circumstances(profile)).filter(|text| !text.is_empty());

    let mut footer = vec![legend(&view, &options.group)];
    footer.extend(svg_boxes::remark(graph.min_width).map(Line::Text));
    if !profile.accounting.is_empty() {
        footer.push(Line::Text(profile.accounting.to_string()));
    }
    footer.extend(
        profile
            .meta
            .comments
            .iter()
            .map(|text| Line::Text(visible(text).into_owned())),
    );
    draw(&mut graph, lines, &footer, out)
}

/// Settings that all our graphs share.
pub(crate) fn graph_options<'a>(unit: &str, factor: f64) -> Options<'a> {
    let mut graph = Options::default();
    graph.count_name = unit.to_owned();
    graph.factor = factor;
    graph.name_type = String::new();
    graph.text_truncate_direction = TextTruncateDirection::Right;
    // inferno sorts lines as text, where `f.cold` comes between `f` and `f;g` and cuts the box of `f`
    // in two. Our rows are sorted frame by frame. A "flame chart" is drawn in the order of the lines
    // (last line first), whatever that order is.
    graph.flame_chart = true;
    graph
}

/// Has inferno draw lines that are sorted by path, and adds the footer.
pub(crate) fn draw(
    graph: &mut Options<'_>,
    mut lines: Vec<String>,
    footer: &[Line],
    out: &mut dyn Write,
) -> Result<(), WriteError> {
    lines.reverse();
    let mut drawn = Vec::new();
    flamegraph::from_lines(graph, lines.iter().map(String::as_str), &mut drawn)?;
    let drawn = String::from_utf8_lossy(&drawn);
    let drawn = drawn
        .replace(SEMICOLON, ";")
        .replace(BLANK, " ")
        .replace(BRACKET, "[")
        .replace(GROUP, "");
    svg_footer::append(&svg_script::extend(&drawn), footer, out)?;
    Ok(())
}

/// By how many bits values must be cut so that their sum stays exact in a browser.
pub(crate) fn shift_for(total: u64) -> u32 {
    let mut shift = 0;
    while (total >> shift) > MAX_TOTAL {
        shift += 1;
    }
    shift
}

/// A folded line for inferno.
pub(crate) fn line(names: &[String], path: &[u32], values: &[u64]) -> String {
    let mut line = String::new();
    for (depth, name) in path.iter().enumerate() {
        if depth > 0 {
            line.push(';');
        }
        line.push_str(&names[*name as usize]);
    }
    for value in values {
        line.push(' ');
        line.push_str(&value.to_string());
    }
    line
}

/// A name without control characters (XML has no way to write them), in which nothing is taken for
/// the syntax of a folded line.
fn visible_name(name: &str) -> String {
    let shown = visible(name);
    // A blank matters before a last word that is a number, and at the ends.
    let number_at = shown
        .rfind(' ')
        .filter(|at| shown[at + 1..].bytes().all(|c| c.is_ascii_digit() || c == b'.'));
    let (first, last) = (0, shown.trim_end().len());
    let comment = shown.starts_with("# ").then_some(1);
    let annotation = shown
        .ends_with(']')
        .then(|| shown.rfind("_["))
        .flatten()
        .map(|at| at + 1);
    let mut out = String::with_capacity(shown.len());
    for (at, c) in shown.char_indices() {
        match c {
            SEMICOLON | BLANK | BRACKET | GROUP => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            ';' => out.push(SEMICOLON),
            '[' if Some(at) == annotation => out.push(BRACKET),
            c if c.is_whitespace() && c != ' ' => out.push(BLANK),
            ' ' if at == first || at >= last || Some(at) == number_at || Some(at) == comment => {
                out.push(BLANK);
            }
            c => out.push(c),
        }
    }
    out
}

/// A name for inferno: visible, and marked when it is no frame.
pub(crate) fn graph_name(name: &Name) -> String {
    let text = visible_name(&name.text);
    if name.kind == NameKind::Group {
        format!("{GROUP}{text}")
    } else {
        text
    }
}

/// The colour of a name: that of its kind, a little lighter or darker by its text, the same each time.
fn colour(name: &Name) -> Color {
    let tint = TINTS
        .iter()
        .find(|tint| tint.kind == name.kind)
        .unwrap_or(&TINTS[2]);
    // FNV-1a, for a spread of 24 steps; nothing depends on its quality.
    let hash = name.text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let step = (hash >> 16) % 24;
    let vary = |channel: u8| channel.saturating_add(9).saturating_sub(step as u8);
    Color {
        r: vary(tint.red),
        g: vary(tint.green),
        b: vary(tint.blue),
    }
}

/// The kinds that occur, with their colours.
fn legend(view: &View, group: &Grouping) -> Line {
    let occurs = |tint: &&Tint| view.names.iter().any(|name| name.kind == tint.kind);
    let items = TINTS.iter().filter(occurs).map(|tint| {
        let colour = format!("rgb({},{},{})", tint.red, tint.green, tint.blue);
        let meaning = match (tint.kind, group) {
            (NameKind::Group, Grouping::Label(key)) if key != "comm" => {
                Cow::Owned(visible(group.word()).into_owned())
            }
            _ => Cow::Borrowed(tint.meaning),
        };
        (Cow::Owned(colour), meaning)
    });
    Line::Legend(items.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_in_a_name_is_syntax_to_inferno() {
        for name in [
            "a;b",
            "foo 12",
            " ",
            "# x",
            "\u{3000}",
            "a\nb",
            "\u{f8ff}\u{f8fe}",
            "x 1.5 ",
        ] {
            let shown = visible_name(name);
            assert!(!shown.contains(';') && !shown.contains('\n'), "{name:?}");
            assert_eq!(shown.trim(), shown, "{name:?}");
            assert!(!shown.starts_with("# ") && !shown.is_empty(), "{name:?}");
            let last_word = shown.rsplit_once(' ').map(|(_, word)| word);
            assert!(
                last_word.is_none_or(|word| word.parse::<f64>().is_err()),
                "{name:?}"
            );
        }
    }

    #[test]
    fn annotations_stay_in_the_picture() {
        let options = || graph_options("samples", 1.0);
        for name in [
            "tcp_sendmsg_[k]",
            "min_[i]",
            "access@a.lua:87_[j]",
            "string.gsub_[b]",
            "min (a.c:3)_[i]",
            "[k]",
            "_[k]",
        ] {
            let mut svg = Vec::new();
            let lines = vec![format!("{} 1", visible_name(name))];
            draw(&mut options(), lines, &[], &mut svg).unwrap();
            let svg = String::from_utf8(svg).unwrap();
            assert!(
                svg.contains(&format!("<title>{name} (1 samples, 100.00%)</title>")),
                "{name}"
            );
        }
    }

    #[test]
    fn sums_stay_exact_in_a_browser() {
        assert_eq!(shift_for(1_000_000), 0);
        assert!(u64::MAX >> shift_for(u64::MAX) <= MAX_TOTAL);
    }
}
