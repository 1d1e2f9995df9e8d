//! `moonscope stack-analyzer`: the command line of Stack_Analyzer 2.0, done by `moonscope record`.

use std::time::Duration;

use clap::{Args, Parser};

use crate::exit::{Code, Failure};
use crate::number::whole;
use crate::record::{self, RecordArgs};
use crate::shell::quoted;

const EXAMPLES: &str = "\
Collectors: on_cpu, off_cpu, memleak, io, readahead, llc_stat [-P PERIOD], probe SPEC (repeatable).
Options: -p PID | -g CGROUP | -c COMMAND, -f HZ (49), -i SECONDS (5), -d SECONDS, -u, -k, -o TOP,
-T cpu|memory|io 'some STALL WINDOW' (microseconds).

Example:
  moonscope stack-analyzer on_cpu off_cpu -p 4321 -u -k -i 5 -d 60 > stacks.txt

It prints what moonscope record is asked for. docs/stack-analyzer.md says where results differ, and why.";

/// The command line and the output of Stack_Analyzer
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct StackAnalyzerArgs {
    /// What Stack_Analyzer would get
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "ARGUMENT"
    )]
    arguments: Vec<String>,
}

/// `moonscope record`, by itself.
#[derive(Parser)]
#[command(name = "moonscope record")]
struct RecordLine {
    #[command(flatten)]
    args: RecordArgs,
}

/// Runs the verb.
pub fn run(args: StackAnalyzerArgs) -> Result<Code, Failure> {
    let asked = Asked::parse(&args.arguments)?;
    let line = asked.record_line();
    for note in &asked.notes {
        crate::exit::tell!("moonscope: {note}");
    }
    crate::exit::tell!("moonscope record {}", quoted(&line));
    let parsed = RecordLine::try_parse_from(std::iter::once("moonscope record".to_owned()).chain(line));
    let record = match parsed {
        Ok(line) => line.args,
        Err(err) => return Err(usage(crate::usage::said(&err)).with_remedy("see moonscope record --help")),
    };
    if let (Some(_), Some(seconds)) = (&asked.trigger, asked.duration) {
        end_after(Duration::from_secs(seconds));
    }
    record::run(record)
}

/// A trigger is waited for as long as it takes; there, `-d` is the time for all.
fn end_after(time: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(time);
        // as Ctrl-C: what was recorded is written
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::INT);
    });
}

fn usage(what: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Usage, what)
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    events: Vec<String>,
    /// Words that name it; empty: the whole machine.
    target: Vec<String>,
    command: Option<String>,
    hz: u64,
    interval: u64,
    duration: Option<u64>,
    user: bool,
    kernel: bool,
    /// As `record --trigger` has it.
    trigger: Option<String>,
    /// What has another meaning here, or none.
    notes: Vec<String>,
}

impl Default for Asked {
    /// The defaults that it really has.
    fn default() -> Self {
        Self {
            events: Vec::new(),
            target: Vec::new(),
            command: None,
            hz: 49,
            interval: 5,
            duration: None,
            user: false,
            kernel: false,
            trigger: None,
            notes: Vec::new(),
        }
    }
}

impl Asked {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut asked = Self::default();
        let mut words = arguments.iter().map(String::as_str).peekable();
        while let Some(word) = words.next() {
            let mut value = |what: &str| {
                words
                    .next()
                    .ok_or_else(|| usage(format_args!("{word}: a {what} is missing")))
            };
            match word {
                "on_cpu" => asked.events.push("cpu".to_owned()),
                "off_cpu" => asked.events.push("offcpu".to_owned()),
                "memleak" => {
                    asked.events.push("alloc".to_owned());
                    if words.next_if_eq(&"-W").is_some() {
                        asked
                            .notes
                            .push("-W: an address that is given out again was freed, always".to_owned());
                    }
                }
                "io" | "readahead" => asked.events.push(word.to_owned()),
                "llc_stat" => {
                    let period = match words.next_if_eq(&"-P") {
                        Some(_) => format!(":{}", number("-P", words.next())?),
                        None => String::new(),
                    };
                    for event in ["cache-misses", "cache-references"] {
                        asked.events.push(format!("{event}{period}"));
                    }
                }
                "probe" => asked.events.push(format!("probe:{}", value("probe")?)),
                "-p" => asked.aim_at_pid(value("pid")?)?,
                "-g" => asked.target = vec!["--cgroup".to_owned(), value("cgroup path")?.to_owned()],
                "-c" => asked.command = Some(value("command")?.to_owned()),
                "-o" => {
                    number("-o", words.next())?;
                    asked.notes.push("-o: all stacks are written".to_owned());
                }
                "-f" => asked.hz = number("-f", words.next())?,
                "-i" => asked.interval = number("-i", words.next())?,
                "-d" => asked.duration = Some(number("-d", words.next())?),
                "-u" => asked.user = true,
                "-k" => asked.kernel = true,
                "-T" => {
                    let resource = value("cpu, memory or io")?;
                    asked.trigger = Some(trigger(resource, words.next())?);
                }
                other => {
                    return Err(
                        usage(format_args!("{other}: Stack_Analyzer has no such argument"))
                            .with_remedy("see moonscope stack-analyzer --help"),
                    );
                }
            }
        }
        asked.check()
    }

    fn aim_at_pid(&mut self, text: &str) -> Result<(), Failure> {
        // these are all processes, by its help and by its code
        self.target = match text {
            "0" | "-1" => Vec::new(),
            _ => vec!["-p".to_owned(), number("-p", Some(text))?.to_string()],
        };
        Ok(())
    }

    fn check(mut self) -> Result<Self, Failure> {
        if self.events.is_empty() {
            return Err(usage("no collector")
                .with_remedy("name at least one: on_cpu off_cpu memleak io readahead llc_stat probe"));
        }
        if self.command.is_some() && !self.target.is_empty() {
            return Err(usage("-c cannot be used together with -p or -g").with_remedy("leave one out"));
        }
        if self.interval == 0 {
            return Err(usage("-i 0: an interval must last").with_remedy("use -i 1 or more"));
        }
        if self.hz == 0 {
            if self.events.iter().any(|event| event == "cpu") {
                return Err(usage("on_cpu -f 0: nothing would be sampled")
                    .with_remedy("leave -f out, or give a number"));
            }
            self.hz = Self::default().hz;
        }
        if self.kernel && self.events.iter().any(|event| event == "alloc") {
            self.notes
                .push("memleak -k: memory of the kernel is not measured, that of programs is".to_owned());
        }
        if self.kernel && !self.user {
            self.notes
                .push("-k without -u: user frames are there all the same".to_owned());
        }
        Ok(self)
    }

    /// The same in the words of `moonscope record`.
    fn record_line(&self) -> Vec<String> {
        let mut line = Vec::new();
        let mut add = |words: &[&str]| line.extend(words.iter().map(|word| (*word).to_owned()));
        for event in &self.events {
            add(&["-e", event]);
        }
        add(&["-F", &self.hz.to_string()]);
        let interval = format!("{}s", self.interval);
        match (&self.trigger, self.duration) {
            (Some(trigger), _) => {
                let count = u32::MAX.to_string();
                add(&["--trigger", trigger, "--trigger-count", &count, "-d", &interval]);
            }
            (None, Some(seconds)) => add(&["--interval", &interval, "-d", &format!("{seconds}s")]),
            (None, None) => add(&["--interval", &interval]),
        }
        if self.user && !self.kernel {
            add(&["--no-kernel"]);
        }
        add(&["-o", "-", "--format", "stack-analyzer"]);
        match (&self.command, self.target.is_empty()) {
            (Some(command), _) => add(&["--", "/bin/bash", "-c", command]),
            (None, true) => add(&["-a"]),
            (None, false) => line.extend(self.target.iter().cloned()),
        }
        line
    }
}

fn number(option: &str, text: Option<&str>) -> Result<u64, Failure> {
    let text = text.ok_or_else(|| usage(format_args!("{option}: a number is missing")))?;
    whole(.., "5")(text).map_err(|expected| usage(format_args!("{option} {text}: {expected}")))
}

/// `some 150000 1000000` of the kernel's PSI, with both in microseconds.
fn trigger(resource: &str, text: Option<&str>) -> Result<String, Failure> {
    let text = text.unwrap_or_default();
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    let is_resource = ["cpu", "memory", "io"].contains(&resource);
    match words[..] {
        [kind @ ("some" | "full"), stall, window]
            if is_resource && stall.parse::<u64>().is_ok() && window.parse::<u64>().is_ok() =>
        {
            Ok(format!("psi:{resource}:{kind}:{stall}us/{window}us"))
        }
        _ => Err(
            usage(format_args!("-T {resource} '{text}': no trigger of the kernel")).with_remedy(
                "such as -T cpu 'some 150000 1000000': 150 ms of waiting in one second; a window lasts 0.5 to 10 s",
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(arguments: &str) -> Result<String, String> {
        let words: Vec<_> = arguments.split(' ').map(|word| word.replace('~', " ")).collect();
        let asked = Asked::parse(&words).map_err(|failure| failure.lines().concat())?;
        Ok(quoted(&asked.record_line()))
    }

    #[test]
    fn each_collector_and_option_has_its_counterpart() {
        let out = "-o - --format stack-analyzer";
        for (theirs, ours) in [
            ("on_cpu", format!("-e cpu -F 49 --interval 5s {out} -a")),
            (
                "on_cpu off_cpu -p 4321 -u -k -i 2 -d 60 -f 99",
                format!("-e cpu -e offcpu -F 99 --interval 2s -d 60s {out} -p 4321"),
            ),
            (
                "-g /sys/fs/cgroup/web.slice io readahead -u",
                format!(
                    "-e io -e readahead -F 49 --interval 5s --no-kernel {out} --cgroup /sys/fs/cgroup/web.slice"
                ),
            ),
            (
                "memleak -W -p 4321 -u",
                format!("-e alloc -F 49 --interval 5s --no-kernel {out} -p 4321"),
            ),
            (
                "llc_stat -P 1000 -p -1",
                format!("-e cache-misses:1000 -e cache-references:1000 -F 49 --interval 5s {out} -a"),
            ),
            (
                "probe p:libc.so.6:malloc probe t:sched:sched_switch -c sleep~1;~ls",
                format!(
                    "-e probe:p:libc.so.6:malloc -e probe:t:sched:sched_switch -F 49 --interval 5s {out} \
                     -- /bin/bash -c 'sleep 1; ls'"
                ),
            ),
            (
                "off_cpu -T memory some~150000~1000000 -i 10 -o 20",
                format!(
                    "-e offcpu -F 49 --trigger psi:memory:some:150000us/1000000us --trigger-count 4294967295 -d 10s {out} -a"
                ),
            ),
        ] {
            assert_eq!(line(theirs), Ok(ours), "{theirs}");
        }
    }

    #[test]
    fn what_it_would_not_take_or_could_not_do_is_refused() {
        for (theirs, why) in [
            ("-p 1", "no collector"),
            ("on_cpu -f 0", "nothing would be sampled"),
            ("on_cpu -x", "no such argument"),
            ("on_cpu -i", "a number is missing"),
            ("on_cpu -i 0", "must last"),
            ("on_cpu -d soon", "-d soon: a whole number is expected, such as 5"),
            ("on_cpu -p 1 -c ls", "together"),
            ("on_cpu -T disk some~1~2", "no trigger"),
            ("on_cpu -T cpu much", "no trigger"),
            ("probe", "is missing"),
        ] {
            let found = line(theirs).unwrap_err();
            assert!(found.contains(why), "{theirs}: {found}");
        }
    }
}
