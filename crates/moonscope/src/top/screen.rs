//! Draws the state: a heading that says what is measured and what was lost, one of the views, and a line of keys.

mod body;
mod heading;
mod ink;
mod units;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::state::{Asked, State};
pub use ink::Ink;
use ink::put;

/// The smallest screen that all of it fits on.
const SMALLEST: (u16, u16) = (40, 10);

/// Draws everything. The cursor of what is typed stands where this says.
pub fn draw(state: &mut State, ink: Ink, area: Rect, buffer: &mut Buffer) -> Option<(u16, u16)> {
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!("too small: {} x {} is needed", SMALLEST.0, SMALLEST.1);
        put(buffer, area, 0, &text, ink.plain());
        return None;
    }
    state.columns = area.width;
    let [top, rest] = split(area, heading::ROWS);
    let [body, last] = split(rest, rest.height - 1);
    heading::draw(state, ink, top, buffer);
    if state.has_help {
        body::help(ink, body, buffer);
    } else {
        body::draw(state, ink, body, buffer);
    }
    foot(state, ink, last, buffer)
}

/// The upper rows, and the others.
fn split(area: Rect, rows: u16) -> [Rect; 2] {
    let upper = Rect { height: rows, ..area };
    let lower = Rect {
        y: area.y + rows,
        height: area.height.saturating_sub(rows),
        ..area
    };
    [upper, lower]
}

/// What is typed, what was just done, or the keys.
fn foot(state: &State, ink: Ink, area: Rect, buffer: &mut Buffer) -> Option<(u16, u16)> {
    if let Some(prompt) = &state.prompt {
        let what = match prompt.what {
            Asked::Find => "find: ",
            Asked::Event => "event (such as cpu, offcpu, io, page-faults): ",
        };
        let text = format!("{what}{}", super::names::shown(&prompt.text));
        // its end is what matters
        let width = area.width.saturating_sub(1) as usize;
        let surplus = text.chars().count().saturating_sub(width);
        let text: String = text.chars().skip(surplus).collect();
        let end = put(buffer, area, 0, &text, ink.plain());
        return Some((end.min(area.right().saturating_sub(1)), area.y));
    }
    let (text, style) = match (state.message(), state.has_help) {
        (Some(message), _) => (message, ink.bold()),
        (None, true) => ("any key goes back", ink.dim()),
        (None, false) => (
            "q quit  ? help  Tab view  / find  s sort  a all/last  Space stop  w write",
            ink.dim(),
        ),
    };
    put(buffer, area, 0, text, style);
    None
}

#[cfg(test)]
#[path = "screen/tests.rs"]
mod tests;
