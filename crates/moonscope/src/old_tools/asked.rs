//! A command line of an old tool, word for word.

use std::ffi::{OsStr, OsString};

use super::options::{COMMON, Does, Old, Takes};
use crate::exit::{Code, Failure};
use crate::shell::quoted;

/// What was asked for.
#[derive(Default)]
pub struct Asked {
    /// What the tool is now.
    command: String,
    words: Vec<OsString>,
    /// A command to be started, with the `--` before it.
    behind: Vec<OsString>,
    wants_user: bool,
    wants_kernel: bool,
    dict: Option<OsString>,
    key: Option<OsString>,
    /// What has no meaning, or another one.
    pub remarks: Vec<String>,
}

fn usage(what: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Usage, what)
}

/// The option of this word, and a value that is in the same word.
fn option<'a>(options: &'static [Old], word: &'a str) -> Option<(&'static Old, Option<&'a str>)> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    let mut all = options.iter().chain(COMMON);
    let found = all.find(|old| old.name == name && (value.is_none() || old.takes == Takes::Value));
    found.map(|old| (old, value))
}

impl Asked {
    /// Takes the words behind the tool's name. Words that it did not have are left as they are.
    pub fn parse(
        name: &str,
        command: &str,
        options: &'static [Old],
        words: &[OsString],
    ) -> Result<Self, Failure> {
        let command = command.to_owned();
        let mut asked = Self {
            command,
            ..Self::default()
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                asked.behind = std::iter::once(word).chain(words).cloned().collect();
                break;
            }
            let text = word.to_str().unwrap_or_default();
            let mut next = || {
                let word = words.next().cloned();
                word.ok_or_else(|| usage(format_args!("{name}: {text}: a value is missing")))
            };
            if text == "--arg" || text.starts_with("--arg=") {
                let pair = match text.strip_prefix("--arg=") {
                    Some(pair) => pair.to_owned(),
                    None => next()?.to_string_lossy().into_owned(),
                };
                asked.argument(name, options, &pair)?;
            } else if let Some((old, value)) = option(options, text) {
                let value = match (old.takes, value) {
                    (Takes::Nothing, _) => OsString::new(),
                    (Takes::Value, Some(value)) => value.into(),
                    (Takes::Value, None) => next()?,
                };
                asked.take(name, old, old.name, value)?;
            } else if text.starts_with("-D") && text.len() > 2 {
                asked
                    .remarks
                    .push(format!("{text}: there is no SystemTap here that it could be for"));
            } else {
                asked.words.push(word.clone());
            }
        }
        asked.check(name)
    }

    /// `NAME=VALUE` of stapxx's `--arg`.
    fn argument(&mut self, name: &str, options: &'static [Old], pair: &str) -> Result<(), Failure> {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| usage(format_args!("{name}: --arg {pair}: not NAME=VALUE")))?;
        let old = options
            .iter()
            .find(|old| old.name.strip_prefix("arg ") == Some(key))
            .ok_or_else(|| {
                usage(format_args!("{name}: --arg {key}: it means nothing here"))
                    .with_remedy(format_args!("moonscope {name} --help has what is understood"))
            })?;
        self.take(name, old, &format!("--arg {key}"), value.into())
    }

    /// An option of its own or of all, as it was `typed`.
    fn take(&mut self, name: &str, old: &Old, typed: &str, value: OsString) -> Result<(), Failure> {
        match old.does {
            Does::Becomes(words) => self.words.extend(filled(words, &value)),
            Does::Replaces(words) => {
                let words = filled(words, &value).map(|word| word.to_string_lossy().into_owned());
                self.command = words.collect::<Vec<_>>().join(" ");
            }
            Does::User => self.wants_user = true,
            Does::Kernel => self.wants_kernel = true,
            Does::Dict => self.dict = Some(value),
            Does::Key => self.key = Some(value),
            Does::Remark(why) => self.remarks.push(format!("{typed}: {why}")),
            Does::Refused(why) => {
                return Err(usage(format_args!("{name}: {typed} is not to be had here")).with_remedy(why));
            }
        }
        Ok(())
    }

    fn check(mut self, name: &str) -> Result<Self, Failure> {
        match (self.wants_user, self.wants_kernel) {
            (true, false) => self.words.push("--no-kernel".into()),
            (false, true) => self
                .remarks
                .push("-k without -u: user frames are there all the same".to_owned()),
            _ => (),
        }
        match (&self.dict, &self.key) {
            (Some(dict), Some(key)) => {
                if !self.words.iter().any(|word| word == "--show-values") {
                    let shown = |word: &OsStr| word.to_string_lossy().into_owned();
                    return Err(usage(format_args!(
                        "{name}: values are shown with --show-values only, as they may be nobody's business"
                    ))
                    .with_remedy(format_args!(
                        "add it, or type: moonscope nginx shdict get {} --show-values",
                        quoted(&[shown(dict), shown(key)])
                    )));
                }
                self.command.push_str(" get");
            }
            (Some(dict), None) => self.words.extend(["-n".into(), dict.clone()]),
            (None, Some(_)) => {
                return Err(usage(format_args!("{name}: --key needs --dict")));
            }
            (None, None) => (),
        }
        Ok(self)
    }

    /// The same for moonscope, without its name.
    pub fn line(self) -> Vec<OsString> {
        let mut line: Vec<OsString> = self.command.split(' ').map(OsString::from).collect();
        if let (Some(dict), Some(key)) = (self.dict, self.key) {
            line.extend([dict, key]);
        }
        let is_record = self.command.starts_with("record ");
        if is_record && !self.words.iter().any(|word| is_option(word, "-o", "--output")) {
            line.extend(["-o".into(), "-".into()]);
            if !self
                .words
                .iter()
                .any(|word| is_option(word, "--format", "--format"))
            {
                line.extend(["--format".into(), "folded".into()]);
            }
        }
        line.extend(self.words);
        line.extend(self.behind);
        line
    }
}

/// Is it this option, also with its value in the same word?
fn is_option(word: &OsStr, short: &str, long: &str) -> bool {
    let word = word.to_string_lossy();
    word == long || word.starts_with(&format!("{long}=")) || word.starts_with(short)
}

/// The words with this value for `{}`.
fn filled<'a>(words: &'a str, value: &'a OsStr) -> impl Iterator<Item = OsString> + 'a {
    words.split(' ').map(move |word| match word.split_once("{}") {
        Some((before, after)) => {
            let mut word = OsString::from(before);
            word.push(value);
            word.push(after);
            word
        }
        None => word.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Meant, meant};
    use crate::shell::quoted;

    /// The line that it becomes, or why it does not.
    fn line(words: &str) -> Result<String, String> {
        let words = words.split(' ').map(|word| word.replace('~', " ").into());
        match meant(words) {
            Ok(Meant::Line(line)) => {
                let words = line.iter().map(|word| word.to_str().unwrap().to_owned());
                Ok(quoted(&words.collect::<Vec<_>>()))
            }
            Ok(Meant::Help(text)) => Err(text),
            Err(failure) => Err(failure.lines().join("\n")),
        }
    }

    #[test]
    fn old_command_lines_become_todays() {
        for (theirs, ours) in [
            ("moonscope ngx-active-reqs -p 4321", "nginx requests -p 4321"),
            ("/opt/ngx-active-reqs -m -p 4321", "nginx requests -p 4321"),
            ("lj-gc.sxx -x 4321 -D MAXACTION=10000", "lua gc -p 4321"),
            (
                "moonscope lj-gc-objs.sxx -x=4321 --who",
                "lua objects -p 4321 --who",
            ),
            (
                "moonscope ngx-shm -p 4321 -n dogs --format orig",
                "nginx shm -p 4321 -n dogs --format orig",
            ),
            (
                "ngx-header-filters -p 4321",
                "nginx filters --chain=header -p 4321",
            ),
            (
                "ngx-lua-shdict -p 4321 -f --dict dogs --key=Jim --luajit20 --show-values",
                "nginx shdict get dogs Jim -p 4321 --show-values",
            ),
            (
                "ngx-lua-shdict --dict dogs -p 4321",
                "nginx shdict -p 4321 -n dogs",
            ),
            ("lj-lua-bt --luajit20 -p 4321", "stack -p 4321"),
            ("check-debug-info -p 4321", "doctor -p 4321"),
            (
                "sample-bt -p 4321 -t 5 -u",
                "record -e cpu -o - --format folded -p 4321 -d 5 --no-kernel",
            ),
            (
                "sample-bt -p 4321 -t 5 -u -k -o a.svg",
                "record -e cpu -p 4321 -d 5 -o a.svg",
            ),
            (
                "sample-bt -u -k -t 5 --format=stack-analyzer -- sleep -t 5",
                "record -e cpu -o - -d 5 --format=stack-analyzer -- sleep -t 5",
            ),
            (
                "sample-bt-off-cpu -p 4321 -t 10 --min=1 -l 1000 -a -DMAXACTION=100000",
                "record -e offcpu -o - --format folded -p 4321 -d 10 --min-block 1us",
            ),
            (
                "sample-bt-vfs -r --latency -p 4321 -t 3",
                "record -e io -o - --format folded --value io_time -p 4321 -d 3",
            ),
            (
                "lj-lua-stacks.sxx --arg time=5 --arg=nojit=1 --inline -x 4321",
                "record -e cpu -o - --format folded -d 5 --inline -p 4321",
            ),
            (
                "epoll-loop-blocking.sxx -x 4321 --arg time=20 --arg limit=100",
                "record -e lua-loop:100ms -o - --format folded -p 4321 -d 20",
            ),
        ] {
            assert_eq!(line(theirs), Ok(ours.to_owned()), "{theirs}");
            crate::tests::assert_parses(ours);
        }
    }

    #[test]
    fn lines_without_an_old_name_stay_as_they_are() {
        for words in [
            "record -p 4321 -d 5",
            "/usr/bin/ngx-shm",
            "nginx ngx-active-reqs",
            "--version",
        ] {
            assert_eq!(line(&format!("/usr/bin/moonscope {words}")), Ok(words.to_owned()));
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_what_to_type() {
        for (theirs, what, remedy) in [
            ("ngx-active-reqs -c 5 -p 1", "-c is not to be had", "--json"),
            ("ngx-active-reqs -c", "a value is missing", ""),
            (
                "ngx-lua-shdict -f --dict dogs --key Jim -p 1",
                "with --show-values only",
                "get dogs Jim --show-values",
            ),
            ("ngx-lua-shdict --key Jim", "--key needs --dict", ""),
            ("ngx-lua-bt --lua51 -p 1", "--lua51 is not to be had", "PUC"),
            ("sample-bt -d -p 1", "-d is not to be had", "-t SECONDS"),
            (
                "sample-bt-off-cpu --distr -p 1",
                "--distr is not to be had",
                "stacks",
            ),
            (
                "lj-lua-stacks --arg probe=x -x 1",
                "--arg probe is not to be had",
                "-e probe:SPEC",
            ),
            (
                "lj-lua-stacks --arg speed=1 -x 1",
                "--arg speed: it means nothing",
                "lj-lua-stacks --help",
            ),
            ("lj-lua-stacks --arg time", "not NAME=VALUE", ""),
            (
                "func-latency-distr -x 1",
                "something else",
                "moonscope record -p PID -e probe:",
            ),
            ("ngx-leaked-pools -p 1", "not there yet", ""),
            ("fix-lua-bt a.bt", "no meaning any more", "from the beginning"),
        ] {
            let failure = line(theirs).unwrap_err();
            assert!(
                failure.contains(what) && failure.contains(remedy),
                "{theirs}: {failure}"
            );
        }
    }
}
