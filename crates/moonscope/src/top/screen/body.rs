//! The four views, and the help.

use moonscope_profile::{FrameKind, Summary, ValueType};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::super::branches::Line;
use super::super::cursor::Cursor;
use super::super::flame::flames;
use super::super::functions::Function;
use super::super::keys::HELP;
use super::super::labels;
use super::super::names::shown;
use super::super::state::{Shown, State};
use super::super::tree::Tree;
use super::ink::{Ink, put};
use super::{split, units};

/// Columns of the two shares before a name: `  SELF   TOTAL  `.
const SHARES: u16 = 18;

/// Draws the view that is seen.
pub fn draw(state: &mut State, ink: Ink, area: Rect, buffer: &mut Buffer) {
    state.cursor().see(area.height.saturating_sub(1).into());
    let unit = state.value_type().cloned().unwrap_or_else(ValueType::samples);
    state.shown();
    let cursor = *state.cursor();
    let page = Page { ink, area, cursor };
    match state.shown() {
        Shown::Nothing(why) => {
            let [_, row] = split(area, 1);
            put(buffer, row, 2, &shown(why), ink.plain());
        }
        Shown::Functions(tree, functions) => page.functions(tree, functions, buffer),
        Shown::Tree(tree, lines) => page.tree(tree, lines, buffer),
        Shown::Flame(tree, top) => page.flame(tree, *top, &unit, buffer),
        Shown::Groups(summary) => page.groups(summary, buffer),
    }
}

/// The keys.
pub fn help(ink: Ink, area: Rect, buffer: &mut Buffer) {
    for (number, (key, what)) in HELP.iter().enumerate() {
        let [_, row] = split(area, (number as u16).min(area.height));
        let end = put(buffer, row, 1, key, ink.bold());
        put(buffer, row, (end - area.x).max(19) + 1, what, ink.plain());
    }
}

/// Where a view goes.
struct Page {
    ink: Ink,
    area: Rect,
    cursor: Cursor,
}

impl Page {
    /// The row for a line of a list, if it is seen.
    fn row(&self, line: usize) -> Option<Rect> {
        let below = line.checked_sub(self.cursor.first)?;
        let row = u16::try_from(below).ok()?.checked_add(1)?;
        (row < self.area.height).then(|| split(split(self.area, row)[1], 1)[0])
    }

    fn heading(&self, text: &str, buffer: &mut Buffer) {
        put(buffer, split(self.area, 1)[0], 0, text, self.ink.bold());
    }

    fn mark(&self, line: usize, row: Rect, buffer: &mut Buffer) {
        if line == self.cursor.line {
            buffer.set_style(row, self.ink.marked());
        }
    }

    /// Lines that are seen, of so many.
    fn lines(&self, count: usize) -> impl Iterator<Item = (usize, Rect)> + '_ {
        (self.cursor.first..count).map_while(move |line| Some((line, self.row(line)?)))
    }

    fn functions(&self, tree: &Tree, functions: &[Function], buffer: &mut Buffer) {
        let total = tree.total();
        // a third is enough to tell processes apart
        let whose = (self.area.width / 3).min(26);
        let names = self.area.width.saturating_sub(SHARES + whose + 2);
        self.heading(
            &format!(
                "   SELF    TOTAL  {:<names$}  PROCESS",
                "FUNCTION",
                names = usize::from(names)
            ),
            buffer,
        );
        for (line, row) in self.lines(functions.len()) {
            let function = &functions[line];
            let name = &tree.names[function.name as usize];
            let shares = format!(
                "{}  {}",
                units::share(function.own, total),
                units::share(function.total, total)
            );
            put(buffer, row, 0, &shares, self.ink.plain());
            let room = Rect {
                width: SHARES + names,
                ..row
            };
            put(buffer, room, SHARES, &name.text, self.ink.of(name.kind));
            let text = function.whose.text(&tree.owners);
            put(buffer, row, SHARES + names + 2, &text, self.ink.plain());
            self.mark(line, row, buffer);
        }
    }

    fn tree(&self, tree: &Tree, lines: &[Line], buffer: &mut Buffer) {
        self.heading("  TOTAL     SELF  FUNCTION", buffer);
        // deep stacks shall not push names out of sight
        let deepest = self.area.width.saturating_sub(SHARES) / 2;
        for (number, row) in self.lines(lines.len()) {
            let line = &lines[number];
            let node = &tree.nodes[line.node as usize];
            let shares = format!(
                "{}  {}",
                units::share(node.total, tree.total()),
                units::share(node.own, tree.total())
            );
            put(buffer, row, 0, &shares, self.ink.plain());
            let column = SHARES + u16::try_from(line.depth).unwrap_or(u16::MAX).min(deepest);
            let mark = match line.is_open {
                Some(true) => "- ",
                Some(false) => "+ ",
                None => "  ",
            };
            put(buffer, row, column, mark, self.ink.bold());
            let kind = tree.name(line.node).map_or(FrameKind::Marker, |name| name.kind);
            put(buffer, row, column + 2, tree.text(line.node), self.ink.of(kind));
            self.mark(number, row, buffer);
        }
    }

    fn flame(&self, tree: &Tree, top: u32, unit: &ValueType, buffer: &mut Buffer) {
        let boxes = flames(tree, top, self.area.width);
        let on = self.cursor.on.and_then(|on| tree.find(on));
        let at = on
            .and_then(|on| boxes.iter().find(|flame| flame.node == on))
            .or(boxes.first());
        let Some(at) = at else { return };
        let node = &tree.nodes[at.node as usize];
        let heading = format!(
            "{} of all, {} itself, {} {}: {}",
            units::share(node.total, tree.total()).trim_start(),
            units::share(node.own, tree.total()).trim_start(),
            units::amount(node.total, unit),
            unit.kind,
            tree.text(at.node)
        );
        self.heading(&heading, buffer);
        // the marked box is seen, with some of what is below it
        let rows = u32::from(self.area.height.saturating_sub(1));
        let first = (at.row + rows / 3).saturating_sub(rows.saturating_sub(1));
        for flame in &boxes {
            let Some(row) = flame.row.checked_sub(first).filter(|row| *row < rows) else {
                continue;
            };
            let place = Rect {
                x: self.area.x + flame.left,
                y: self.area.y + 1 + row as u16,
                width: flame.width,
                height: 1,
            };
            let kind = tree.name(flame.node).map_or(FrameKind::Marker, |name| name.kind);
            let style = self.ink.filled(kind);
            buffer.set_style(place, style);
            put(buffer, place, 0, "|", style);
            put(buffer, place, 1, tree.text(flame.node), style);
            if flame.node == at.node {
                buffer.set_style(place, self.ink.marked());
            }
        }
    }

    fn groups(&self, summary: &Summary, buffer: &mut Buffer) {
        let name = shown(&labels::name(&summary.word)).to_uppercase();
        let second = if summary.is_nested { "  TOTAL" } else { "       " };
        self.heading(&format!("   SELF  {second}  {name}"), buffer);
        for (line, row) in self.lines(summary.rows.len()) {
            let of_row = &summary.rows[line];
            let total = match summary.is_nested {
                true => units::share(of_row.total, summary.all),
                false => String::new(),
            };
            let shares = format!("{}  {total}", units::share(of_row.own, summary.all));
            put(buffer, row, 0, &shares, self.ink.plain());
            let value = of_row.value.as_deref().map_or(labels::NONE.into(), shown);
            put(buffer, row, SHARES, &value, self.ink.plain());
            self.mark(line, row, buffer);
        }
    }
}
