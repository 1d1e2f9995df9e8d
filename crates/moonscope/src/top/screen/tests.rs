use super::super::collected::Span;
use super::super::example::state;
use super::super::keys::press;
use super::*;
use moonscope_profile::{Frame, FrameKind, Profile, ValueType};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// The screen as text.
fn picture(state: &mut State, ink: Ink, width: u16, height: u16) -> Vec<String> {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    draw(state, ink, area, &mut buffer);
    let line = |y: u16| {
        let cells = (0..width).map(|x| buffer[(x, y)].symbol());
        cells.collect::<String>().trim_end().to_owned()
    };
    (0..height).map(line).collect()
}

fn type_keys(state: &mut State, keys: &str) {
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            c => KeyCode::Char(c),
        };
        press(state, KeyEvent::new(code, KeyModifiers::NONE));
    }
}

/// The pictures in docs/top.md, by the keys that lead to them: ```` ```top KEYS ````.
fn documented() -> Vec<(String, Vec<String>)> {
    let text = include_str!("../../../../../docs/top.md");
    let mut lines = text.lines();
    let mut pictures = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(keys) = line.strip_prefix("```text top") {
            let picture = lines.by_ref().take_while(|line| *line != "```");
            pictures.push((keys.trim().to_owned(), picture.map(str::to_owned).collect()));
        }
    }
    pictures
}

#[test]
fn the_pictures_in_the_documentation_are_what_is_drawn() {
    let pictures = documented();
    assert_eq!(pictures.len(), 4);
    let mut wanted = String::new();
    for (keys, documented) in pictures {
        let mut state = state();
        type_keys(&mut state, &keys);
        let drawn = picture(&mut state, Ink::Plain, 80, 24);
        if drawn != documented {
            wanted += &format!("```text top {keys}\n{}\n```\n", drawn.join("\n"));
        }
    }
    assert!(wanted.is_empty(), "docs/top.md should have:\n{wanted}");
}

#[test]
fn the_help_has_every_key_on_a_small_screen() {
    let mut state = state();
    type_keys(&mut state, "?");
    let drawn = picture(&mut state, Ink::Plain, 80, 24).join("\n");
    for (key, what) in super::super::keys::HELP {
        assert!(
            drawn.contains(key) && drawn.contains(what),
            "{key} {what}\n{drawn}"
        );
    }
}

#[test]
fn every_key_is_in_the_documentation() {
    let text = include_str!("../../../../../docs/top.md");
    for (key, what) in super::super::keys::HELP {
        let mut words = what.split("   ").map(str::trim).filter(|words| !words.is_empty());
        assert!(text.contains(&format!("| {key} ")) || key.is_empty(), "{key}");
        assert!(words.all(|words| text.contains(words)), "{what}");
    }
}

#[test]
fn every_size_can_be_drawn_in_every_view_with_and_without_colours() {
    for keys in ["1", "2", "3", "4", "?", "/x", "e", "1c", "4\n"] {
        for (width, height) in [(0, 0), (1, 1), (39, 9), (40, 10), (41, 12), (80, 24), (300, 100)] {
            for ink in [Ink::Plain, Ink::Colours] {
                let mut state = state();
                type_keys(&mut state, keys);
                picture(&mut state, ink, width, height);
            }
        }
    }
}

#[test]
fn without_colours_there_are_none() {
    let area = Rect::new(0, 0, 80, 24);
    for keys in ["1", "2", "3", "4"] {
        let mut state = state();
        type_keys(&mut state, keys);
        let mut buffer = Buffer::empty(area);
        draw(&mut state, Ink::Plain, area, &mut buffer);
        let has_colour = |cell: &ratatui::buffer::Cell| {
            cell.fg != ratatui::style::Color::Reset || cell.bg != ratatui::style::Color::Reset
        };
        assert!(!buffer.content().iter().any(has_colour));
        draw(&mut state, Ink::Colours, area, &mut buffer);
        // functions have theirs; groups are no functions
        assert_eq!(buffer.content().iter().any(has_colour), keys != "4");
    }
}

#[test]
fn losses_are_in_the_heading_whatever_is_shown() {
    for keys in ["1", "2", "3", "4", "?", "/nothing\n"] {
        let mut state = state();
        let mut lossy = super::super::example::profile();
        lossy.accounting.lost.insert("ring buffer full".into(), 1234);
        lossy.accounting.fired += 1240;
        state.add(lossy);
        state.span = Span::All;
        type_keys(&mut state, keys);
        let drawn = picture(&mut state, Ink::Plain, 80, 24);
        assert!(
            drawn[2].contains("1,234 lost; 6 unexplained"),
            "{}",
            drawn.join("\n")
        );
    }
}

#[test]
fn names_give_the_terminal_no_orders() {
    let evil = "\u{1b}[2J\u{1b}]0;title\u{7}\r\n\u{202e}evil\u{9b}31m";
    let mut profile = Profile::new(vec![ValueType::samples()]);
    let frame = profile.frame(Frame {
        file: Some(evil.into()),
        line: Some(1),
        ..Frame::named(FrameKind::Native, evil)
    });
    let stack = profile.child(None, frame);
    let labels = profile.labels(&[("comm", evil.into()), ("pid", 7.into()), (evil, evil.into())]);
    profile.add(Some(stack), labels, &[1]);
    profile.meta.duration = Some(1);
    profile.accounting.truncated.insert(evil.into(), 1);
    for keys in ["1", "2", "3", "4", "bb", "l", "1\n", "4\n", "bb\n"] {
        let mut state = State::new(std::time::Duration::from_secs(1), Default::default());
        state.add(profile.clone());
        state.find = "evil".into();
        type_keys(&mut state, keys);
        let drawn = picture(&mut state, Ink::Colours, 200, 24).join("\n");
        let is_bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!drawn.contains(is_bad), "{keys}: {drawn:?}");
    }
}
