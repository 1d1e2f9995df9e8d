//! `.stacks` read as the exporter of Stack_Analyzer 2.0 does (`CollectProfiles` in its exporter/main.go): it finds
//! a block by the colour of the line with the time, and cuts traces at the first blank.

#![allow(clippy::unwrap_used)]

mod example;

use std::collections::HashMap;

use moonscope_profile::{Format, LabelValue, Profile, ValueType, WriteOptions};

#[derive(Default)]
struct Block {
    /// Type and unit.
    scales: Vec<(String, String)>,
    /// Thread, user stack, kernel stack; a value for each scale.
    counts: HashMap<(i64, i64, i64), Vec<u64>>,
    traces: HashMap<i64, Vec<String>>,
    /// pid, comm, tgid, cgroup by thread.
    threads: HashMap<i64, (i64, String, i64, String)>,
}

fn blocks(text: &str) -> Vec<Block> {
    let scale = regex::Regex::new("([_a-zA-Z0-9]+)/([0-9]+)([a-zA-Z]+)").unwrap();
    let mut lines = text.split_inclusive('\n').map(|line| line.trim_end_matches('\n'));
    let mut blocks = Vec::new();
    while lines.by_ref().any(|line| line.starts_with("\x1b[1;35mtime:")) {
        let mut block = Block::default();
        lines.next();
        for text in lines.next().unwrap().split('\t').skip(3) {
            let parts = scale.captures(text).unwrap();
            assert_eq!(&parts[2], "1");
            block.scales.push((parts[1].to_owned(), parts[3].to_owned()));
        }
        while let Some(row) = numbers(lines.next().unwrap()) {
            let values = row[3..].iter().map(|value| u64::try_from(*value).unwrap());
            let old = block.counts.insert((row[0], row[1], row[2]), values.collect());
            assert_eq!(old, None);
        }
        lines.next();
        while let Some((number, trace)) = lines.next().unwrap().split_once('\t') {
            let word = trace.split_ascii_whitespace().next().unwrap();
            let mut frames: Vec<_> = word.split(';').map(str::to_owned).collect();
            assert_eq!(frames.pop().as_deref(), Some(""));
            block.traces.insert(number.parse().unwrap(), frames);
        }
        lines.next();
        loop {
            let fields: Vec<_> = lines.next().unwrap().split('\t').collect();
            let [tid, inside, comm, pid, cgroup] = fields[..] else {
                break;
            };
            let number = |text: &str| text.parse::<i64>().unwrap();
            let thread = (number(inside), comm.to_owned(), number(pid), cgroup.to_owned());
            block.threads.insert(number(tid), thread);
        }
        blocks.push(block);
    }
    blocks
}

fn numbers(line: &str) -> Option<Vec<i64>> {
    line.split('\t').map(|field| field.parse().ok()).collect()
}

fn read_back(profile: &Profile) -> Vec<Block> {
    let mut out = Vec::new();
    Format::StackAnalyzer
        .write(profile, &WriteOptions::default(), &mut out)
        .unwrap();
    blocks(&String::from_utf8(out).unwrap())
}

/// How many frames both traces of a row have.
fn stack_of(block: &Block, key: &(i64, i64, i64)) -> usize {
    [key.1, key.2]
        .iter()
        .map(|id| block.traces.get(id).map_or(0, Vec::len))
        .sum()
}

#[test]
fn sums_and_frames_are_those_of_the_profile() {
    for profile in [example::gateway(), example::hostile()] {
        let cpu = profile.value_named("cpu").unwrap_or(0);
        let blocks = read_back(&profile);
        assert_eq!(blocks.len(), 1);
        let sum: u64 = blocks[0].counts.values().map(|values| values[0]).sum();
        assert_eq!(i64::try_from(sum).unwrap(), profile.total(cpu));
        let frames: usize = profile
            .samples()
            .map(|sample| profile.root_to_leaf(sample.stack).len() * sample.values[cpu] as usize)
            .sum();
        let read: usize = blocks[0]
            .counts
            .iter()
            .map(|(key, values)| stack_of(&blocks[0], key) * values[0] as usize)
            .sum();
        assert_eq!(read, frames);
    }
}

#[test]
fn each_thing_measured_is_a_block_and_a_thread_has_its_container() {
    let mut profile = Profile::new(vec![
        ValueType::samples(),
        ValueType::cpu(),
        ValueType::new("io_bytes", "bytes"),
        ValueType::new("io_ops", "count"),
        ValueType::new("page-faults", "count"),
    ]);
    let labels = [
        ("comm", LabelValue::from("nginx")),
        ("thread", LabelValue::from("cache loader")),
        ("pid", LabelValue::from(4321)),
        ("tid", LabelValue::from(4325)),
        ("ns-pid", LabelValue::from(7)),
        ("cgroup", LabelValue::from("/system.slice/docker-0badc0de.scope")),
    ];
    let labels = profile.labels(&labels);
    profile.add(None, labels, &[3, 30, 4096, 2, 0]);
    profile.add(None, labels, &[0, 0, 0, 0, 5]);

    let blocks = read_back(&profile);
    let scales: Vec<Vec<_>> = blocks
        .iter()
        .map(|block| block.scales.iter().map(|(name, _)| name.as_str()).collect())
        .collect();
    assert_eq!(
        scales,
        [vec!["OnCPUTime"], vec!["IOSize", "IOCount"], vec!["page_faults"]]
    );
    let key = (4325, -14, -14);
    assert_eq!(blocks[0].counts[&key], [30]);
    assert_eq!(blocks[1].counts[&key], [4096, 2]);
    assert_eq!(blocks[2].counts[&key], [5]);
    let thread = (
        7,
        "cacheloader".to_owned(),
        4321,
        "/system.slice/docker-0badc0de.scope".to_owned(),
    );
    assert_eq!(blocks[1].threads[&4325], thread);
}
