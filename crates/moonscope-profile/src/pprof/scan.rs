//! The outermost message field by field, without building all of it in memory first.

use std::ops::Range;

use crate::error::ReadError;

/// A field of the outermost message.
pub(super) struct Field<'a> {
    pub number: u64,
    pub value: Value<'a>,
    /// Where it is in the input.
    pub offset: usize,
}

/// What a field holds.
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Field<'_> {
    pub fn error(&self, what: impl Into<String>) -> ReadError {
        ReadError::Pprof {
            offset: self.offset,
            what: what.into(),
        }
    }
}

/// Goes through the fields of a message.
pub(super) struct Fields<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0 }
    }

    fn error(&self, what: &str) -> ReadError {
        ReadError::Pprof {
            offset: self.at,
            what: what.to_owned(),
        }
    }

    fn varint(&mut self) -> Result<u64, ReadError> {
        let mut value = 0u64;
        for (nr, byte) in self.input[self.at..].iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * nr);
            if byte & 0x80 == 0 {
                self.at += nr + 1;
                return Ok(value);
            }
        }
        Err(self.error("not a pprof message: a number does not end"))
    }

    fn take(&mut self, len: u64) -> Result<Range<usize>, ReadError> {
        let start = self.at;
        let left = (self.input.len() - start) as u64;
        if len > left {
            return Err(self.error("the file ends in the middle of a field"));
        }
        self.at += len as usize;
        Ok(start..self.at)
    }

    fn field(&mut self) -> Result<Field<'a>, ReadError> {
        let offset = self.at;
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Bytes(&self.input[self.take(8)?]),
            2 => {
                let len = self.varint()?;
                Value::Bytes(&self.input[self.take(len)?])
            }
            5 => Value::Bytes(&self.input[self.take(4)?]),
            _ => {
                return Err(ReadError::Pprof {
                    offset,
                    what: "not a pprof message: no such type of field".to_owned(),
                });
            }
        };
        Ok(Field {
            number: key >> 3,
            value,
            offset,
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.input.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.input.len();
        }
        Some(field)
    }
}
