//! Names of all functions in the Lua files of this machine, against a second and simpler way to find them:
//! lines that can only be one definition.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

mod oracle;

use moonscope_luajit::SourceFile;
use oracle::{library_files, skip};

/// `name` of a line `function name(`, `local function name(`, `name = function(`, `local name = function(`;
/// and whether a table's name may come before it.
fn obvious_name(line: &str) -> Option<(&str, bool)> {
    let is_path = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|it| it.is_ascii_alphanumeric() || b"_.:".contains(&it))
    };
    let line = line.trim_start();
    let line = line.strip_prefix("local ").unwrap_or(line).trim_start();
    if let Some(rest) = line.strip_prefix("function ") {
        let name = rest.split('(').next()?.trim();
        return is_path(name).then_some((name, false));
    }
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    (value.trim_start().starts_with("function") && is_path(name)).then_some((name, true))
}

#[test]
fn lines_that_can_only_be_one_definition_give_the_name() {
    let files = library_files();
    if files.len() < 5 {
        return skip("no Lua library files here");
    }
    let (mut compared, mut all) = (0, 0);
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let Ok(source) = SourceFile::parse(&bytes) else {
            continue;
        };
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        all += source.functions().len() - 1;
        for span in source.functions().iter().skip(1) {
            let line = lines[span.first_line as usize - 1];
            let Some((name, may_be_in_table)) =
                obvious_name(line).filter(|_| line.matches("function").count() == 1)
            else {
                continue;
            };
            let fits = *span.name == *name || may_be_in_table && span.name.ends_with(&format!(".{name}"));
            assert!(
                fits,
                "{}:{}: {} is {name}",
                file.display(),
                span.first_line,
                span.name
            );
            compared += 1;
        }
    }
    eprintln!("{compared} of {all} functions compared");
    assert!(compared > 50);
}
