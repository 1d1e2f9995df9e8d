//! Names as people write them: C++ and Rust symbols demangled, everything bounded.
//!
//! Rust is tried first: its legacy names are valid C++ names (`_ZN…17h<hash>E`) and only lose their hash
//! as Rust. Output goes through a sink that stops at the limit, because a few substitutions or back
//! references in a hostile name can stand for gigabytes.

use crate::limits::{MAX_RAW_NAME, MAX_SHOWN_NAME};
use std::fmt::{self, Write};

/// The name to show for a symbol's bytes.
pub(crate) fn show(raw: &[u8], demangle: bool) -> String {
    let name = String::from_utf8_lossy(raw);
    let readable = if demangle { demangled(&name) } else { None };
    match readable {
        Some(readable) => readable,
        None => bounded(&name),
    }
}

/// Cuts a text at the limit.
pub(crate) fn bounded(text: &str) -> String {
    let mut sink = Bounded(String::new());
    // Fails exactly when the text is cut, which is what is wanted.
    let _ = sink.write_str(text);
    sink.finish()
}

fn demangled(name: &str) -> Option<String> {
    // A name that was cut when it was read is no mangled name any more.
    if name.len() >= MAX_RAW_NAME || !name.starts_with(['_', '.']) {
        return None;
    }
    rust(name).or_else(|| cpp(name)).or_else(|| cpp_beginning(name))
}

fn rust(name: &str) -> Option<String> {
    let symbol = rustc_demangle::try_demangle(name).ok()?;
    let mut sink = Bounded(String::new());
    // The alternate form leaves the hash out.
    let _ = write!(sink, "{symbol:#}");
    Some(sink.finish())
}

fn cpp(name: &str) -> Option<String> {
    // Only what the Itanium ABI (5.1) starts names with: `_init` is no mangled name.
    if !name.starts_with("_Z") && !name.starts_with("__Z") && !name.starts_with("_GLOBAL_") {
        return None;
    }
    let symbol = cpp_demangle::BorrowedSymbol::new(name.as_bytes()).ok()?;
    let mut sink = Bounded(String::new());
    let options = cpp_demangle::DemangleOptions::new();
    let written = symbol.structured_demangle(&mut sink, &options);
    // An error without a full sink: what stands in the sink is not the whole name.
    (written.is_ok() || sink.is_full())
        .then(|| sink.finish())
        .filter(|name| !name.is_empty())
}

/// The beginning of a C++ name that the demangler does not take: `std::swap<…>`. GCC mangles
/// `enable_if<__and_<…>::value>`, as in `std::swap`, in a way that the ABI's grammar does not have
/// (`srSt6__and_I…`). Only for a function template in a namespace or in none, where what comes first is
/// the whole path.
fn cpp_beginning(name: &str) -> Option<String> {
    let rest = name.strip_prefix("_Z")?;
    let (space, rest) = rest.strip_prefix("St").map_or(("", rest), |rest| ("std::", rest));
    let digits = rest.len() - rest.trim_start_matches(|byte: char| byte.is_ascii_digit()).len();
    let (len, rest) = rest.split_at(digits);
    let (function, rest) = rest.split_at_checked(len.parse().ok()?)?;
    (!function.is_empty() && rest.starts_with('I')).then(|| bounded(&format!("{space}{function}<…>")))
}

/// Takes text up to the limit, then refuses.
struct Bounded(String);

impl Bounded {
    fn is_full(&self) -> bool {
        self.0.len() > MAX_SHOWN_NAME
    }

    fn finish(mut self) -> String {
        if self.is_full() {
            let cut = (0..=MAX_SHOWN_NAME)
                .rev()
                .find(|&at| self.0.is_char_boundary(at))
                .unwrap_or(0);
            self.0.truncate(cut);
            self.0.push('…');
        }
        self.0
    }
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.is_full() {
            return Err(fmt::Error);
        }
        let room = (MAX_SHOWN_NAME + 1 - self.0.len()).min(text.len());
        let cut = (room..=text.len())
            .find(|&at| text.is_char_boundary(at))
            .unwrap_or(text.len());
        self.0.push_str(&text[..cut]);
        if self.is_full() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::show;

    #[test]
    fn rust_names_lose_their_hash_in_both_schemes() {
        assert_eq!(
            show(b"_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", true),
            "core::fmt::Formatter::pad"
        );
        // From the examples of RFC 2603.
        assert_eq!(show(b"_RNvC6_123foo3bar", true), "123foo::bar");
        assert_eq!(show(b"_RNvCs1234_7mycrate3foo", true), "mycrate::foo");
    }

    #[test]
    fn cpp_names_are_written_with_their_parameters() {
        assert_eq!(show(b"_ZN5space3fooEibc", true), "space::foo(int, bool, char)");
        assert_eq!(show(b"_ZN5space3fooEibc", false), "_ZN5space3fooEibc");
        assert_eq!(
            show(b"_ZN5space3fooEi.cold", true),
            "space::foo(int) [clone .cold]"
        );
    }

    #[test]
    fn a_cpp_name_that_is_not_understood_shows_its_beginning() {
        // From g++ 12: std::swap of a plain structure.
        let swap = "_ZSt4swapIN6shapes6SquareEENSt9enable_ifIXsrSt6__and_IJSt6__not_ISt15__is_tuple_likeIT_EE\
                    St21is_move_constructibleIS6_ESt18is_move_assignableIS6_EEE5valueEvE4typeERS6_SG_";
        assert!(show(swap.as_bytes(), true).contains("std::swap<"));
        for hopeless in [
            "_ZSt",
            "_ZSt4",
            "_ZSt99999999999999999999swapI",
            "_Z4swapI",
            "_ZN3fooI???E3barE",
        ] {
            let shown = show(hopeless.as_bytes(), true);
            assert!(shown == hopeless || shown == "swap<…>", "{shown}");
        }
    }

    #[test]
    fn plain_names_stay_as_they_are() {
        for name in [
            "_init",
            "__libc_start_main",
            "memcpy",
            "main.(*T).Run",
            "foo.constprop.0",
            "_Zebra",
            "",
        ] {
            assert_eq!(show(name.as_bytes(), true), name);
        }
    }

    #[test]
    fn hostile_names_are_cut() {
        let long = vec![b'a'; 1 << 20];
        assert!(show(&long, true).len() < 5000);
        // Each substitution doubles the text: P<pair<X, X>> thirty times.
        let mut bomb = String::from("_Z1f");
        bomb.push_str("St4pairIiiE");
        for level in 0..30u8 {
            let digit = if level == 0 {
                "_".to_owned()
            } else {
                format!("{}_", base36(level - 1))
            };
            bomb.push_str(&format!("St4pairIS{digit}S{digit}E"));
        }
        assert!(show(bomb.as_bytes(), true).len() < 5000);
        assert!(show("é".repeat(1 << 16).as_bytes(), true).len() < 5000);
        assert!(show(&[0xff; 1 << 16], true).len() < 5000);
        let nested = format!("_Z1f{}i", "P".repeat(15_000));
        assert!(show(nested.as_bytes(), true).len() < 20_000);
    }

    fn base36(n: u8) -> char {
        char::from(if n < 10 { b'0' + n } else { b'A' + n - 10 })
    }
}
