//! The differential flame graph.

use std::borrow::Cow;
use std::io::Write;

use inferno::flamegraph::color::{BackgroundColor, Color};

use super::Comparison;
use crate::error::WriteError;
use crate::options::readable_unit;
use crate::svg::{draw, graph_name, graph_options, line, shift_for};
use crate::svg_boxes;
use crate::svg_footer::Line;
use crate::text::visible;

/// The background. What did not change is almost white, so the background must not be.
const GREY: Color = Color {
    r: 226,
    g: 228,
    b: 232,
};

/// Writes a flame graph of the second profile, coloured by what each stack has more or less than in
/// the first.
pub(super) fn write(comparison: &Comparison, out: &mut dyn Write) -> Result<(), WriteError> {
    let after = comparison.after.total;
    if after == 0 {
        return Err(WriteError::Empty);
    }
    let (unit, factor) = readable_unit(&comparison.value, after);
    let scale = comparison.scale();
    let shift = shift_for(after.max((comparison.before.total as f64 * scale) as u64));
    let names: Vec<_> = comparison.names.iter().map(graph_name).collect();
    let shifted = |value: u64| value >> shift;
    let lines: Vec<_> = comparison
        .pairs
        .iter()
        .map(|pair| {
            let before = shifted((pair.before as f64 * scale).round() as u64);
            line(&names, &pair.path, &[before, shifted(pair.after)])
        })
        .collect();
    let mut graph = graph_options(unit, factor * (1u64 << shift) as f64);
    let widths = comparison.pairs.iter().map(|pair| (&*pair.path, pair.after));
    graph.min_width = svg_boxes::smallest(widths, after);
    graph.bgcolors = Some(BackgroundColor::Flat(GREY));
    graph.title = match &comparison.options.title {
        Some(title) => visible(title).into_owned(),
        None => format!("{} compared with an earlier recording", comparison.after.subject),
    };
    let how = if comparison.raw {
        "counts as recorded"
    } else {
        "shares of each total"
    };
    graph.subtitle = Some(format!("widths: after; colours: after against before, {how}"));

    let mut footer = vec![
        Line::Legend(
            [
                ("rgb(255,120,120)", "more after"),
                ("rgb(250,250,250)", "the same"),
                ("rgb(120,120,255)", "less after"),
            ]
            .map(|(colour, meaning)| (Cow::Borrowed(colour), Cow::Borrowed(meaning)))
            .to_vec(),
        ),
        Line::Text(format!(
            "before: {}, {}",
            comparison.before.subject, comparison.before.circumstances
        )),
        Line::Text(format!(
            "after: {}, {}",
            comparison.after.subject, comparison.after.circumstances
        )),
        Line::Text(vanished(comparison)),
    ];
    footer.extend(svg_boxes::remark(graph.min_width).map(Line::Text));
    draw(&mut graph, lines, &footer, out)
}

/// Stacks that only `before` has are nowhere in the picture, so it says how much they are.
fn vanished(comparison: &Comparison) -> String {
    let gone = comparison.pairs.iter().filter(|pair| pair.after == 0);
    let gone = gone.fold(0u64, |sum, pair| sum.saturating_add(pair.before));
    let share = if comparison.before.total == 0 {
        0.0
    } else {
        gone as f64 / comparison.before.total as f64
    };
    format!(
        "not drawn: stacks that occur only before, {:.1} % of it",
        share * 100.0
    )
}
