//! What lasts in the threads of a process when a recording ends.

use moonscope_probe::{ProcessId, RawStackId, Recorded, UnfinishedProcess};
use moonscope_profile::{LabelValue, Profile};

use super::{Namer, name_stacks, place};

/// Adds what lasts in the threads of a process.
pub fn add(process: &UnfinishedProcess, recorded: &Recorded, namer: &mut Namer, profile: &mut Profile) {
    let stacks = name_stacks(&process.live.recorded, namer, profile);
    for &(thread, what, ref sum) in &process.threads {
        let thread = &process.live.threads[thread];
        let mut labels = vec![
            ("comm", LabelValue::from(process.live.process.comm.as_str())),
            ("pid", LabelValue::from(process.live.process.pid)),
            ("thread", LabelValue::from(thread.comm.as_str())),
            ("tid", LabelValue::from(thread.tid)),
        ];
        let info = process.live.recorded.process(ProcessId(0));
        labels.extend(info.into_iter().flat_map(place));
        let of_event = recorded.labels(what, &[]);
        labels.extend(
            of_event
                .iter()
                .map(|(key, value)| (*key, LabelValue::from(value.as_str()))),
        );
        let labels = profile.labels(&labels);
        let stack = thread.stack.id.and_then(|RawStackId(id)| stacks[id as usize]);
        profile.add(stack, labels, &recorded.measured().row(what, sum));
    }
}
