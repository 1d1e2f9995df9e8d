//! `moonscope nginx shdict` shows what is in the dictionaries that the workers of nginx share.
//!
//! The truth: `ngx.shared.DICT:get_keys()` in the server itself, and what the test's Lua stored (`tests/luajit/inspect`). The
//! nginx is the stripped one of the distribution.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Read;
use std::time::{Duration, Instant};

use common::lua_nginx::LuaNginx;
use common::stack::list;
use common::{Run, moonscope, root};
use serde_json::{Value, json};

fn start() -> Option<LuaNginx> {
    root().then(|| LuaNginx::start("inspect")).flatten()
}

fn run(nginx: &LuaNginx, args: &[&str]) -> Run {
    let target = nginx.target();
    let mut all = vec!["nginx", "shdict"];
    all.extend(args);
    all.push(&target);
    moonscope(&all)
}

/// What the one worker has.
fn look(nginx: &LuaNginx, args: &[&str]) -> Value {
    let run = run(nginx, &[args, &["--json"]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    list(&document, "workers")[0].clone()
}

fn dict(nginx: &LuaNginx, name: &str) -> Value {
    let args = ["-n", name, "--keys", "--show-values", "--limit", "100000"];
    list(&look(nginx, &args), "dicts")[0].clone()
}

/// Length and name of each key, as the server lists them: those that have not expired.
fn keys_of_server(nginx: &LuaNginx, dict: &str) -> Vec<String> {
    let answer = nginx.answer(&format!("keys?dict={dict}"));
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    body.lines().map(str::to_owned).collect()
}

fn bytes_of(entry: &Value) -> Vec<u8> {
    match entry["key_hex"].as_str() {
        Some(hex) => (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
            .collect(),
        None => entry["key"].as_str().unwrap().as_bytes().to_vec(),
    }
}

/// The same of what was seen.
fn keys_seen(dict: &Value) -> Vec<String> {
    let alive = list(dict, "entries")
        .iter()
        .filter(|entry| entry["expired"] == false);
    let mut keys: Vec<Vec<u8>> = alive.map(bytes_of).collect();
    keys.sort();
    let escaped = |key: &Vec<u8>| {
        let escape = |&byte: &u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        format!("{} {}", key.len(), key.iter().map(escape).collect::<String>())
    };
    keys.iter().map(escaped).collect()
}

#[test]
fn root_keys_are_those_that_the_server_lists() {
    let Some(nginx) = start() else { return };
    assert!(nginx.answer("fill").ends_with("ok\n"));
    assert!(nginx.answer("store").ends_with("ok\n"));
    for (name, count, expired) in [("dogs", 150, 0), ("cats", 9, 1)] {
        let dict = dict(&nginx, name);
        assert_eq!(dict["keys"], count, "{dict}");
        assert_eq!(dict["expired"], expired, "{dict}");
        assert_eq!((&dict["torn"], &dict["changed"]), (&json!(0), &json!(false)));
        let server = keys_of_server(&nginx, name);
        assert_eq!(server.len(), count - expired, "{server:?}");
        assert_eq!(keys_seen(&dict), server);
    }
    // k2, k4, ... k300, whose values /fill makes this long
    let all = look(&nginx, &[]);
    let dogs = &list(&all, "dicts")[0];
    let value_bytes: u64 = (1..=150).map(|half| 10 + half * 2 * 13 % 6000).sum();
    let key_bytes: usize = (1..=150).map(|half| format!("k{}", half * 2).len()).sum();
    assert_eq!(dogs["value_bytes"], value_bytes);
    assert_eq!(dogs["key_bytes"], key_bytes);
    assert_eq!(dogs["by_type"], json!({ "string": 150 }));
    assert_eq!(dogs["size_bytes"], 1 << 20);
}

#[test]
fn root_values_are_what_was_stored_and_shown_only_to_those_who_ask() {
    let Some(nginx) = start() else { return };
    assert!(nginx.answer("store").ends_with("ok\n"));
    let get = |key: &str| look(&nginx, &["get", "cats", key, "--show-values"]);
    for (key, kind, value) in [
        ("number", "number", json!(-8.5e-3)),
        ("text", "string", json!("a\0b \x1b[2J")),
        ("yes", "boolean", json!(true)),
        ("no", "boolean", json!(false)),
        ("soon", "string", json!("over")),
        ("later", "string", json!("on")),
        ("list", "list", json!(["zero", "one", 2.0])),
        (&"long".repeat(300), "string", json!("v".repeat(20000))),
    ] {
        let found = get(key);
        assert_eq!(found["found"], true, "{found}");
        assert_eq!((&found["type"], &found["value"]), (&json!(kind), &value));
        assert_eq!(found["changed"], false);
        assert_eq!(found["expired"], key == "soon", "{found}");
    }
    assert_eq!(get("text")["flags"], 4321);
    assert_eq!(get("list")["elements"], 3);
    assert_eq!(get("nobody")["found"], false);

    let orig = run(
        &nginx,
        &["get", "cats", "number", "--show-values", "--format", "orig"],
    );
    let expected = "type: LUA_TNUMBER\nvalue: -0.0085\nexpires: 0\nflags: 0x0\n";
    assert_eq!(orig.stdout, expected, "{}", orig.stderr);
    // the terminal gets no orders
    let table = run(&nginx, &["get", "cats", "text", "--show-values"]);
    assert!(table.stdout.contains("a\\x00b \\x1b[2J"), "{}", table.stdout);

    for args in [&["get", "cats", "text"][..], &["--keys"]] {
        let refused = run(&nginx, args);
        assert_eq!(refused.code, 2, "{}", refused.stdout);
        assert!(refused.stderr.contains("--show-values"), "{}", refused.stderr);
    }
    let plain = run(&nginx, &["--json"]);
    assert!(
        !plain.stdout.contains("later") && plain.stdout.contains("cats"),
        "{}",
        plain.stdout
    );
    let missing = run(&nginx, &["-n", "cows"]);
    assert_eq!(missing.code, 4, "{}", missing.stderr);
    assert!(
        missing.stderr.contains("there are: dogs, cats"),
        "{}",
        missing.stderr
    );
}

#[test]
fn root_a_dictionary_that_changes_is_shown_whole_or_said_to_have_changed() {
    let Some(nginx) = start() else { return };
    assert!(nginx.answer("fill").ends_with("ok\n"));
    let filled = keys_of_server(&nginx, "dogs");
    assert_eq!(filled.len(), 150);
    let mut churn = nginx.ask("churn");
    let (mut looks, mut changed, mut values) = (0, 0, 0);
    churn.set_nonblocking(true).unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while churn.peek(&mut [0]).is_err() {
        assert!(Instant::now() < patience, "/churn ends after three seconds");
        let dict = dict(&nginx, "dogs");
        looks += 1;
        changed += u32::from(dict["changed"] == true);
        if dict["changed"] == false {
            assert_eq!(dict["torn"], 0, "{dict}");
            let seen = keys_seen(&dict);
            let lost: Vec<&String> = filled.iter().filter(|key| !seen.contains(key)).collect();
            assert_eq!(lost, Vec::<&String>::new());
        }
        // whoever writes it makes all bytes the same
        let found = look(&nginx, &["get", "dogs", "same", "--show-values"]);
        if found["found"] == true && found["changed"] == false {
            let value = found["value"].as_str().unwrap().as_bytes();
            assert_eq!(value.len(), 4000);
            assert!(value.iter().all(|byte| *byte == value[0]), "{found}");
            values += 1;
        }
    }
    churn.set_nonblocking(false).unwrap();
    let mut answer = String::new();
    churn.read_to_string(&mut answer).unwrap();
    eprintln!(
        "{looks} looks, {changed} of them at what changed, {values} values, {}",
        answer.trim_end()
    );
    assert!(looks > 0 && answer.contains("rounds "), "{answer}");
    // and when nobody changes it any more all are there
    let dict = dict(&nginx, "dogs");
    assert_eq!(dict["changed"], false);
    assert_eq!(keys_seen(&dict), keys_of_server(&nginx, "dogs"));
}
