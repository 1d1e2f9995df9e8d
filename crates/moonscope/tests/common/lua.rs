//! LuaJIT's variants and cases (`tests/luajit`): built, run, recorded, and compared with their grammars.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{moonscope, repository, skip};

/// A program of one variant of LuaJIT.
#[derive(Clone, Debug)]
pub struct LuaHost {
    /// `upstream-gc64`, or `upstream-gc64 edge`.
    pub name: String,
    path: PathBuf,
}

impl LuaHost {
    /// To run this script in so many threads, each with a VM of its own, when nothing else wants to run.
    pub fn in_threads(&self, count: usize, script: &Path) -> Command {
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(&self.path);
        command.arg("-t").arg(count.to_string()).arg(script);
        command
    }

    /// To run this script, with or without LuaJIT's compiler.
    pub fn command(&self, script: &Path, is_compiled: bool) -> Command {
        let mut command = Command::new(&self.path);
        command.args((!is_compiled).then_some("-joff")).arg(script);
        command
    }
}

/// The programs of a variant: `host`, the same with LuaJIT inside (`edge`), or without symbols (`stripped/host`). Skips
/// what cannot be had here.
pub fn lua_hosts(variant: &str, programs: &[&str]) -> Vec<LuaHost> {
    let output = Command::new(repository("tests/luajit/build"))
        .arg(variant)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) {
        skip(&words);
        return Vec::new();
    }
    assert!(output.status.success(), "tests/luajit/build {variant}: {words}");
    let dir = String::from_utf8(output.stdout).unwrap();
    let dir = Path::new(dir.trim_end());
    let host = |program: &&str| {
        let path = match program.strip_prefix("stripped/") {
            Some(program) => dir.join("stripped/bin").join(program),
            None => dir.join("bin").join(program),
        };
        path.is_file().then(|| LuaHost {
            name: format!("{variant} {program}"),
            path,
        })
    };
    programs.iter().filter_map(host).collect()
}

/// A program of `tests/luajit/cases` with its grammar.
#[derive(Clone, Debug)]
pub struct LuaCase {
    /// `06-pcall`.
    pub name: String,
    /// Options of `host` that it needs.
    options: Vec<String>,
}

/// All of them.
pub fn lua_cases() -> Vec<LuaCase> {
    let files = std::fs::read_dir(repository("tests/luajit/cases")).unwrap();
    let mut cases: Vec<LuaCase> = files
        .filter_map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(".grammar")?.to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let options = text.lines().find_map(|line| line.strip_prefix("host"));
            let words = options.unwrap_or_default().split_whitespace();
            Some(LuaCase {
                name,
                options: words.map(str::to_owned).collect(),
            })
        })
        .collect();
    cases.sort_by(|one, other| one.name.cmp(&other.name));
    cases
}

/// What `tests/luajit/check` counted of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// All samples.
    pub samples: u64,
    /// Those whose stack the grammar does not allow.
    pub wrong: u64,
    /// Those of them that do not say themselves that something is missing.
    pub unmarked: u64,
    /// Those that reach the root.
    pub complete: u64,
    /// Those in which a Lua function has no line.
    pub lineless: u64,
    /// Does each part of the program have the share that it says itself?
    pub shares_are_right: bool,
    /// What is wrong, in words.
    pub words: String,
}

impl Verdict {
    fn read(text: &str) -> Self {
        let last = text.lines().last().unwrap_or_default();
        let words: Vec<&str> = last.split_whitespace().collect();
        let value = |key: &str| words.chunks(2).find(|pair| pair[0] == key).map(|pair| pair[1]);
        let number = |key: &str| {
            value(key)
                .and_then(|text| text.parse().ok())
                .unwrap_or_else(|| panic!("no {key} in {text}"))
        };
        Self {
            samples: number("samples"),
            wrong: number("wrong"),
            unmarked: number("unmarked"),
            complete: number("complete"),
            lineless: number("lineless"),
            shares_are_right: value("shares") == Some("right"),
            words: text.to_owned(),
        }
    }
}

/// How long a case runs, in seconds; the recording is shorter, because the functions of a program that has ended have no
/// names anymore.
const RUN: &str = "3";
const RECORDING: &str = "1500ms";

/// Fewer than the other tests use: a stack of a thousand Lua frames is much to write down.
const RATE: &str = "499";

/// Runs a case, records it, and asks its grammar. `None` if the program had ended before the recording began: on a
/// machine that is busy with other things.
pub fn judge(host: &LuaHost, case: &LuaCase, is_compiled: bool) -> Option<Verdict> {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let base = repository("tests/luajit/cases").join(&case.name);
    let mut command = Command::new(&host.path);
    command
        .args((!is_compiled).then_some("-joff"))
        .args(&case.options)
        .arg(base.with_extension("lua"))
        .arg(RUN);
    let program = super::Program::spawn(&mut command);
    let pid = program.pid_text();
    let json = file("x.json").to_str().unwrap().to_owned();
    let run = moonscope(&[
        "record",
        "-p",
        &pid,
        "-d",
        RECORDING,
        "-F",
        RATE,
        "--max-depth",
        "1024",
        "-o",
        &json,
    ]);
    let truth = program.wait();
    if run.code == 4 || run.code == 5 {
        return None;
    }
    assert_eq!(run.code, 0, "{}", run.stderr);
    std::fs::write(file("truth"), truth.lines.join("\n")).unwrap();
    Some(check(&base, &[&file("x.json"), &file("truth")]))
}

/// Asks the grammar `CASE.grammar` about a recording: its `.json`, and perhaps what the program said at its end.
pub fn check(case: &Path, files: &[&Path]) -> Verdict {
    let output = Command::new(repository("tests/luajit/check"))
        .args(["match", "-j"])
        .arg(case)
        .args(files)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.is_empty(), "tests/luajit/check: {errors}");
    Verdict::read(&String::from_utf8_lossy(&output.stdout))
}
