//! Waits until something happens, and then records for a while. Until then nothing is measured.

use std::time::{Duration, Instant};

use super::pattern;
use super::progress::Progress;
use super::recorder::{Recorder, since_1970};
use super::trigger::{Members, Triggers};
use super::when::Triggered;
use crate::exit::{Code, Failure};

/// How often the terminal is written to while nothing happens.
const TURN: Duration = Duration::from_millis(500);

/// Waits and records as often as that is wanted.
pub fn run(mut recorder: Recorder<'_>, triggered: Triggered) -> Result<Code, Failure> {
    // what cannot be waited for, or recorded at all, is told now and not in the middle of the night
    drop(Triggers::arm(&triggered.specs, &recorder.target)?);
    drop(recorder.prepare()?);
    let (mut worst, mut has_files) = (Code::Done, false);
    let names = recorder.outputs.clone();
    for number in 1..=triggered.count {
        let Some(what) = wait(&recorder, &triggered)? else {
            return if number > 1 {
                Ok(overall(worst, has_files))
            } else {
                Err(nothing(&triggered))
            };
        };
        if !recorder.quiet {
            crate::exit::tell!("triggered by {what}");
        }
        if triggered.count > 1 {
            let now = since_1970();
            recorder.outputs = names.renamed(|path| pattern::fill(path, number, now));
        }
        // of a server that was restarted the processes are others now
        recorder.target = recorder.what.target.resolve()?;
        let code = recorder.record_once(vec![format!("triggered by {what}")])?;
        match code {
            Code::Done => has_files = true,
            code => (worst, has_files) = (code, has_files || code == Code::Partial),
        }
        if recorder.stop.is_asked() {
            break;
        }
    }
    Ok(overall(worst, has_files))
}

/// Of several recordings some could be written.
fn overall(worst: Code, has_files: bool) -> Code {
    match worst {
        Code::Failed if has_files => Code::Partial,
        worst => worst,
    }
}

fn nothing(triggered: &Triggered) -> Failure {
    Failure::new(
        Code::NoSamples,
        format!("nothing triggered ({})", triggered.names()),
    )
}

/// What happened; `None`: somebody asked to end before anything did.
fn wait(recorder: &Recorder<'_>, triggered: &Triggered) -> Result<Option<String>, Failure> {
    let mut triggers = Triggers::arm(&triggered.specs, &recorder.target)?;
    let mut members = Members::new(&recorder.what.target, &recorder.target)?;
    let progress = Progress::new(recorder.quiet, None);
    let names = triggered.names();
    if !recorder.quiet {
        progress.say(&format!("waiting for {names}"));
    }
    let mut looked = Instant::now();
    loop {
        if let Some(what) = triggers.wait(&mut members, TURN)? {
            return Ok(Some(what));
        }
        if recorder.stop.is_asked() {
            return Ok(None);
        }
        if looked.elapsed() >= TURN {
            looked = Instant::now();
            if members.are_gone() {
                let what = format!(
                    "{} ended before anything triggered ({names})",
                    recorder.target.what
                );
                return Err(Failure::new(Code::NoTarget, what));
            }
        }
        progress.wait(&names);
    }
}
