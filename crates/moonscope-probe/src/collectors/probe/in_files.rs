//! Functions and USDT probes in the files of the target.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::names::{Pattern, nearest};
use super::plan::{At, MAX_SITES_LOOKED_AT, Plan, Returns, Search, Site};
use super::spec::Place;
use super::{kernel, usdt};
use crate::breakpoints::exits;
use crate::breakpoints::files::TargetFile;
use crate::breakpoints::functions::{self, Function, Functions};
use crate::error::ProbeError;

impl Search<'_> {
    /// A function of the target's program, else of its libraries, else of the kernel.
    pub(super) fn add_function(&self, place: &Place, plan: &mut Plan) -> Result<(), ProbeError> {
        let programs = self.files.programs();
        if self.add_user(&programs, place, plan)? {
            return Ok(());
        }
        let libraries = self.files.libraries();
        if self.add_user(&libraries, place, plan)? {
            return Ok(());
        }
        if kernel::functions().iter().any(|name| place.name.matches(name)) {
            return self.add_kernel(place, plan);
        }
        let all: Vec<TargetFile> = programs.into_iter().chain(libraries).collect();
        Err(self.no_function(&all, place))
    }

    pub(super) fn files_named(&self, name: &str) -> Result<Vec<TargetFile>, ProbeError> {
        let files = self.files.named(name);
        if !files.is_empty() {
            return Ok(files);
        }
        let names: BTreeSet<String> = self.files.names().into_iter().collect();
        let near = nearest(name, names.iter().map(String::as_str));
        let remedy = if !near.is_empty() {
            format!("it maps {}", near.join(", "))
        } else if names.is_empty() {
            "give the path of the file: p:/usr/lib/…/libc.so.6:malloc".to_owned()
        } else {
            let some: Vec<&str> = names.iter().map(String::as_str).take(12).collect();
            format!(
                "it maps {}; a file that is not mapped yet needs its path",
                some.join(", ")
            )
        };
        Err(self.refused(format!("the target maps no file `{name}`"), remedy))
    }

    /// False: these files have no such function.
    pub(super) fn add_user(
        &self,
        files: &[TargetFile],
        place: &Place,
        plan: &mut Plan,
    ) -> Result<bool, ProbeError> {
        let mut found = false;
        for file in files {
            let functions = functions::functions(&file.executable);
            let mut seen = BTreeSet::new();
            for function in functions
                .all
                .iter()
                .filter(|function| place.name.matches(&function.name))
            {
                if function.is_chosen {
                    if place.name.is_open() {
                        continue;
                    }
                    return Err(self.chosen_when_started(&functions.all, function));
                }
                // several names of one place
                if !seen.insert(function.offset) {
                    continue;
                }
                if !functions::is_instruction(&file.executable, function, place.offset) {
                    return Err(self.refused(
                        format!(
                            "no instruction begins {:#x} bytes from {}",
                            place.offset, function.name
                        ),
                        format!("objdump -d --disassemble={} shows where they do", function.name),
                    ));
                }
                let site = self.user_site(file, &functions, function, place.offset, &mut plan.remarks);
                plan.sites.push(site);
                found = true;
                // refused above, and analysing each would take its time
                if plan.sites.len() > MAX_SITES_LOOKED_AT {
                    return Ok(true);
                }
            }
            if found && functions.is_go && self.returns != Returns::NotAwaited {
                plan.remarks.push(format!(
                    "{} is Go, whose stacks move: calls are counted, and their time is not measured",
                    file.executable.name()
                ));
            }
        }
        Ok(found)
    }

    fn user_site(
        &self,
        file: &TargetFile,
        all: &Functions,
        function: &Function,
        offset: u64,
        remarks: &mut Vec<String>,
    ) -> Site {
        let is_awaited = offset == 0 && !all.is_go && self.returns != Returns::NotAwaited;
        let exits = match self.returns {
            Returns::Found if is_awaited => {
                exits::exits(&file.executable, all, function).map(|exits| exits.into_keys().collect())
            }
            _ => Ok(Vec::new()),
        };
        if let Err(reason) = &exits {
            remarks.push(format!(
                "calls of {} are counted, and their time is not measured: {reason} (--replace-returns measures it, where the \
                 program can stand that)",
                moonscope_process::visible(&function.name)
            ));
        }
        let name = match offset {
            0 => function.name.clone(),
            offset => format!("{}+{offset:#x}", function.name),
        };
        Site {
            spec: self.number,
            name,
            is_timed: is_awaited && exits.is_ok(),
            at: At::User {
                file: Arc::clone(&file.executable),
                offset: function.offset + offset,
                counter: 0,
                exits: exits.unwrap_or_default(),
                others: file.others,
            },
        }
    }

    /// What has a breakpoint there runs once, when the program starts.
    fn chosen_when_started(&self, all: &[Function], asked: &Function) -> ProbeError {
        let variants = all.iter().filter(|function| !function.is_chosen);
        // __memcpy_avx_unaligned_erms; what is behind `_chk` is a name for one of several too
        let is_variant = |name: &&str| {
            let rest = name.trim_start_matches('_').strip_prefix(&asked.name);
            rest.is_some_and(|rest| rest.starts_with('_') && rest != "_chk")
        };
        let names: BTreeSet<&str> = variants
            .map(|function| function.name.as_str())
            .filter(is_variant)
            .collect();
        let names: Vec<&str> = names.into_iter().take(8).collect();
        let remedy = match names[..] {
            [] => "its variants have no names in this file".to_owned(),
            ref names => format!("probe the one that this processor uses: {}", names.join(", ")),
        };
        self.refused(
            format!(
                "{} stands for one of several functions, chosen when the program starts",
                asked.name
            ),
            remedy,
        )
    }

    pub(super) fn no_function(&self, files: &[TargetFile], place: &Place) -> ProbeError {
        let mut names = BTreeSet::new();
        for file in files {
            names.extend(
                functions::functions(&file.executable)
                    .all
                    .into_iter()
                    .map(|function| function.name),
            );
        }
        let where_to: Vec<&str> = files.iter().map(|file| file.executable.name()).take(4).collect();
        let reason = match where_to[..] {
            [] => format!("there is no function `{}`", place.name.text()),
            ref names => format!(
                "there is no function `{}` in {}{}",
                place.name.text(),
                names.join(", "),
                if files.len() > names.len() { ", …" } else { "" }
            ),
        };
        let near = nearest(place.name.text(), names.iter().map(String::as_str));
        let remedy = if !near.is_empty() {
            format!("there is {}", near.join(", "))
        } else if names.is_empty() && !files.is_empty() {
            "it has no symbols (stripped)".to_owned()
        } else if self.files.is_empty() {
            "name the file: p:FILE:FUNCTION".to_owned()
        } else {
            "p:FILE:FUNCTION looks in another file; `*` stands for any part of a name".to_owned()
        };
        self.refused(reason, remedy)
    }

    pub(super) fn add_usdt(
        &self,
        file: Option<&str>,
        provider: Option<&Pattern>,
        name: &Pattern,
        plan: &mut Plan,
    ) -> Result<(), ProbeError> {
        let files = match file {
            Some(file) => self.files_named(file)?,
            None => {
                let mut files = self.files.programs();
                files.extend(self.files.libraries());
                files
            }
        };
        let mut all = BTreeSet::new();
        let before = plan.sites.len();
        for file in &files {
            for site in usdt::sites(&file.executable) {
                let full_name = format!("{}:{}", site.provider, site.name);
                let is_meant = name.matches(&site.name)
                    && provider.is_none_or(|provider| provider.matches(&site.provider));
                if is_meant {
                    plan.sites.push(Site {
                        spec: self.number,
                        name: full_name.clone(),
                        is_timed: false,
                        at: At::User {
                            file: Arc::clone(&file.executable),
                            offset: site.offset,
                            counter: site.counter,
                            exits: Vec::new(),
                            others: file.others,
                        },
                    });
                }
                all.insert(full_name);
            }
        }
        if plan.sites.len() > before {
            return Ok(());
        }
        let asked = match provider {
            Some(provider) => format!("{}:{}", provider.text(), name.text()),
            None => name.text().to_owned(),
        };
        let near = nearest(&asked, all.iter().map(String::as_str));
        let some: Vec<&str> = all.iter().map(String::as_str).take(12).collect();
        let remedy = if !near.is_empty() {
            format!("there is {}", near.join(", "))
        } else if some.is_empty() {
            "no file that was looked at has any (section .note.stapsdt): was it built with <sys/sdt.h>?"
                .to_owned()
        } else {
            format!(
                "there is {}{}",
                some.join(", "),
                if all.len() > some.len() { ", …" } else { "" }
            )
        };
        Err(self.refused(format!("there is no USDT probe `{asked}`"), remedy))
    }
}
