//! nginx's own table of variables (`ngx_http_core_variables`, src/http/ngx_http_variables.c), found in the data of the program.
//!
//! An `ngx_http_variable_t` is: name (length, address), set_handler, get_handler, data, flags, index; 56 bytes in all versions
//! since 0.8. For variables that are a field of the request, `data` is its offset (`offsetof`); the handlers of others are small
//! functions that read fields. The table itself is static, so it is looked for: by its names.

use std::collections::HashMap;

use moonscope_process::RemoteMemory;

use crate::block::string;
use crate::image::Image;

const SIZE: usize = 56;
/// Bytes of data that are looked through.
const MAX_DATA: u64 = 16 << 20;
/// Names that are looked for are shorter.
const MAX_NAME: u64 = 32;

/// A variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Address of `get_handler`.
    pub(crate) get: u64,
    /// `data`: an offset, or what the handler makes of it.
    pub(crate) data: u64,
}

/// Variables of nginx's HTTP core, by name.
#[derive(Debug, Default)]
pub(crate) struct Variables(HashMap<String, Variable>);

/// The one that the table is found by: a stream module has a table too, and it has none of this name.
const FOUND_BY: &str = "request_uri";

impl Variables {
    /// Looks for the table.
    pub(crate) fn find(memory: &impl RemoteMemory, image: &Image) -> Self {
        for range in image.writable() {
            let len = (range.end - range.start).min(MAX_DATA);
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            if memory.read_exact(range.start, &mut bytes).is_err() {
                continue;
            }
            let entry = |at: usize| Entry::read(memory, image, bytes.get(at..at.checked_add(SIZE)?)?);
            let is_one = |at: &usize| {
                let len = bytes.get(*at..*at + 8);
                len == Some(&(FOUND_BY.len() as u64).to_le_bytes())
                    && entry(*at).is_some_and(|entry| entry.name == FOUND_BY)
            };
            let Some(start) = (0..bytes.len()).step_by(8).find(is_one) else {
                continue;
            };
            let before = (1..).map_while(|number| entry(start.checked_sub(number * SIZE)?));
            let after = (0..).map_while(|number: usize| entry(start + number * SIZE));
            let all = before.chain(after);
            return Self(all.map(|entry| (entry.name, entry.variable)).collect());
        }
        Self::default()
    }

    /// The variable of this name.
    pub(crate) fn get(&self, name: &str) -> Option<Variable> {
        self.0.get(name).copied()
    }
}

struct Entry {
    name: String,
    variable: Variable,
}

impl Entry {
    fn read(memory: &impl RemoteMemory, image: &Image, bytes: &[u8]) -> Option<Self> {
        let word = |number: usize| {
            let bytes = bytes.get(8 * number..8 * number + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let (len, get) = (word(0)?, word(3)?);
        if len == 0 || len >= MAX_NAME || !image.is_code(get) {
            return None;
        }
        let name = String::from_utf8(string(memory, len, word(1)?)).ok()?;
        let is_name = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        is_name.then_some(Self {
            name,
            variable: Variable { get, data: word(4)? },
        })
    }
}
