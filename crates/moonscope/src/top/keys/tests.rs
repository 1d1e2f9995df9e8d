use super::super::example::state;
use super::*;

fn type_keys(state: &mut State, keys: &[KeyCode]) -> Option<Wish> {
    let mut wish = None;
    for &code in keys {
        wish = press(state, KeyEvent::new(code, KeyModifiers::NONE));
    }
    wish
}

fn text(text: &str) -> Vec<KeyCode> {
    text.chars().map(KeyCode::Char).collect()
}

fn functions(state: &mut State) -> Vec<String> {
    match state.shown() {
        Shown::Functions(tree, functions) => functions
            .iter()
            .map(|function| tree.names[function.name as usize].text.clone())
            .collect(),
        _ => panic!("no table of functions"),
    }
}

#[test]
fn what_is_typed_after_a_slash_is_looked_for_as_one_types() {
    let mut state = state();
    type_keys(&mut state, &text("/MATCH"));
    assert_eq!(functions(&mut state), [""; 0]);
    type_keys(&mut state, &[KeyCode::Esc]);
    assert!(functions(&mut state).len() > 5);
    type_keys(&mut state, &text("/match"));
    type_keys(&mut state, &[KeyCode::Enter]);
    assert_eq!(functions(&mut state), ["match@resty/radixtree.lua:512_[j]"]);
    // a q is a letter while one types, and leaves afterwards
    assert_eq!(type_keys(&mut state, &text("/q")), None);
    assert_eq!(
        type_keys(&mut state, &[KeyCode::Enter, KeyCode::Char('q')]),
        Some(Wish::Quit)
    );
}

#[test]
fn enter_on_a_function_shows_who_calls_it_and_c_what_it_calls() {
    let mut state = state();
    type_keys(&mut state, &text("/phase_func"));
    type_keys(&mut state, &[KeyCode::Enter, KeyCode::Esc]);
    // the filter is gone, and the function is marked no more
    assert_eq!(state.find, "");
    type_keys(&mut state, &text("/phase_func"));
    type_keys(&mut state, &[KeyCode::Enter, KeyCode::Enter]);
    state.find.clear();
    state.changed();
    let below = |state: &mut State| match state.shown() {
        Shown::Tree(tree, lines) => lines[1..]
            .iter()
            .map(|line| tree.text(line.node).to_owned())
            .collect::<Vec<_>>(),
        _ => panic!("no tree"),
    };
    assert_eq!(
        below(&mut state),
        [
            "lj_vm_call",
            "ngx_http_lua_access_handler",
            "ngx_worker_process_cycle",
            "main"
        ]
    );
    type_keys(&mut state, &text("c"));
    assert_eq!(
        below(&mut state),
        [
            "match@resty/radixtree.lua:512_[j]",
            "access@plugins/limit-count.lua:87",
            "string.gsub_[b]"
        ]
    );
    type_keys(&mut state, &[KeyCode::Esc]);
    assert_eq!(state.focus, None);
}

#[test]
fn a_group_can_be_looked_at_alone() {
    let mut state = state();
    type_keys(&mut state, &[KeyCode::Char('b'), KeyCode::Down, KeyCode::Enter]);
    assert_eq!(state.only.as_ref().unwrap().value.as_deref(), Some("nginx-4322"));
    assert_eq!(functions(&mut state)[0], "match@resty/radixtree.lua:512_[j]");
    type_keys(&mut state, &text("bb"));
    assert_eq!(state.label_key(), "tid");
    type_keys(&mut state, &[KeyCode::Char('b'), KeyCode::Esc]);
    assert_eq!((state.label_key().as_str(), &state.only), ("lua-state", &None));
}

#[test]
fn branches_open_and_close_and_the_cursor_stays_on_them() {
    let mut state = state();
    type_keys(&mut state, &text("2"));
    let count = |state: &mut State| match state.shown() {
        Shown::Tree(_, lines) => lines.len(),
        _ => panic!("no tree"),
    };
    let all = count(&mut state);
    type_keys(&mut state, &[KeyCode::Left]);
    assert_eq!(count(&mut state), 2);
    type_keys(&mut state, &[KeyCode::Right, KeyCode::Right, KeyCode::Left]);
    assert_eq!((count(&mut state), state.cursor().line), (3, 1));
    type_keys(&mut state, &[KeyCode::Left]);
    assert_eq!(state.cursor().line, 0);
    type_keys(&mut state, &text("*"));
    assert!(count(&mut state) > all);
}

#[test]
fn a_stopped_screen_shows_what_it_showed() {
    let mut state = state();
    type_keys(&mut state, &text(" "));
    state.add(super::super::example::profile());
    assert_eq!(state.profile().accounting.fired, 1980);
    type_keys(&mut state, &text(" a"));
    assert_eq!(state.profile().accounting.fired, 2 * 1980);
    type_keys(&mut state, &text("r"));
    assert!(state.profile().is_empty());
}

#[test]
fn values_are_shown_one_after_the_other() {
    let mut state = state();
    type_keys(&mut state, &text("v"));
    assert_eq!(state.value_type().unwrap().kind, "samples");
    type_keys(&mut state, &text("v"));
    assert_eq!(state.value_type().unwrap().kind, "cpu");
}

#[test]
fn every_key_does_something_harmless_in_every_view() {
    let codes: Vec<KeyCode> = (' '..='~')
        .map(KeyCode::Char)
        .chain([
            KeyCode::Enter,
            KeyCode::Esc,
            KeyCode::Tab,
            KeyCode::BackTab,
            KeyCode::Up,
            KeyCode::Down,
            KeyCode::Left,
            KeyCode::Right,
            KeyCode::PageUp,
            KeyCode::PageDown,
            KeyCode::Home,
            KeyCode::End,
            KeyCode::Backspace,
            KeyCode::Delete,
            KeyCode::F(1),
            KeyCode::F(12),
        ])
        .collect();
    let seed: u64 = 0x9e37_79b9_7f4a_7c15;
    for has_data in [false, true] {
        let mut random = seed;
        let mut state = state();
        for step in 0..3000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let code = codes[random as usize % codes.len()];
            // typing takes most keys
            if step % 3 == 0 {
                type_keys(&mut state, &[KeyCode::Esc]);
            }
            if !has_data {
                state.clear();
            }
            type_keys(&mut state, &[code]);
            state.shown();
        }
    }
}
