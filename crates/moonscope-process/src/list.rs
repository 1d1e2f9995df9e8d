//! All processes that are there.

use crate::process::Process;
use crate::{Pid, ProcessError};
use std::collections::{BTreeMap, BTreeSet};

/// Ids of all processes in our pid namespace, kernel threads too, ascending.
pub fn pids() -> Result<Vec<Pid>, ProcessError> {
    let entries = std::fs::read_dir("/proc").map_err(|cause| ProcessError::Io {
        what: "/proc".to_owned(),
        cause,
    })?;
    let mut pids: Vec<Pid> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// All processes with user code: no kernel threads, no zombies. Those that end meanwhile are left out.
pub fn processes() -> Result<Vec<Process>, ProcessError> {
    let found = pids()?.into_iter().filter_map(|pid| Process::find(pid).ok());
    Ok(found
        .filter(|process| !process.is_kernel_thread && !process.is_zombie)
        .collect())
}

/// These processes and all their children, children's children and so on, among `all`.
pub fn with_descendants(all: &[Process], roots: impl IntoIterator<Item = Pid>) -> BTreeSet<Pid> {
    let mut children: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mut found = BTreeSet::new();
    let mut open: Vec<Pid> = roots.into_iter().collect();
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_and_our_child_are_in_the_list_and_our_family() {
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let all = processes().unwrap();
        let me = std::process::id();
        assert!(all.iter().any(|process| process.pid == me));
        let family = with_descendants(&all, [me]);
        assert!(family.contains(&me) && family.contains(&child.id()));
        assert!(!family.contains(&1));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_cycle_of_parents_ends() {
        let process = |pid, parent| Process {
            pid,
            parent,
            ..Process::find(std::process::id()).unwrap()
        };
        let all = [process(5, 6), process(6, 5)];
        assert_eq!(with_descendants(&all, [5]), BTreeSet::from([5, 6]));
    }
}
