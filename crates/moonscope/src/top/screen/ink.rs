//! How things are written: colours, where there are any, and texts that are cut where there is no room.

use moonscope_profile::FrameKind;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

/// With or without colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// The sixteen that every terminal has, so that they fit its theme.
    Colours,
    /// None: bold, dim and reversed text only.
    Plain,
}

impl Ink {
    /// What the user wants: NO_COLOR (no-color.org).
    pub fn from_environment() -> Self {
        match std::env::var_os("NO_COLOR") {
            Some(value) if !value.is_empty() => Self::Plain,
            _ => Self::Colours,
        }
    }

    fn colour(self, colour: Color) -> Style {
        match self {
            Self::Colours => Style::new().fg(colour),
            Self::Plain => Style::new(),
        }
    }
}

/// What each style is for.
impl Ink {
    /// Text.
    pub fn plain(self) -> Style {
        Style::new()
    }

    /// What matters more.
    pub fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What matters less.
    pub fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// What should not be.
    pub fn alarm(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// Where the cursor stands.
    pub fn marked(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The name of a function.
    pub fn of(self, kind: FrameKind) -> Style {
        self.colour(colour(kind))
    }

    /// A box of a function.
    pub fn filled(self, kind: FrameKind) -> Style {
        match self {
            Self::Colours => Style::new().fg(Color::Black).bg(colour(kind)),
            Self::Plain => Style::new(),
        }
    }
}

/// The colours of our flame graphs, as far as terminals have them.
fn colour(kind: FrameKind) -> Color {
    match kind {
        FrameKind::Kernel => Color::LightRed,
        FrameKind::Native => Color::Yellow,
        FrameKind::LuaInterpreted => Color::LightBlue,
        FrameKind::LuaCompiled => Color::Green,
        FrameKind::LuaBuiltin => Color::Cyan,
        FrameKind::Marker => Color::Magenta,
    }
}

/// Writes from a column of the first row of an area on, as far as there is room: a text that is cut ends with `…`. Gives the
/// column after it.
pub fn put(buffer: &mut Buffer, area: Rect, column: u16, text: &str, style: Style) -> u16 {
    let room = area.width.saturating_sub(column);
    if room == 0 || area.height == 0 {
        return area.x + column.min(area.width);
    }
    let at = area.x + column;
    let (end, _) = match Span::raw(text).width() > usize::from(room) {
        false => buffer.set_stringn(at, area.y, text, room.into(), style),
        true => {
            let (end, _) = buffer.set_stringn(at, area.y, text, usize::from(room) - 1, style);
            buffer.set_stringn(end, area.y, "…", 1, style)
        }
    };
    end
}

/// Writes at the right end of an area; gives what is left of it on the left, with two columns between.
pub fn put_right(buffer: &mut Buffer, area: Rect, text: &str, style: Style) -> Rect {
    let width = (Span::raw(text).width() as u16).min(area.width);
    put(buffer, area, area.width - width, text, style);
    Rect {
        width: (area.width - width).saturating_sub(2),
        ..area
    }
}
