//! What a function's text must have in it: the names of its variables and the strings that it refers to.
//!
//! A prototype does not keep its text. But its debug information has the names of parameters, local variables and upvalues,
//! and its constants are the names of fields and globals and the strings of that text (lj_parse.c, fs_prep_var, fs_fixup_k):
//! a text without them is that of another function.

use crate::call_site::{info, string_constant, variables};
use crate::prototype::{Prototype, PrototypeError};
use crate::string::StrLayout;
use moonscope_process::RemoteMemory;

/// Constants and variables of one function that are compared; it is not compared if there are more.
const MAX_WORDS: usize = 4096;

/// The words that must be in the text of a function; `None` if that cannot be told: its names were stripped, or there are very
/// many.
pub fn words_of<M: RemoteMemory + ?Sized>(
    memory: &M,
    strings: &StrLayout,
    prototype: &Prototype,
) -> Result<Option<Vec<Vec<u8>>>, PrototypeError> {
    let identity = &prototype.identity;
    if identity.varinfo == 0 || identity.sizekgc as usize > MAX_WORDS {
        return Ok(None);
    }
    let mut words: Vec<Vec<u8>> = (0..identity.sizekgc)
        .filter_map(|index| string_constant(memory, strings, prototype, index))
        .collect();
    if identity.uvinfo != 0 {
        let upvalues = info(memory, prototype, identity.uvinfo)?;
        let names = upvalues.split(|byte| *byte == 0);
        words.extend(names.take(identity.sizeuv.into()).map(<[u8]>::to_vec));
    }
    let locals = info(memory, prototype, identity.varinfo)?;
    let names = variables(&locals).map(|variable| variable.name.to_vec());
    // those of loops have no name in the text, and `self` of a method has none
    words.extend(names.filter(|name| !name.starts_with(b"(") && name != b"self"));
    prototype.must_still_be(memory)?;
    Ok((words.len() <= MAX_WORDS).then_some(words))
}
