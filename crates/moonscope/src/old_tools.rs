//! The names of openresty-systemtap-toolkit and stapxx: `moonscope ngx-active-reqs -p 4321`, or moonscope called under
//! that name, becomes a command line of today.

mod asked;
mod names;
mod options;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use asked::Asked;
use moonscope_process::{Pid, list, process};
use moonscope_profile::visible;
pub use names::{Now, TOOLS, Tool};
use options::{COMMON, Does, Old, Takes};

use crate::exit::{Code, Failure, tell};
use crate::shell::quoted;

/// What a command line with an old name asks for.
pub enum Meant {
    /// This, without our own name. It is the line that was typed if there is no old name in it.
    Line(Vec<OsString>),
    /// What the tool is now.
    Help(String),
}

/// The command line of today. `words` has the name that we are called under, too.
pub fn meant(mut words: impl Iterator<Item = OsString>) -> Result<Meant, Failure> {
    let called = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    let (tool, rest) = match (tool(&called), words.first()) {
        (Some(tool), _) => (tool, &words[..]),
        (None, Some(first)) => match tool_of(first) {
            Some(tool) => (tool, &words[1..]),
            None => return Ok(Meant::Line(words)),
        },
        (None, None) => return Ok(Meant::Line(words)),
    };
    let Now::Is { command, options } = tool.now else {
        return Err(tool.refusal());
    };
    let mut ours = rest.iter().take_while(|word| *word != "--");
    if ours.any(|word| word == "-h" || word == "--help") {
        return Ok(Meant::Help(help(tool.name, command, options)));
    }
    let asked = Asked::parse(tool.name, command, options, rest)?;
    for remark in &asked.remarks {
        tell!("moonscope: {}", visible(remark));
    }
    let mut line = asked.line();
    if tool.name.starts_with("ngx-") && !command.starts_with("nginx ") {
        line = with_workers(line);
    }
    if command.starts_with("record") {
        let words = line.iter().map(|word| word.to_string_lossy().into_owned());
        tell!("moonscope {}", visible(&quoted(&words.collect::<Vec<_>>())));
    }
    Ok(Meant::Line(line))
}

/// The tool of this path: a link to us.
fn tool(called: &OsStr) -> Option<&'static Tool> {
    Path::new(called).file_name().and_then(tool_of)
}

/// The same with the workers of an nginx beside its master, for which some scripts took it. The views of `moonscope nginx`
/// find them by themselves.
fn with_workers(line: Vec<OsString>) -> Vec<OsString> {
    let (mut all, mut is_pid) = (Vec::new(), false);
    let mut line = line.into_iter();
    while let Some(word) = line.next() {
        if word == "--" {
            // what follows is somebody else's
            all.push(word);
            all.extend(line);
            break;
        }
        let master = word
            .to_str()
            .filter(|_| is_pid)
            .and_then(|word| word.parse().ok());
        is_pid = word == "-p" || word == "--pid";
        all.push(word);
        for worker in master.map_or_else(Vec::new, workers_of) {
            all.extend(["-p".into(), worker.to_string().into()]);
        }
    }
    all
}

/// Workers, if this process is a master: nginx says in their titles what they are.
fn workers_of(master: Pid) -> Vec<Pid> {
    let is = |pid: Pid, title: &str| {
        process::cmdline(pid).is_ok_and(|words| {
            words
                .first()
                .is_some_and(|word| word.starts_with(title.as_bytes()))
        })
    };
    if !is(master, "nginx: master process") {
        return Vec::new();
    }
    let all = list::processes().unwrap_or_default();
    let children = all.iter().filter(|process| process.parent == master);
    let mut workers: Vec<Pid> = children.map(|process| process.pid).collect();
    workers.retain(|pid| is(*pid, "nginx: worker process"));
    workers
}

/// Scripts of stapxx end in `.sxx`.
fn tool_of(name: &OsStr) -> Option<&'static Tool> {
    let name = name.to_str()?;
    let name = name.strip_suffix(".sxx").unwrap_or(name);
    TOOLS.iter().find(|tool| tool.name == name)
}

impl Tool {
    /// In one line, what it is now.
    pub fn described(&self) -> String {
        match self.now {
            Now::Is { command, .. } => format!("moonscope {command}"),
            Now::Instead(command, how) => format!("moonscope {command}: {how}"),
            Now::NotYet(Some(near)) => format!("not there yet; near to it: moonscope {near}"),
            Now::NotYet(None) => "not there yet".to_owned(),
            Now::Never(why) => format!("no meaning any more: {why}"),
        }
    }

    /// Why it does not run.
    fn refusal(&self) -> Failure {
        let name = self.name;
        let new = |what: &str| Failure::new(Code::Usage, format_args!("{name}: {what}"));
        match self.now {
            Now::Is { command, .. } => {
                new("it is another command now").with_remedy(format_args!("moonscope {command}"))
            }
            Now::Instead(command, how) => {
                new("there is something else for it").with_remedy(format_args!("moonscope {command}\n{how}"))
            }
            Now::NotYet(Some(near)) => {
                new("it is not there yet").with_remedy(format_args!("near to it: moonscope {near}"))
            }
            Now::NotYet(None) => {
                new("it is not there yet").with_remedy("moonscope list tools has those that are")
            }
            Now::Never(why) => new("it has no meaning any more").with_remedy(why),
        }
    }
}

fn help(name: &str, command: &str, options: &[Old]) -> String {
    let mut text = format!("{name} is now: moonscope {command}\n\nOptions that it had:\n");
    for old in options.iter().chain(COMMON) {
        let option = match old.name.strip_prefix("arg ") {
            Some(key) => format!("--arg {key}=VALUE"),
            None if old.takes == Takes::Value => format!("{} VALUE", old.name),
            None => old.name.to_owned(),
        };
        let does = match old.does {
            Does::Becomes(words) => words.replace("{}", "VALUE"),
            Does::Replaces(words) => format!("moonscope {}", words.replace("{}", "VALUE")),
            Does::User => "--no-kernel, unless -k is given too".to_owned(),
            Does::Kernel => "kernel frames, as without it".to_owned(),
            Does::Dict => "get VALUE, together with --key".to_owned(),
            Does::Key => "the key for --dict; it takes --show-values".to_owned(),
            Does::Remark(why) => format!("nothing: {why}"),
            Does::Refused(why) => format!("refused: {why}"),
        };
        text += &format!("  {option:<22} {does}\n");
    }
    let verb = command.split(" -").next().unwrap_or(command);
    text + &format!(
        "\nThose of moonscope {verb} --help are understood too, but for -a, -c and -d where the old tool has them.\n"
    )
}
