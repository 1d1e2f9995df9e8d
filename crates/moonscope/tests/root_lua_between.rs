//! Compiled code between two snapshots: no function is blamed for what another one does, and what cannot be told is marked.
//!
//! The truth: the same program interpreted, where each function has a frame of its own (`tests/luajit/names/between.lua`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::lua::{LuaHost, lua_hosts};
use common::{Program, Sample, record_at, repository, root};

/// The mark of what may be missing.
const UNKNOWN: &str = "[inlined frames unknown]";

/// Of all samples in a function of the program: how many have it as the innermost function of Lua, marked or not.
struct Shares {
    total: u64,
    samples: Vec<(Vec<String>, u64)>,
    /// Samples with a line in a frame of `outer` that a mark stands right inside of.
    marked_with_line: u64,
}

impl Shares {
    fn record(host: &LuaHost, is_compiled: bool) -> Self {
        let mut command = host.command(&repository("tests/luajit/names/between.lua"), is_compiled);
        let program = Program::spawn(command.arg("30"));
        let recording = record_at("499", &["-p", &program.pid_text(), "-d", "2", "--no-kernel"]);
        let names = |sample: &Sample| -> Vec<String> {
            let names = sample.stack.iter().map(|frame| frame.name().to_owned());
            names.skip_while(|name| !name.starts_with("outer")).collect()
        };
        let of_outer = recording
            .profile
            .samples
            .iter()
            .filter(|sample| sample.has("outer"));
        let samples: Vec<_> = of_outer.map(|sample| (names(sample), sample.count)).collect();
        let marked_with_line = recording.profile.count(|sample| {
            let mut pairs = sample.stack.windows(2);
            pairs.any(|pair| pair[0].name() == "outer" && pair[1].name() == UNKNOWN && pair[0].line.is_some())
        });
        Self {
            marked_with_line,
            total: samples.iter().map(|(_, count)| count).sum(),
            samples,
        }
    }

    fn share(&self, is_so: impl Fn(&[String]) -> bool) -> f64 {
        let count: u64 = self
            .samples
            .iter()
            .filter(|(names, _)| is_so(names))
            .map(|(_, count)| count)
            .sum();
        count as f64 / self.total as f64
    }

    /// Samples that say for sure that this function runs.
    fn certain(&self, function: &str) -> f64 {
        self.share(|names| {
            let innermost = names.iter().rev().find(|name| !name.starts_with('['));
            innermost.is_some_and(|name| name == function) && !names.iter().any(|name| name == UNKNOWN)
        })
    }
}

#[test]
fn root_no_function_is_blamed_for_what_another_one_does() {
    if !root() {
        return;
    }
    for variant in ["upstream-gc64", "openresty-gc32"] {
        for host in lua_hosts(variant, &["host"]) {
            let truth = Shares::record(&host, false);
            let compiled = Shares::record(&host, true);
            assert!(truth.total > 50 && compiled.total > 50, "{variant}");
            for function in ["quick", "slow", "last", "outer"] {
                let (certain, of_all) = (compiled.certain(function), truth.certain(function));
                // of some 400 samples: four standard deviations, and calls that cost nothing once they are inlined
                assert!(
                    certain < of_all + 0.1,
                    "{variant}: {function} has {certain:.3} for sure, {of_all:.3} in truth"
                );
            }
            // it may be at any of its calls
            assert_eq!(compiled.marked_with_line, 0, "{variant}");
            // in a function that had returned already there is nothing
            let wrong = compiled.share(|names| {
                let at = |wanted: &str| names.iter().position(|name| name == wanted);
                at("quick").is_some() && (at("slow").is_some() || at("last").is_some())
            });
            assert_eq!(wrong, 0.0, "{variant}");
        }
    }
}

#[test]
fn root_a_loop_that_calls_builtins_alone_is_certain() {
    if !root() {
        return;
    }
    for host in lua_hosts("upstream-gc64", &["host"]) {
        let mut command = host.command(&repository("tests/luajit/names/between.lua"), true);
        let program = Program::spawn(command.arg("60"));
        let (mut marked, mut unmarked) = (0, 0);
        // a busy machine may leave it a tenth of a processor; on the way into a trace there is a mark now and then
        for _ in 0..10 {
            let recording = record_at("499", &["-p", &program.pid_text(), "-d", "2", "--no-kernel"]);
            let of = |is_marked: bool| {
                let is_wanted = |sample: &Sample| sample.has("alone") && sample.has(UNKNOWN) == is_marked;
                recording.profile.count(is_wanted)
            };
            marked += of(true);
            unmarked += of(false);
            if unmarked > 150 {
                break;
            }
        }
        assert!(unmarked > 30, "{unmarked}");
        assert!(marked * 50 < unmarked, "{marked} of {unmarked} are marked");
    }
}
