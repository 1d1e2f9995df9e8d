//! `moonscope top` in a terminal that is looked at from outside (tmux): what it shows, what keys do, and that the terminal is
//! given back whatever ends it.
//!
//! The truth: the shares that `tests/programs/shares.c` makes by the kernel's CPU clock, the phases of
//! `tests/luajit/nginx`, and what stty(1) and tmux say of the terminal.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::process::Command;

use common::server::LuaServer;
use common::tmux::Tmux;
use common::{Program, moonscope, program, root};

const MOONSCOPE: &str = env!("CARGO_BIN_EXE_moonscope");

/// The shares of a row of the screen, by the name in it: `  49.6 %   50.1 %  share_50`.
fn shares(screen: &str, name: &str) -> Option<(f64, f64)> {
    let has_name = |line: &&str| line.split_whitespace().any(|word| word == name);
    let mut words = screen.lines().find(has_name)?.split_whitespace();
    let mut number = || words.find_map(|word| word.parse().ok());
    Some((number()?, number()?))
}

fn is_near(screen: &str, name: &str, expected: f64) -> bool {
    shares(screen, name).is_some_and(|(_, total)| (total - expected).abs() <= 3.0)
}

/// Is a process there, and more than a zombie?
fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The process that runs in the terminal and looks at this one; not the one that waits for its end.
fn top_of(pid: u32) -> u32 {
    let output = Command::new("pgrep")
        .args(["-f", &format!("^{MOONSCOPE} top -p {pid}( |$)")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_it = |pid: &&str| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "moonscope")
    };
    text.split_whitespace().find(is_it).unwrap().parse().unwrap()
}

#[test]
fn root_the_screen_shows_shares_and_keys_choose_what_is_seen() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let Some(tmux) = Tmux::start() else { return };
    let program = Program::start(&path, &["300"]);
    let pid = program.pid();
    tmux.type_line(&format!(
        "{MOONSCOPE} top -p {pid} -F 999 --window 4s --refresh 250ms; echo left with $?"
    ));
    let three = [("share_50", 50.0), ("share_30", 30.0), ("share_20", 20.0)];
    let screen = tmux.wait_for("the shares", |screen| {
        three.iter().all(|(name, share)| is_near(screen, name, *share)) && screen.contains("last 4 s")
    });
    let header: Vec<&str> = screen.lines().take(4).collect();
    assert!(
        header[0].starts_with(&format!("moonscope top: process {pid} (shares)")),
        "{screen}"
    );
    assert!(
        header[1].starts_with("cpu ") && header[1].contains("999 Hz"),
        "{screen}"
    );
    assert!(header[2].ends_with("0 lost; 0 unexplained"), "{screen}");
    assert!(header[3].starts_with("[1 functions]"), "{screen}");
    let place = |name: &str| {
        screen
            .find(name)
            .unwrap_or_else(|| panic!("no {name}:\n{screen}"))
    };
    assert!(
        place("share_50") < place("share_30") && place("share_30") < place("share_20"),
        "{screen}"
    );
    assert!(screen.contains(&format!("shares-{pid}")), "{screen}");

    tmux.press(&["/", "e", "_", "3", "0", "Enter"]);
    tmux.wait_for("one function", |screen| {
        is_near(screen, "share_30", 30.0) && !screen.contains("share_50") && screen.contains("/e_30")
    });
    tmux.press(&["Escape"]);
    tmux.wait_for("all functions", |screen| is_near(screen, "share_50", 50.0));
    tmux.press(&["2"]);
    tmux.wait_for("the tree", |screen| {
        let line = |name: &str| {
            screen
                .lines()
                .position(|line| line.contains(&format!("- {name}")))
        };
        screen.contains("[2 tree]") && line("main").is_some() && line("main") < line("one_round")
    });
    tmux.press(&["3"]);
    tmux.wait_for("the boxes", |screen| {
        let boxes = |line: &str| line.contains("|share_20") && line.contains("|share_50");
        screen.contains("|one_round") && screen.lines().any(boxes)
    });
    tmux.press(&["4"]);
    tmux.wait_for("the process", |screen| {
        screen.contains("PROCESS") && screen.contains(&format!("100.0 %           shares-{pid}"))
    });
    tmux.press(&["1", "Space"]);
    tmux.wait_for("the stopped screen", |screen| {
        screen.contains("STOPPED  last 4 s")
    });
    tmux.press(&["Space", "?"]);
    tmux.wait_for("the help", |screen| {
        screen.contains("who calls it") && screen.contains("any key goes back")
    });
    tmux.press(&["x"]);

    tmux.resize(120, 40);
    tmux.wait_for("the larger screen", |screen| {
        let header = screen.lines().next().unwrap_or_default();
        header.ends_with("last 4 s") && header.len() == 120 && is_near(screen, "share_50", 50.0)
    });
    tmux.resize(60, 15);
    tmux.wait_for("the smaller screen", |screen| {
        let header = screen.lines().next().unwrap_or_default();
        header.len() == 60 && is_near(screen, "share_50", 50.0)
    });

    tmux.press(&["e"]);
    tmux.wait_for("the question", |screen| screen.contains("event (such as"));
    tmux.type_line("page-faults");
    tmux.wait_for("another event", |screen| screen.contains("\npage-faults "));
    tmux.press(&["e"]);
    tmux.type_line("no-such-event");
    tmux.wait_for("the refusal", |screen| screen.contains("no-such-event"));
    tmux.press(&["e"]);
    tmux.type_line("cpu");
    tmux.wait_for("the first event", |screen| is_near(screen, "share_50", 50.0));

    tmux.press(&["w"]);
    tmux.wait_for("the file", |screen| screen.contains("wrote moonscope-"));
    tmux.press(&["q"]);
    let screen = tmux.wait_for("the end", |screen| screen.contains("left with 0"));
    assert!(screen.contains("unexplained 0"), "{screen}");
    tmux.wait_until_given_back();
    let mut files = std::fs::read_dir(tmux.dir()).unwrap().flatten();
    let svg = files.find(|file| file.path().extension().is_some_and(|ending| ending == "svg"));
    let svg = std::fs::read_to_string(svg.unwrap().path()).unwrap();
    assert!(svg.contains("one_round") && svg.contains("share_50"));
}

#[test]
fn root_the_terminal_is_given_back_whatever_ends_it() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let Some(tmux) = Tmux::start() else { return };
    let program = Program::start(&path, &["300"]);
    let pid = program.pid();
    let signal = |signal: &str| {
        let status = Command::new("kill")
            .args([signal, &top_of(pid).to_string()])
            .status();
        assert!(status.unwrap().success());
    };
    for ending in ["C-c", "-TERM", "-HUP", "-KILL"] {
        tmux.type_line("clear");
        tmux.type_line(&format!("{MOONSCOPE} top -p {pid} --refresh 200ms"));
        tmux.wait_for("the screen", |screen| screen.contains("share_50"));
        let top = top_of(pid);
        match ending {
            "C-c" => tmux.press(&["C-c"]),
            name => signal(name),
        }
        common::wait_until("it has ended", || !lives(top));
        tmux.wait_until_given_back();
        // what the shell said of a process that was killed is lost with the screen that it was said on
        tmux.type_line("echo after $((6 * 7))");
        tmux.wait_for("the shell", |screen| {
            screen.lines().any(|line| line == "after 42")
        });
    }

    // in the background the shell has the terminal; then it goes on where it was
    tmux.type_line(&format!("{MOONSCOPE} top -p {pid} --refresh 200ms"));
    for stop in ["C-z", "-TSTP"] {
        tmux.wait_for("the screen", |screen| screen.contains("share_50"));
        match stop {
            "C-z" => tmux.press(&["C-z"]),
            name => signal(name),
        }
        tmux.wait_until_given_back();
        tmux.type_line("fg");
    }
    tmux.wait_for("the screen", |screen| screen.contains("share_50"));
    // the window is closed
    let top = top_of(pid);
    drop(tmux);
    common::wait_until("it has ended with its terminal", || !lives(top));
}

#[test]
fn root_a_command_is_watched_to_its_end_and_does_not_write_over_the_screen() {
    let Some(path) = root().then(|| program("shares")).flatten() else {
        return;
    };
    let Some(tmux) = Tmux::start() else { return };
    tmux.type_line(&format!(
        "NO_COLOR=1 {MOONSCOPE} top --refresh 200ms -F 999 -- {} 3; echo left with $?",
        path.display()
    ));
    let screen = tmux.wait_for("the end of the command", |screen| {
        screen.contains("ENDED") && screen.contains("exited with status 0   (q leaves)")
    });
    assert!(is_near(&screen, "share_50", 50.0), "{screen}");
    // what it prints
    assert!(!screen.contains("ready") && !screen.contains("truth"), "{screen}");
    let colours = tmux.coloured();
    let has_colour = |n: u8| colours.contains(&format!("\u{1b}[{n}"));
    assert!(
        !(30..38).chain(40..48).chain(90..98).any(has_colour),
        "{colours:?}"
    );
    tmux.press(&["q"]);
    tmux.wait_for("the end", |screen| screen.contains("left with 0"));
    tmux.wait_until_given_back();
}

#[test]
fn root_phases_of_nginx_are_groups_that_can_be_looked_at_alone() {
    if !root() {
        return;
    }
    let Some(nginx) = LuaServer::start("nginx", "/phases") else {
        return;
    };
    let Some(tmux) = Tmux::start() else { return };
    tmux.type_line(&format!(
        "{MOONSCOPE} top {} -F 999 --window 4s --refresh 250ms --by phase",
        nginx.target()
    ));
    // each burns half a millisecond
    let phases = [
        "rewrite",
        "access",
        "content",
        "header_filter",
        "body_filter",
        "log",
    ];
    let is_sixth = |screen: &str, name: &str| {
        shares(screen, name).is_some_and(|(own, _)| (own - 100.0 / 6.0).abs() <= 6.0)
    };
    tmux.wait_for("the phases", |screen| {
        phases.iter().all(|name| is_sixth(screen, name))
    });
    // whichever it is: alone it has all that is shown
    tmux.press(&["Enter"]);
    let screen = tmux.wait_for("a phase alone", |screen| {
        screen.contains("[1 functions]") && screen.contains("only ")
    });
    assert!(screen.contains(".lua:") || screen.contains("_by_lua"), "{screen}");
    tmux.press(&["q"]);
    tmux.wait_until_given_back();
}

#[test]
fn without_a_terminal_it_names_what_records_to_a_file() {
    let run = moonscope(&["top", "-p", "1"]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(
        run.stderr.contains("stdout is none") && run.stderr.contains("moonscope record"),
        "{}",
        run.stderr
    );
}
