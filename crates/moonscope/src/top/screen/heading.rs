//! The heading: who, what, how much, what became of the samples, and what is chosen.

use moonscope_profile::{Accounting, Grouped};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::super::collected::{Span, length};
use super::super::labels;
use super::super::names::{Detail, shown};
use super::super::state::{State, View};
use super::super::tree::Direction;
use super::ink::{Ink, put, put_right};
use super::{split, units};

/// Rows that it takes.
pub const ROWS: u16 = 4;

/// Draws it.
pub fn draw(state: &State, ink: Ink, area: Rect, buffer: &mut Buffer) {
    let row = |number: u16| split(split(area, number)[1], 1)[0];
    let left = put_right(buffer, row(0), &time(state), ink.bold());
    let title = format!("moonscope top: {}", state.facts.target);
    put(buffer, left, 0, &title, ink.bold());

    let profile = state.profile();
    let rate = state.value_type().map(|value| {
        let total = profile.total(state.value_nr());
        format!("{}: {}", value.kind, units::rate(total, value, length(profile)))
    });
    let left = put_right(buffer, row(1), &rate.unwrap_or_default(), ink.plain());
    put(buffer, left, 0, &state.facts.event, ink.plain());

    let is_bad = profile.accounting.lost_total() > 0 || profile.accounting.unexplained() != 0;
    let style = if is_bad { ink.alarm() } else { ink.plain() };
    put(buffer, row(2), 0, &accounted(&profile.accounting), style);

    let mut end = area.x;
    for (number, view) in View::ALL.into_iter().enumerate() {
        let name = match view {
            View::Functions => "functions".to_owned(),
            View::Tree => "tree".to_owned(),
            View::Flame => "flame".to_owned(),
            View::Groups => format!("by {}", shown(&labels::name(&state.label_key()))),
        };
        let (text, style) = match view == state.view {
            true => (format!("[{} {name}]", number + 1), ink.bold()),
            false => (format!(" {} {name} ", number + 1), ink.dim()),
        };
        end = put(buffer, row(3), end - area.x, &text, style);
    }
    let used = (end - area.x + 1).min(area.width);
    let rest = Rect {
        x: area.x + used,
        width: area.width - used,
        ..row(3)
    };
    put_right(buffer, rest, &chosen(state), ink.bold());
}

/// Which part of the time is seen.
fn time(state: &State) -> String {
    let profile = state.profile();
    let span = match state.span {
        Span::Window => format!("last {:.0} s", length(profile).as_secs_f64()),
        Span::All => format!("all {}", units::clock(length(profile))),
    };
    match (&state.ended, &state.frozen) {
        (Some(_), _) => format!("ENDED  {span}"),
        (None, Some(_)) => format!("STOPPED  {span}"),
        (None, None) => span,
    }
}

/// What became of the samples.
fn accounted(accounting: &Accounting) -> String {
    let cut = accounting.truncated.iter().max_by_key(|(_, count)| **count);
    let cut = match cut {
        Some((reason, count)) if *count > 0 => {
            format!(
                "{} cut ({})",
                Grouped(accounting.truncated_total()),
                shown(reason)
            )
        }
        _ => "0 cut".to_owned(),
    };
    format!(
        "{} {}: {} complete, {cut}; {} lost; {} unexplained",
        Grouped(accounting.kept()),
        if accounting.kept() == 1 {
            "sample"
        } else {
            "samples"
        },
        Grouped(accounting.complete),
        Grouped(accounting.lost_total()),
        accounting.unexplained(),
    )
}

/// What narrows the view, in a few words.
fn chosen(state: &State) -> String {
    let mut words = Vec::new();
    if let Some(only) = &state.only {
        let value = only.value.as_deref().unwrap_or(labels::NONE);
        words.push(format!("only {}", shown(value)));
    }
    if let Some(focus) = &state.focus
        && matches!(state.view, View::Tree | View::Flame)
    {
        let which = match focus.direction {
            Direction::Callers => "callers of",
            Direction::Callees => "from",
        };
        words.push(format!("{which} {}", cut(&focus.name, 24)));
    }
    if !state.find.is_empty() {
        words.push(format!("/{}", cut(&shown(&state.find), 24)));
    }
    if state.detail == Detail::Line {
        words.push("lines".to_owned());
    }
    if matches!(state.view, View::Functions | View::Groups) {
        words.push(format!("by {}", state.sort.name()));
    }
    words.join("  ")
}

fn cut(text: &str, room: usize) -> String {
    match text.chars().count() > room {
        true => text.chars().take(room - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}
