//! Unwind tables: any file is a table or an error, a table holds together, and searching it finds its rows.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moonscope_unwind::{GoNames, RuleSet, Table};

mod inputs;

fuzz_target!(|content: &[u8]| {
    let file = inputs::Bytes(content).elf();
    if let Some(names) = GoNames::read(&file) {
        for vaddr in [0, 0x1000, 0x40_1000, u64::MAX] {
            names.at(vaddr);
        }
    }
    let mut rules = RuleSet::new();
    let Ok(Some(table)) = Table::build(&file, &mut rules) else {
        return;
    };
    assert_eq!(table.pages.last().copied(), Some(table.rows.len() as u32));
    assert!(table.pages.is_sorted());
    let mut last = None;
    for (address, number) in table.iter_rows() {
        assert!(last < Some(address));
        assert_eq!(table.rule_at(address), number);
        assert!(rules.get(number).is_some());
        table.function_at(address);
        last = Some(address);
    }
    assert!(table.functions().all(|function| function.start <= function.end));
});
