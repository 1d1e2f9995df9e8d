//! Writes the shared examples as files, for looking at them and for checking them with other programs:
//! `MOONSCOPE_EXAMPLES=DIR cargo test -p moonscope-profile --test render`.

#![allow(clippy::unwrap_used)]

mod example;

use std::path::PathBuf;

use moonscope_profile::{Comparison, Filter, Format, WriteOptions};

#[test]
fn examples_are_written_where_asked() {
    let Some(dir) = std::env::var_os("MOONSCOPE_EXAMPLES").map(PathBuf::from) else {
        return;
    };
    let options = WriteOptions::default();
    for (name, profile) in [("gateway", example::gateway()), ("hostile", example::hostile())] {
        for format in Format::all() {
            let mut content = Vec::new();
            format.write(&profile, &options, &mut content).unwrap();
            std::fs::write(dir.join(format!("{name}{}", format.endings()[0])), content).unwrap();
        }
    }
    let before = example::gateway();
    let without = vec![regex::Regex::new("gsub").unwrap()];
    let after = Filter {
        without,
        ..Default::default()
    }
    .apply(&before);
    let mut content = Vec::new();
    Comparison::new(&before, &after, &options, false)
        .unwrap()
        .write(Format::Svg, &mut content)
        .unwrap();
    std::fs::write(dir.join("diff.svg"), content).unwrap();
}
