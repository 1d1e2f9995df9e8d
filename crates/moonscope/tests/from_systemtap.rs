//! `docs/from-systemtap.md` is true: each old tool has a line there that says what the program says, and each command of the
//! page can be typed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use common::{moonscope, repository};

fn page() -> String {
    std::fs::read_to_string(repository("docs/from-systemtap.md")).unwrap()
}

/// What `moonscope list NAME` has: the first word of each line, and the others.
fn listed(what: &str) -> Vec<(String, String)> {
    let run = moonscope(&["list", what]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let rows = run.stdout.lines().skip(1).map(|line| {
        let (name, text) = line.split_once(' ').unwrap();
        (name.to_owned(), text.trim().to_owned())
    });
    rows.collect()
}

/// The lines of the tables of tools: name, and what stands behind it.
fn rows(page: &str) -> BTreeMap<&str, &str> {
    let tables = page.split_once("\n## ").unwrap().1;
    let rows = tables
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let mut found = BTreeMap::new();
    for (name, text) in rows {
        assert_eq!(found.insert(name, text), None, "{name} is there twice");
    }
    found
}

#[test]
fn the_page_says_of_each_old_tool_what_the_program_says() {
    let page = page();
    let mut rows = rows(&page);
    for (name, now) in listed("tools") {
        let row = rows
            .remove(name.as_str())
            .unwrap_or_else(|| panic!("no line for {name}"));
        let now = now.split_once(": ").map_or((now.as_str(), ""), |parts| parts);
        let (first, more) = match now {
            ("not there yet; near to it", near) => {
                ("not there yet |".to_owned(), format!("| near to it: `{near}` |"))
            }
            ("no meaning any more", why) => ("no meaning any more |".to_owned(), format!("| {why} |")),
            ("not there yet", _) => ("not there yet |".to_owned(), String::new()),
            (command, how) => (format!("`{command}` |"), how.to_owned()),
        };
        assert!(
            row.starts_with(&first) && row.contains(&more),
            "{name}: {now:?}, but the page has: {row}"
        );
    }
    assert!(rows.is_empty(), "the program does not know {rows:?}");
}

/// Commands in backquotes and in indented lines, without `sudo` and without what a shell does with the output.
fn commands(page: &str) -> BTreeSet<String> {
    let quoted = page.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let lines = page.lines().filter_map(|line| line.strip_prefix("    "));
    let words = quoted
        .chain(lines)
        .map(|text| text.strip_prefix("sudo ").unwrap_or(text));
    let found = words.filter_map(|text| text.strip_prefix("moonscope "));
    let end = |text: &str| [" #", " >", " |"].iter().filter_map(|sign| text.find(sign)).min();
    found
        .map(|text| text[..end(text).unwrap_or(text.len())].trim().to_owned())
        .collect()
}

#[test]
fn each_command_of_the_page_can_be_typed() {
    let page = page();
    let commands = commands(&page);
    assert!(commands.len() > 30, "{commands:?}");
    let events: BTreeSet<String> = listed("events").into_iter().map(|(name, _)| name).collect();
    for command in &commands {
        // what stands for something of the user's
        let line = command.replace("PID", "4321");
        let typed = format!("exec \"$0\" {line} --help");
        let output = Command::new("sh")
            .args(["-c", &typed])
            .arg(env!("CARGO_BIN_EXE_moonscope"))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "moonscope {command}: {stderr}");
        if let Some((_, event)) = line.split_once("-e ") {
            let event = event.split([' ', ':']).next().unwrap();
            assert!(events.contains(event), "moonscope {command}: no event {event}");
        }
    }
}

#[test]
fn a_tool_that_is_not_there_says_so() {
    for (name, now) in listed("tools") {
        let run = moonscope(&[name.as_str(), "--help"]);
        if now.starts_with("moonscope ") && !now.contains(": ") {
            assert_eq!(run.code, 0, "{name}: {}", run.stderr);
            assert!(
                run.stdout.starts_with(&format!("{name} is now: {now}\n")),
                "{}",
                run.stdout
            );
            continue;
        }
        assert_eq!(run.code, 2, "{name}: {}", run.stdout);
        assert!(
            run.stderr.starts_with(&format!("moonscope: {name}: ")),
            "{}",
            run.stderr
        );
        if let Some(instead) = now
            .split_once(": ")
            .map(|parts| parts.0)
            .filter(|text| text.starts_with("moonscope "))
        {
            assert!(run.stderr.contains(&format!("\n  {instead}\n")), "{}", run.stderr);
        }
    }
}
