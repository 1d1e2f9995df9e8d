//! Filters of answers and of the bodies of requests, in the order in which they run.
//!
//! A chain begins with an exported variable (`ngx_http_top_header_filter`) and goes from filter to filter through a static
//! variable of each. The live process says what these hold now; what modules do when they are set up ([`crate::setup`]) says
//! whose each filter is and which variable is its own. A chain is shown only if each of its links is a filter that a module sets
//! up, and if it ends with one that keeps none behind it.

use std::collections::HashSet;

use moonscope_process::RemoteMemory;

use crate::error::NginxError;
use crate::handlers::Function;
use crate::setup::{Chain, Next, Setup, Tops};
use crate::worker::Worker;

/// No build has as many.
const MAX_FILTERS: usize = 512;

/// A filter.
pub type Filter = Function;

/// The addresses of the filters of a chain, and whose they are.
fn walk(
    memory: &impl RemoteMemory,
    chain: Chain,
    top: u64,
    setup: &Setup,
    place: impl Fn(u64) -> String,
) -> Result<Vec<(u64, usize)>, NginxError> {
    let field = chain.next();
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut variable = top;
    loop {
        let filter = memory.read_u64(variable)?;
        if filter == 0 && variable == top {
            // no configuration of HTTP was read
            return Ok(found);
        }
        let (module, next) = match setup.filter(chain, filter)[..] {
            [only] => only,
            [] => {
                let why = format!("no module sets up the filter {}", place(filter));
                return Err(NginxError::layout(field, why));
            }
            _ => {
                let why = format!("several modules set up the filter {}", place(filter));
                return Err(NginxError::layout(field, why));
            }
        };
        if !seen.insert(filter) || found.len() >= MAX_FILTERS {
            let why = format!("the chain comes to {} again", place(filter));
            return Err(NginxError::layout(field, why));
        }
        found.push((filter, module));
        variable = match next {
            Next::Last => return Ok(found),
            Next::At(variable) => variable,
            Next::Unknown => {
                let why = format!("where {} keeps it cannot be seen", place(filter));
                return Err(NginxError::layout(field, why));
            }
        };
    }
}

impl<M: RemoteMemory> Worker<M> {
    /// The filters of a chain, the first first; none without a configuration of HTTP.
    pub fn filters(&self, chain: Chain) -> Result<Vec<Filter>, NginxError> {
        let tops = self.tops();
        let images = self.images()?;
        let setup = Setup::find(&self.memory, &images, &self.modules, &tops);
        let top = tops.iter().find(|(of, _)| *of == chain).map(|(_, top)| *top);
        let top = top.ok_or_else(|| NginxError::layout(chain.top(), "the program does not export it"))?;
        let place = |addr| Function::place_in(&images, addr);
        let found = walk(&self.memory, chain, top, &setup, place)?;
        let function = |(addr, module): (u64, usize)| Function::new(&images, addr, self.modules.get(module));
        Ok(found.into_iter().map(function).collect())
    }

    pub(crate) fn tops(&self) -> Tops {
        let top = |chain: Chain| Some((chain, self.image.symbol(chain.top())?));
        Chain::ALL.into_iter().filter_map(top).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moonscope_process::BufferMemory;

    const TOP: u64 = 0x1000;

    /// Filters 0x10, 0x20, ... of the modules 0, 1, ..., with their variables at 0x1008, 0x1010, ...; the last keeps nothing.
    fn setup(count: u64) -> Setup {
        let mut setup = Setup::default();
        for number in 0..count {
            let next = match number + 1 == count {
                true => Next::Last,
                false => Next::At(TOP + 8 * (number + 1)),
            };
            setup.insert(Chain::Header, 0x10 * (number + 1), number as usize, next);
        }
        setup
    }

    fn chain(setup: &Setup, variables: &[u64]) -> Result<Vec<(u64, usize)>, String> {
        let bytes: Vec<u8> = variables.iter().flat_map(|word| word.to_le_bytes()).collect();
        let memory = BufferMemory::new().with(TOP, bytes);
        let place = |addr| format!("{addr:#x}");
        walk(&memory, Chain::Header, TOP, setup, place).map_err(|err| err.to_string())
    }

    #[test]
    fn a_chain_goes_from_variable_to_variable_and_ends_with_the_last() {
        let found = chain(&setup(3), &[0x10, 0x20, 0x30]);
        assert_eq!(found, Ok(vec![(0x10, 0), (0x20, 1), (0x30, 2)]));
        // one that set itself up in another order
        assert_eq!(
            chain(&setup(3), &[0x10, 0x30, 0x20]),
            Ok(vec![(0x10, 0), (0x30, 2)])
        );
        assert_eq!(chain(&setup(3), &[0]), Ok(Vec::new()));
    }

    #[test]
    fn a_chain_that_cannot_be_followed_is_refused_by_the_name_of_the_variable() {
        for (variables, why) in [
            (&[0x10, 0x10][..], "comes to 0x10 again"),
            (&[0x10, 0x70], "no module sets up the filter 0x70"),
            (&[0x10, 0], "no module sets up the filter 0x0"),
            (&[0x10], "1008"),
            (&[], "1000"),
        ] {
            let said = chain(&setup(3), variables).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        let mut two = setup(3);
        two.insert(Chain::Header, 0x20, 7, Next::Last);
        let said = chain(&two, &[0x10, 0x20]).unwrap_err();
        assert!(
            said.contains("ngx_http_next_header_filter: several modules"),
            "{said}"
        );
        two.insert(Chain::Header, 0x40, 7, Next::Unknown);
        let said = chain(&two, &[0x40]).unwrap_err();
        assert!(said.contains("cannot be seen"), "{said}");
    }
}
