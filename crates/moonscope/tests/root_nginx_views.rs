//! `moonscope nginx` shows what nginx and those who ask it know themselves.
//!
//! The truth: what the test has asked for and when, `stub_status` (nginx's own counters), and `ngx.shared.DICT:capacity()` and
//! `free_space()`, `ngx.timer.pending_count()` and `running_count()` (`tests/luajit/inspect`). The nginx is the stripped one of the distribution.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::lua_nginx::LuaNginx;
use common::stack::list;
use common::{moonscope, root, wait_until};
use serde_json::{Value, json};

/// What a view of the one worker shows.
fn view(nginx: &LuaNginx, args: &[&str]) -> Value {
    let target = nginx.target();
    let mut all = vec!["nginx"];
    all.extend(args);
    all.extend(["--json", &target]);
    let run = moonscope(&all);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    let workers = list(&document, "workers");
    assert_eq!(workers.len(), 1, "{document}");
    workers[0].clone()
}

fn requests(nginx: &LuaNginx, args: &[&str]) -> Vec<Value> {
    let mut all = vec!["requests"];
    all.extend(args);
    list(&view(nginx, &all), "requests").to_vec()
}

/// Asks with a host, and waits until the worker has the request.
fn ask(nginx: &LuaNginx, uri: &str, host: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", nginx.port())).unwrap();
    write!(stream, "GET {uri} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    stream
}

fn start() -> Option<LuaNginx> {
    root().then(|| LuaNginx::start("inspect")).flatten()
}

#[test]
fn root_requests_are_those_that_were_asked_for() {
    let Some(nginx) = start() else { return };
    assert_eq!(requests(&nginx, &[]), Vec::<Value>::new());
    let before = Instant::now();
    let first = ask(&nginx, "/wait?token=secret", "one.test");
    wait_until("the first request is there", || requests(&nginx, &[]).len() == 1);
    let had_first = Instant::now();
    std::thread::sleep(Duration::from_millis(300));
    let others = [
        ask(&nginx, "/wait-in-access", "two.test"),
        ask(&nginx, "/wait-in-rewrite", "three.test"),
        ask(&nginx, "/rewritten", "four.test"),
        ask(&nginx, "/early", "five.test"),
    ];
    wait_until("all requests are there", || requests(&nginx, &[]).len() == 5);
    let looked_from = Instant::now();
    let found = requests(&nginx, &[]);
    let of_host = |host: &str| {
        found
            .iter()
            .find(|request| request["host"] == host)
            .unwrap()
            .clone()
    };

    for (host, uri, path, phase, status) in [
        ("one.test", "/wait?…", "/wait", "content", 0),
        ("two.test", "/wait-in-access", "/wait-in-access", "access", 0),
        ("three.test", "/wait-in-rewrite", "/wait-in-rewrite", "rewrite", 0),
        ("four.test", "/rewritten", "/wait", "content", 0),
        ("five.test", "/early", "/early", "content", 202),
    ] {
        let request = of_host(host);
        assert_eq!(request["uri"], uri, "{request}");
        assert_eq!(request["path"], path, "{request}");
        assert_eq!(request["phase"], phase, "{request}");
        assert_eq!(request["status"], status, "{request}");
        assert_eq!(request["method"], "GET", "{request}");
        assert_eq!(request["connection"]["requests"], 1, "{request}");
        assert_eq!(request["connection"]["peer"], "127.0.0.1", "{request}");
        assert_eq!(request["connection"]["is_tls"], false, "{request}");
    }

    // the oldest first, and as old as it is: the worker's own clock stands while it waits, and milliseconds are cut
    assert_eq!(found[0]["host"], "one.test");
    let age = Duration::from_micros(found[0]["age_us"].as_u64().unwrap());
    let slack = Duration::from_millis(20);
    assert!(age + slack >= looked_from - had_first, "{age:?}");
    assert!(age <= before.elapsed() + slack, "{age:?}");
    assert_eq!(requests(&nginx, &["--min-age", "1h"]), Vec::<Value>::new());

    // with arguments only where they are asked for
    let shown = requests(&nginx, &["--show-values"]);
    assert!(shown.iter().any(|request| request["uri"] == "/wait?token=secret"));
    assert!(!found.iter().any(|request| request.to_string().contains("secret")));
    drop((first, others));
}

#[test]
fn root_connections_are_as_many_as_nginx_counts() {
    let Some(nginx) = start() else { return };
    let waiting: Vec<TcpStream> = (0..7).map(|_| ask(&nginx, "/wait", "w.test")).collect();
    let passed: Vec<TcpStream> = (0..2).map(|_| ask(&nginx, "/passed", "p.test")).collect();
    // asked and answered: kept for the next request
    let kept: Vec<TcpStream> = (0..3)
        .map(|_| {
            let mut stream = ask(&nginx, "/health", "k.test");
            assert!(stream.read(&mut [0; 512]).unwrap() > 0);
            stream
        })
        .collect();
    let by_kind = || view(&nginx, &["connections"])["by_kind"].clone();
    // each that is passed is a request of another server here, in the same worker
    wait_until("all requests are there", || by_kind()["request"] == 7 + 2 * 2);
    let kinds = by_kind();
    assert_eq!(kinds["waiting"], 3, "{kinds}");
    assert_eq!(kinds["upstream"], 2, "{kinds}");
    assert_eq!(kinds["listening"], 1, "{kinds}");
    assert_eq!(kinds["http2_or_3"], 0, "{kinds}");

    // stub_status: clients' connections, its own request among them
    let status = nginx.answer("status");
    let active = status
        .lines()
        .find_map(|line| line.strip_prefix("Active connections: "));
    let active: u64 = active.unwrap().trim().parse().unwrap();
    assert_eq!(active, 1 + 7 + 2 * 2 + 3, "{status}");
    let all = view(&nginx, &["connections"]);
    assert_eq!(all["max"], 256);
    let used = all["used"].as_u64().unwrap();
    assert_eq!(all["free"].as_u64().unwrap() + used, 256, "{all}");
    drop((waiting, passed, kept));
}

#[test]
fn root_zones_have_the_room_that_nginx_says() {
    let Some(nginx) = start() else { return };
    assert!(nginx.answer("fill").ends_with("ok\n"));
    let worker = view(&nginx, &["shm"]);
    let zones = list(&worker, "zones");
    let names: Vec<&str> = zones.iter().map(|zone| zone["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dogs", "cats", "limit"]);
    let answer = nginx.answer("zones");
    let said = answer.lines().filter_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [name @ ("dogs" | "cats"), capacity, free] = words[..] else {
            return None;
        };
        Some((
            name.to_owned(),
            capacity.parse::<u64>().unwrap(),
            free.parse::<u64>().unwrap(),
        ))
    });
    let mut count = 0;
    for (name, capacity, free) in said {
        let zone = zones.iter().find(|zone| zone["name"] == name.as_str()).unwrap();
        assert_eq!(zone["size_bytes"], capacity, "{zone}");
        let pages = zone["free_pages"].as_u64().unwrap();
        assert_eq!(pages * zone["page_bytes"].as_u64().unwrap(), free, "{zone}");
        assert_eq!(zone["owner"], "ngx_http_lua_module");
        assert_eq!(zone["torn"], false);
        count += 1;
    }
    assert_eq!(count, 2, "{answer}");
    let dogs = &zones[0];
    assert!(
        dogs["free_runs"].as_u64() > Some(1),
        "deleted keys leave holes: {dogs}"
    );
    assert!(
        dogs["longest_free_run_pages"].as_u64() < dogs["free_pages"].as_u64(),
        "{dogs}"
    );
    assert_eq!(zones[2]["owner"], "ngx_http_limit_req_module");
    assert_eq!(zones[2]["size_bytes"], 2 << 20);
}

#[test]
fn root_a_pool_is_made_of_its_blocks() {
    let Some(nginx) = start() else { return };
    let pool = view(&nginx, &["pool"]);
    let of = |name: &str| pool[name].as_u64().unwrap();
    // NGX_CYCLE_POOL_SIZE is 16 KiB; a header of 80 bytes in the first block, of 32 in each other
    assert_eq!(of("block_bytes"), 16 << 10);
    let headers = 80 + 32 * (of("blocks") - 1);
    assert_eq!(
        of("used_bytes") + of("unused_bytes") + headers,
        of("blocks") * of("block_bytes")
    );
}

#[test]
fn root_timers_are_as_many_as_lua_counts() {
    let Some(nginx) = start() else { return };
    let counted = || {
        let answer = nginx.answer("timers");
        let line = answer.lines().last().unwrap();
        let words = line.split(' ').map(|word| word.parse().unwrap());
        words.collect::<Vec<u64>>()
    };
    let seen = || {
        let timers = view(&nginx, &["timers"]);
        assert_eq!(timers["max_pending"], 300, "{timers}");
        assert_eq!(timers["max_running"], 40, "{timers}");
        ["pending", "running"]
            .map(|name| timers[name].as_u64().unwrap())
            .to_vec()
    };
    assert_eq!(seen(), [0, 0]);
    assert!(nginx.answer("start-timers?pending=7&running=3").ends_with("ok\n"));
    wait_until("three timers run", || counted() == [7, 3]);
    assert_eq!(seen(), [7, 3]);
    assert!(
        nginx
            .answer("start-timers?pending=100&running=20")
            .ends_with("ok\n")
    );
    wait_until("20 more run", || counted() == [107, 23]);
    assert_eq!(seen(), [107, 23]);
    let run = moonscope(&[
        "nginx",
        "ngx-lua-count-timers",
        "--format",
        "orig",
        &nginx.target(),
    ]);
    let expected =
        "Running timers: 23\nMax running timers: 40\nPending timers: 107\nMax pending timers: 300\n";
    assert_eq!(run.stdout, expected, "{}", run.stderr);
}

#[test]
fn root_pools_of_connections_are_as_lua_uses_them() {
    let Some(nginx) = start() else { return };
    let pools = || {
        let worker = view(&nginx, &["pools"]);
        assert_eq!((&worker["lua"], &worker["torn"]), (&true.into(), &0.into()));
        list(&worker, "pools").to_vec()
    };
    assert_eq!(pools(), Vec::<Value>::new());
    assert!(nginx.answer("keep?n=5").ends_with("ok\n"));
    let plain = |kept: u64, connections: u64, reused: Value| {
        json!({
            "name": format!("127.0.0.1:{}", nginx.port()), "size": 30, "kept": kept, "connections": connections,
            "backlog": null, "waiting": 0, "reused": reused,
        })
    };
    assert_eq!(pools(), [plain(5, 5, json!({ "max": 0, "mean": 0, "min": 0 }))]);
    // takes the newest of those that are kept, and brings it back
    for _ in 0..3 {
        assert!(nginx.answer("keep?n=1").ends_with("ok\n"));
    }
    assert_eq!(pools(), [plain(5, 5, json!({ "max": 3, "mean": 0, "min": 0 }))]);
    // two are in use and not kept; of a pool for two, two are used and three wait
    let held = nginx.ask("hold?n=2");
    let queued = nginx.ask("queue?n=5");
    wait_until("three wait", || pools().iter().any(|pool| pool["waiting"] == 3));
    wait_until("two are held", || pools()[0]["kept"] == 3);
    let narrow = json!({
        "name": "narrow", "size": 2, "kept": 0, "connections": 5, "backlog": 4, "waiting": 3, "reused": null,
    });
    assert_eq!(
        pools(),
        [plain(3, 5, json!({ "max": 0, "mean": 0, "min": 0 })), narrow]
    );

    let run = moonscope(&["nginx", "ngx-lua-conn-pools", "--format", "orig", &nginx.target()]);
    let narrow = "pool \"narrow\"\n    out-of-pool reused connections: 5\n    in-pool connections: 0\n";
    assert!(run.stdout.contains(narrow), "{} {}", run.stdout, run.stderr);
    assert!(
        run.stdout.ends_with("For total 2 connection pool(s) found.\n"),
        "{}",
        run.stdout
    );
    drop((held, queued));
}

#[test]
fn root_who_is_no_worker_is_told_so() {
    let Some(nginx) = start() else { return };
    let own = std::process::id().to_string();
    let run = moonscope(&["nginx", "requests", "-p", &own]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.stderr.contains("is no nginx"), "{}", run.stderr);
    // a master means its workers, as the old tools had it
    let master = nginx.master().to_string();
    let run = moonscope(&["nginx", "ngx-active-reqs", "-p", &master, "--format", "orig"]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "found 0 active requests.\n"),
        "{}",
        run.stderr
    );
}
