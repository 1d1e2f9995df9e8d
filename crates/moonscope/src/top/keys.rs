//! What each key does.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::collected::Span;
use super::flame::{Way, flames, step};
use super::labels;
use super::names::Detail;
use super::state::{Asked, Prompt, Shown, State, View};
use super::tree::{Direction, Focus, Only};
use moonscope_profile::Grouping;

/// Characters that can be typed at a prompt: no event and no name that is looked for is longer.
const LONGEST: usize = 200;

/// What a key wants of others than the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To leave.
    Quit,
    /// To go to the background.
    Suspend,
    /// To draw everything again.
    Redraw,
    /// A file with this part of the time.
    Write(Span),
    /// To measure something else.
    Event(String),
}

/// Does what a key means.
pub fn press(state: &mut State, key: KeyEvent) -> Option<Wish> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Wish::Quit),
            KeyCode::Char('z') => Some(Wish::Suspend),
            KeyCode::Char('l') => Some(Wish::Redraw),
            _ => None,
        };
    }
    if state.prompt.is_some() {
        return typed(state, key.code);
    }
    if state.has_help {
        state.has_help = false;
        return (key.code == KeyCode::Char('q')).then_some(Wish::Quit);
    }
    match key.code {
        KeyCode::Char('q' | 'Q') => return Some(Wish::Quit),
        KeyCode::Char('w') => return Some(Wish::Write(Span::All)),
        KeyCode::Char('W') => return Some(Wish::Write(Span::Window)),
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => state.has_help = true,
        KeyCode::Char('/') => ask(state, Asked::Find),
        KeyCode::Char('e') => ask(state, Asked::Event),
        KeyCode::Char(' ' | 'p') => pause(state),
        KeyCode::Char('r') => {
            state.clear();
            state.say("forgot what was collected: it begins anew");
        }
        KeyCode::Esc | KeyCode::Backspace => back(state),
        code => choose(state, code),
    }
    None
}

/// Keys that choose what is shown.
fn choose(state: &mut State, code: KeyCode) {
    match code {
        KeyCode::Char(digit @ '1'..='4') => {
            let place = digit as usize - '1' as usize;
            see(state, View::ALL[place]);
        }
        KeyCode::Tab => see(state, View::ALL[(state.view as usize + 1) % 4]),
        KeyCode::BackTab => see(state, View::ALL[(state.view as usize + 3) % 4]),
        KeyCode::Char('a') => {
            state.span = match state.span {
                Span::Window => Span::All,
                Span::All => Span::Window,
            };
        }
        KeyCode::Char('s') => state.sort = state.sort.other(),
        KeyCode::Char('l') => {
            state.detail = match state.detail {
                Detail::Function => Detail::Line,
                Detail::Line => Detail::Function,
            };
        }
        KeyCode::Char('v') => next_value(state),
        KeyCode::Char('b') => next_label(state),
        KeyCode::Char('c') => turn(state),
        code => return go(state, code),
    }
    state.changed();
}

fn see(state: &mut State, view: View) {
    state.view = view;
    state.changed();
}

fn ask(state: &mut State, what: Asked) {
    let text = match what {
        Asked::Find => state.find.clone(),
        Asked::Event => String::new(),
    };
    state.prompt = Some(Prompt { what, text });
}

/// A key while something is typed.
fn typed(state: &mut State, code: KeyCode) -> Option<Wish> {
    let prompt = state.prompt.as_mut()?;
    match code {
        KeyCode::Char(c) if prompt.text.chars().count() < LONGEST => prompt.text.push(c),
        KeyCode::Backspace => {
            prompt.text.pop();
        }
        KeyCode::Esc => prompt.text.clear(),
        _ => {}
    }
    let is_over = matches!(code, KeyCode::Enter | KeyCode::Esc);
    let Prompt { what, text } = prompt.clone();
    if is_over {
        state.prompt = None;
    }
    match what {
        Asked::Find => {
            state.find = text;
            state.changed();
            None
        }
        Asked::Event => (is_over && !text.trim().is_empty()).then(|| Wish::Event(text.trim().to_owned())),
    }
}

fn pause(state: &mut State) {
    state.frozen = match state.frozen {
        Some(_) => None,
        None => Some(Box::new(state.collected.clone())),
    };
    state.changed();
}

/// Undoes what narrows the view, the last thing first.
fn back(state: &mut State) {
    if state.view == View::Flame && state.zoom != 0 {
        state.zoom = 0;
    } else if state.focus.is_some() {
        state.focus = None;
    } else if !state.find.is_empty() {
        state.find.clear();
    } else {
        state.only = None;
    }
    state.changed();
}

fn next_value(state: &mut State) {
    let types = state.profile().value_types();
    if types.is_empty() {
        return;
    }
    let next = (state.value_nr() + 1) % types.len();
    state.value = types.get(next).map(|value| value.kind.clone());
}

/// The first press shows the groups, further ones those of the next label.
fn next_label(state: &mut State) {
    if state.view != View::Groups {
        return see(state, View::Groups);
    }
    let keys = labels::keys(state.profile());
    let at = keys.iter().position(|key| *key == state.label_key());
    let next = at.map_or(0, |at| (at + 1) % keys.len().max(1));
    state.label = keys.get(next).cloned();
    state.cursors[View::Groups as usize] = Default::default();
}

/// Callers to callees and back; of the function that is marked if none was chosen.
fn turn(state: &mut State) {
    match &mut state.focus {
        Some(focus) => {
            focus.direction = match focus.direction {
                Direction::Callers => Direction::Callees,
                Direction::Callees => Direction::Callers,
            };
        }
        None => state.focus = marked(state).map(callers_of),
    }
    if state.view == View::Functions || state.view == View::Groups {
        see(state, View::Tree);
    }
}

fn callers_of(name: String) -> Focus {
    Focus {
        name,
        direction: Direction::Callers,
    }
}

/// The name of the function that is marked.
fn marked(state: &mut State) -> Option<String> {
    let line = state.cursor().line;
    let on = state.cursor().on;
    match state.shown() {
        Shown::Functions(tree, functions) => {
            let name = functions.get(line)?.name;
            Some(tree.names[name as usize].text.clone())
        }
        Shown::Tree(tree, lines) => Some(tree.text(lines.get(line)?.node).to_owned()),
        Shown::Flame(tree, top) => {
            let node = on.and_then(|on| tree.find(on)).unwrap_or(*top);
            tree.name(node).map(|name| name.text.clone())
        }
        Shown::Groups(_) | Shown::Nothing(_) => None,
    }
}

/// Keys that move the cursor, or do something where it stands.
fn go(state: &mut State, code: KeyCode) {
    if state.view == View::Flame {
        return go_in_flame(state, code);
    }
    let page = state.cursor().page.max(2) as isize - 1;
    let lines = match code {
        KeyCode::Down | KeyCode::Char('j') => 1,
        KeyCode::Up | KeyCode::Char('k') => -1,
        KeyCode::PageDown => page,
        KeyCode::PageUp => -page,
        KeyCode::Home | KeyCode::Char('g') => isize::MIN,
        KeyCode::End | KeyCode::Char('G') => isize::MAX,
        KeyCode::Enter => return enter(state),
        code if state.view == View::Tree => return go_in_tree(state, code),
        _ => return,
    };
    let identities = state.shown().identities();
    state.cursor().go(lines, &identities);
}

fn enter(state: &mut State) {
    match state.view {
        View::Functions => {
            if let Some(name) = marked(state) {
                state.focus = Some(callers_of(name));
                see(state, View::Tree);
            }
        }
        View::Tree => go_in_tree(state, KeyCode::Enter),
        View::Groups => {
            let (line, grouping) = (state.cursor().line, Grouping::Label(state.label_key()));
            if let Shown::Groups(summary) = state.shown()
                && let Some(row) = summary.rows.get(line)
            {
                let value = row.value.clone();
                state.only = Some(Only { grouping, value });
                see(state, View::Functions);
            }
        }
        View::Flame => {}
    }
}

fn go_in_tree(state: &mut State, code: KeyCode) {
    let line = state.cursor().line;
    let Shown::Tree(tree, lines) = state.shown() else {
        return;
    };
    let Some(at) = lines.get(line).copied() else {
        return;
    };
    let identity = tree.nodes[at.node as usize].identity;
    let parent = lines[..line].iter().rposition(|above| above.depth < at.depth);
    let identities = state.shown().identities();
    match (code, at.is_open) {
        (KeyCode::Right | KeyCode::Char('+'), Some(false)) => state.branches.set(identity, true),
        (KeyCode::Left | KeyCode::Char('-'), Some(true)) => state.branches.set(identity, false),
        (KeyCode::Enter, Some(is_open)) => state.branches.set(identity, !is_open),
        (KeyCode::Char('*'), _) => state.branches.next(),
        (KeyCode::Left | KeyCode::Char('-'), _) => {
            let up = parent.map_or(0, |parent| line - parent);
            return state.cursor().go(-(up as isize), &identities);
        }
        (KeyCode::Right, Some(true)) => return state.cursor().go(1, &identities),
        _ => return,
    }
    // the cursor stays on what was opened or closed
    state.cursor().on = Some(identity);
    state.changed();
}

fn go_in_flame(state: &mut State, code: KeyCode) {
    let on = state.cursor().on;
    let columns = state.columns;
    let Shown::Flame(tree, top) = state.shown() else {
        return;
    };
    let at = on.and_then(|on| tree.find(on)).unwrap_or(*top);
    let way = match code {
        KeyCode::Up | KeyCode::Char('k') => Way::Up,
        KeyCode::Down | KeyCode::Char('j') => Way::Down,
        KeyCode::Left => Way::Left,
        KeyCode::Right => Way::Right,
        KeyCode::Enter => {
            state.zoom = tree.nodes[at as usize].identity;
            return state.changed();
        }
        _ => return,
    };
    let boxes = flames(tree, *top, columns);
    let to = step(tree, &boxes, at, way);
    let identity = tree.nodes[to as usize].identity;
    state.cursor().on = Some(identity);
}

/// Keys and what they do, for the help.
pub const HELP: [(&str, &str); 19] = [
    ("1 2 3 4, Tab", "functions, call tree, flame graph, groups"),
    ("Up Down PgUp PgDn Home End", "move (j k g G too)"),
    ("s", "sort by self or total"),
    ("/", "find names that contain this; capitals in it count"),
    ("a", "the last seconds, or all since the start"),
    ("Space", "stop the screen, and go on; measuring goes on meanwhile"),
    ("l", "tell lines of a function apart"),
    ("v", "next value, such as cpu, samples, bytes"),
    ("b", "groups: by process, thread, Lua state, phase, plugin, ..."),
    ("e", "measure another event"),
    (
        "Enter",
        "functions: who calls it    groups: look at this one only",
    ),
    ("", "tree: open or close         flame: this one on top"),
    (
        "Right Left + -",
        "tree: open, close    flame: to the box beside it",
    ),
    ("*", "tree: open all, none, or the hot branches"),
    ("c", "callers of a function, or what it calls"),
    ("Esc", "go back: zoom, function, find, group"),
    ("w W", "write a flame graph: w of all, W of the last seconds"),
    (
        "r Ctrl-L Ctrl-Z",
        "forget what was collected; draw again; go to the background",
    ),
    ("q Ctrl-C", "leave"),
];

#[cfg(test)]
#[path = "keys/tests.rs"]
mod tests;
