//! What a person asks to be probed: `malloc`, `p:libc:malloc`, `p::vfs_read`, `t:sched:sched_switch`, `u:libc:libc:setjmp`.

use super::names::Pattern;

/// What is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// A function of the target if it has one of this name, else of the kernel.
    Function(Place),
    /// A function of a file.
    User {
        /// The file: its path, its name or how that begins.
        file: String,
        /// The function.
        function: Place,
    },
    /// A function of the kernel.
    Kernel(Place),
    /// A tracepoint.
    Tracepoint {
        /// Its group.
        group: Pattern,
        /// Its name.
        name: Pattern,
    },
    /// A USDT probe.
    Usdt {
        /// The file; `None`: each that the target maps.
        file: Option<String>,
        /// Who provides it; `None`: anybody.
        provider: Option<Pattern>,
        /// Its name.
        name: Pattern,
    },
}

/// A function, or an instruction in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: Pattern,
    /// Bytes from its beginning on.
    pub offset: u64,
}

/// What can stand behind `probe:`.
pub const EXPECTED: &str =
    "FUNCTION, p:FILE:FUNCTION, p::KERNEL_FUNCTION, t:GROUP:EVENT or u:FILE:PROVIDER:PROBE";

impl Spec {
    /// Takes it apart; `None`: it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':').unwrap_or(("", text));
        if text.is_empty() || text.contains(char::is_whitespace) {
            return None;
        }
        match kind {
            "" if !text.contains(':') => Place::parse(text).map(Self::Function),
            "p" => match rest.split_once(':') {
                Some(("", function)) => Place::parse(function).map(Self::Kernel),
                Some((file, function)) => Self::user(file, function),
                None => None,
            },
            "kprobe" => Place::parse(rest.trim_start_matches(':')).map(Self::Kernel),
            "uprobe" => rest
                .split_once(':')
                .and_then(|(file, function)| Self::user(file, function)),
            "t" | "tracepoint" => {
                let (group, name) = rest.split_once(':')?;
                Some(Self::Tracepoint {
                    group: Pattern::new(group)?,
                    name: Pattern::new(name)?,
                })
            }
            "u" | "usdt" => {
                let mut parts = rest.split(':');
                let file = parts.next()?;
                let (provider, name) = match (parts.next()?, parts.next()) {
                    (provider, Some(name)) => (Pattern::new(provider), name),
                    (name, None) => (None, name),
                };
                let name = Pattern::new(name)?;
                parts.next().is_none().then(|| Self::Usdt {
                    file: (!file.is_empty()).then(|| file.to_owned()),
                    provider,
                    name,
                })
            }
            file => Self::user(file, rest),
        }
    }

    fn user(file: &str, function: &str) -> Option<Self> {
        (!file.is_empty()).then_some(())?;
        Some(Self::User {
            file: file.to_owned(),
            function: Place::parse(function)?,
        })
    }

    /// Has it a beginning and an end?
    pub fn is_timed(&self) -> bool {
        match self {
            Self::Function(place) | Self::User { function: place, .. } | Self::Kernel(place) => {
                place.offset == 0
            }
            Self::Tracepoint { .. } | Self::Usdt { .. } => false,
        }
    }
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let (name, offset) = match text.rsplit_once('+') {
            Some((name, offset)) => {
                let offset = match offset.strip_prefix("0x") {
                    Some(hex) => u64::from_str_radix(hex, 16).ok()?,
                    None => offset.parse().ok()?,
                };
                (name, offset)
            }
            None => (text, 0),
        };
        Some(Self {
            name: Pattern::new(name)?,
            offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, offset: u64) -> Place {
        Place {
            name: Pattern::new(name).unwrap(),
            offset,
        }
    }

    #[test]
    fn all_forms_of_stack_analyzer_and_the_longer_ones_are_understood() {
        let user = |file: &str, name: &str| {
            Some(Spec::User {
                file: file.to_owned(),
                function: place(name, 0),
            })
        };
        let cases = [
            ("malloc", Some(Spec::Function(place("malloc", 0)))),
            ("malloc+0x10", Some(Spec::Function(place("malloc", 16)))),
            ("p::vfs_read", Some(Spec::Kernel(place("vfs_read", 0)))),
            ("kprobe:vfs_read", Some(Spec::Kernel(place("vfs_read", 0)))),
            ("libc:malloc", user("libc", "malloc")),
            ("p:libc:malloc", user("libc", "malloc")),
            (
                "uprobe:/usr/lib/libc.so.6:mem*",
                user("/usr/lib/libc.so.6", "mem*"),
            ),
            (
                "t:sched:sched_switch",
                Some(Spec::Tracepoint {
                    group: Pattern::new("sched").unwrap(),
                    name: Pattern::new("sched_switch").unwrap(),
                }),
            ),
            (
                "u:libc:setjmp",
                Some(Spec::Usdt {
                    file: Some("libc".to_owned()),
                    provider: None,
                    name: Pattern::new("setjmp").unwrap(),
                }),
            ),
            (
                "usdt::libstdcxx:throw",
                Some(Spec::Usdt {
                    file: None,
                    provider: Pattern::new("libstdcxx"),
                    name: Pattern::new("throw").unwrap(),
                }),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Spec::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_spec_is_refused() {
        for text in [
            "",
            ":",
            "p:",
            "p:libc",
            "p::",
            "p:libc:",
            "t:sched",
            "t::x",
            "u:libc",
            "u:a:b:c:d",
            "f+x",
            "two words",
            "f+0xfffffffffffffffff",
        ] {
            assert_eq!(Spec::parse(text), None, "{text}");
        }
    }
}
