//! Names of a Go program's functions, from the table that its runtime unwinds by: `go build -ldflags "-s -w"` removes the
//! symbols and not these.

use crate::gopclntab::GoTable;
use crate::sections;

/// A longer name is cut. The linker of Go makes none: generic ones are shortened (`main.sum[...]`).
const MAX_NAME: usize = 4096;

/// Where functions start, and what they are called.
#[derive(Debug)]
pub struct GoNames {
    /// Sorted; where the function ends the next one starts, and behind the last one is its end.
    starts: Vec<u64>,
    /// Where each one's name is in `names`.
    places: Vec<u32>,
    /// Each ends with a zero.
    names: Box<[u8]>,
}

impl GoNames {
    /// Reads the table of the file `data`; `None` if it is no Go program, or of a version that is not known.
    pub fn read(data: &[u8]) -> Option<Self> {
        let sections = sections::find(data).ok()?;
        let table = GoTable::parse(&sections.gopclntab?)?;
        let (mut starts, mut places) = (Vec::new(), Vec::new());
        for n in 0..table.len() {
            let ((start, _), Some(place)) = (table.range(n)?, table.name_place(n)) else {
                return None;
            };
            starts.push(start);
            places.push(place);
        }
        starts.push(table.range(table.len() - 1)?.1);
        starts.is_sorted().then(|| Self {
            starts,
            places,
            names: table.names().into(),
        })
    }

    /// Start and name of the function that has the code at a file virtual address.
    pub fn at(&self, vaddr: u64) -> Option<(u64, String)> {
        let n = self
            .starts
            .partition_point(|&start| start <= vaddr)
            .checked_sub(1)?;
        let name = self.names.get(*self.places.get(n)? as usize..)?;
        let name = &name[..name.len().min(MAX_NAME)];
        let name = name.split(|&byte| byte == 0).next()?;
        (!name.is_empty()).then(|| (self.starts[n], String::from_utf8_lossy(name).into_owned()))
    }

    /// Memory that this needs, in bytes.
    pub fn bytes(&self) -> usize {
        8 * self.starts.len() + 4 * self.places.len() + self.names.len()
    }
}
