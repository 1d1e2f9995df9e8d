//! Names of other people's choice, fit for a terminal.
//!
//! A process can put escape sequences into its name, a path or an argument, which would move the cursor,
//! recolour or rewrite the lines above; bidirectional overrides make text read as another one. Whatever
//! prints a name that is not ours goes through here.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// Shows text with everything that is not a plain visible character written as an escape: `\n`,
/// `\x1b`, `\u{202e}`, and `\xff` for a byte that is no UTF-8. The same escapes as those of the crate that writes profiles.
pub fn visible(text: &(impl AsRef<OsStr> + ?Sized)) -> Visible<'_> {
    Visible(text.as_ref().as_bytes())
}

/// See [`visible`].
#[derive(Clone, Copy, Debug)]
pub struct Visible<'a>(&'a [u8]);

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                match char {
                    '\n' | '\r' | '\t' => write!(f, "{}", char.escape_default())?,
                    char if char.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(char))?,
                    char if is_invisible(char) => write!(f, "{}", char.escape_unicode())?,
                    char => write!(f, "{char}")?,
                }
            }
            chunk
                .invalid()
                .iter()
                .try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

/// Control characters, line separators, and the format characters that change direction or show nothing.
fn is_invisible(char: char) -> bool {
    char.is_control()
        || matches!(char,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_names_stay_as_they_are() {
        for name in ["nginx", "/opt/café/größe", "a b;c<d>", "名前"] {
            assert_eq!(visible(name).to_string(), name);
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_spelled_out() {
        assert_eq!(visible("\x1b[2Jx\r\n\t").to_string(), r"\x1b[2Jx\r\n\t");
        assert_eq!(visible("a\u{9b}31m").to_string(), r"a\u{9b}31m");
        assert_eq!(visible("gpj.\u{202e}exe").to_string(), r"gpj.\u{202e}exe");
        assert_eq!(
            visible(OsStr::from_bytes(b"a\xff\xfeb")).to_string(),
            r"a\xff\xfeb"
        );
    }

    proptest! {
        #[test]
        fn nothing_invisible_comes_out(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let out = visible(OsStr::from_bytes(&text)).to_string();
            prop_assert!(!out.chars().any(is_invisible));
        }
    }
}
