//! What was collected: the last pieces, their sum, and everything since the start; all of it in bounded memory.

use std::collections::VecDeque;
use std::time::Duration;

use moonscope_profile::{Accounting, Profile};

/// Stacks and samples of which each of the three holds as many at most: some 150 bytes each.
const MOST: usize = 1 << 18;

/// Stacks and samples of a small sum, of which it does not matter whether they are in use.
const FEW: usize = 1 << 12;

/// Comments that are kept at most.
const MOST_COMMENTS: usize = 32;

/// How much of the time is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// The last seconds.
    Window,
    /// Since the start.
    All,
}

/// What was collected.
#[derive(Clone)]
pub struct Collected {
    window: Duration,
    most: usize,
    /// Newest last.
    pieces: VecDeque<Profile>,
    /// Of the pieces.
    size: usize,
    recent: Profile,
    /// How large the sum was when it was last made anew.
    made_with: usize,
    all: Profile,
    /// Comments of the newest piece.
    last_comments: Vec<String>,
}

impl Collected {
    /// Nothing yet.
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            most: MOST,
            pieces: VecDeque::new(),
            size: 0,
            recent: Profile::new(Vec::new()),
            made_with: 0,
            all: Profile::new(Vec::new()),
            last_comments: Vec::new(),
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self {
            most: self.most,
            ..Self::new(self.window)
        };
    }

    /// Adds the newest piece, and lets go of what is too old, or too much.
    pub fn add(&mut self, piece: Profile) {
        let mut piece = match size(&piece) > self.most {
            true => piece.heaviest(self.most / 2),
            false => piece,
        };
        let comments = std::mem::take(&mut piece.meta.comments);
        self.all.merge(&piece);
        if size(&self.all) > self.most {
            self.all = self.all.heaviest(self.most / 4);
        }
        self.add_comments(comments);
        self.recent.merge(&piece);
        self.size += size(&piece);
        self.pieces.push_back(piece);
        while let Some(oldest) = self.pop_old() {
            self.recent.subtract(&oldest);
        }
        if size(&self.recent) > FEW.max(2 * self.made_with) {
            self.recent = sum(&self.pieces);
            self.made_with = size(&self.recent);
        }
        self.describe();
    }

    /// Keeps what is said of two pieces that follow each other, which is true of all: that probes were taken away. What is
    /// true of one only would add up.
    fn add_comments(&mut self, comments: Vec<String>) {
        let known = &mut self.all.meta.comments;
        let lasting = comments.iter().filter(|text| self.last_comments.contains(text));
        for text in lasting {
            if known.len() < MOST_COMMENTS && !known.contains(text) {
                known.push(text.clone());
            }
        }
        self.last_comments = comments;
    }

    fn pop_old(&mut self) -> Option<Profile> {
        let oldest = self.pieces.front()?;
        let all: Duration = self.pieces.iter().map(length).sum();
        let is_old = all.saturating_sub(length(oldest)) >= self.window;
        if self.pieces.len() == 1 || (!is_old && self.size <= self.most) {
            return None;
        }
        self.size -= size(oldest);
        self.pieces.pop_front()
    }

    /// The sum is of the pieces that are there.
    fn describe(&mut self) {
        let mut accounting = Accounting::default();
        self.pieces
            .iter()
            .for_each(|piece| accounting.merge(&piece.accounting));
        self.recent.accounting = accounting;
        let time: Duration = self.pieces.iter().map(length).sum();
        self.recent.meta.duration = u64::try_from(time.as_nanos()).ok();
        self.recent.meta.start = self.pieces.front().and_then(|piece| piece.meta.start);
    }

    /// Everything in this part of the time.
    pub fn profile(&self, span: Span) -> &Profile {
        match span {
            Span::Window => &self.recent,
            Span::All => &self.all,
        }
    }
}

fn sum(pieces: &VecDeque<Profile>) -> Profile {
    let mut sum = Profile::new(Vec::new());
    pieces.iter().for_each(|piece| sum.merge(piece));
    sum
}

fn size(profile: &Profile) -> usize {
    profile.stacks().len() + profile.samples().len()
}

/// How long a profile was recorded.
pub fn length(profile: &Profile) -> Duration {
    Duration::from_nanos(profile.meta.duration.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use moonscope_profile::{Frame, FrameKind, ValueType};

    /// A second in which functions of these numbers were sampled.
    fn piece(functions: std::ops::Range<u32>) -> Profile {
        let mut profile = Profile::new(vec![ValueType::samples()]);
        for function in functions {
            let frame = profile.frame(Frame::named(FrameKind::Native, format!("f{function}")));
            let stack = profile.child(None, frame);
            let labels = profile.labels(&[("pid", 7.into())]);
            profile.add(Some(stack), labels, &[1]);
            profile.accounting.fired += 1;
            profile.accounting.complete += 1;
        }
        profile.meta.duration = Some(1_000_000_000);
        profile
    }

    fn in_use(profile: &Profile) -> usize {
        profile.samples().filter(|sample| sample.values[0] != 0).count()
    }

    #[test]
    fn the_window_holds_the_last_seconds_and_the_rest_is_in_the_whole() {
        let mut collected = Collected::new(Duration::from_secs(3));
        for second in 0..10 {
            collected.add(piece(second..second + 2));
        }
        let (recent, all) = (collected.profile(Span::Window), collected.profile(Span::All));
        assert_eq!((recent.total(0), all.total(0)), (6, 20));
        assert_eq!(in_use(recent), 4);
        assert_eq!((recent.accounting.fired, all.accounting.fired), (6, 20));
        assert_eq!(recent.accounting.unexplained(), 0);
        assert_eq!(length(recent), Duration::from_secs(3));
        collected.clear();
        assert!(collected.profile(Span::All).is_empty());
    }

    #[test]
    fn what_is_said_of_one_piece_after_another_is_said_of_the_whole() {
        let mut collected = Collected::new(Duration::from_secs(3));
        for second in 0..10 {
            let mut piece = piece(0..2);
            piece.meta.comments = vec![format!("in second {second}")];
            if second > 5 {
                piece.meta.comments.push("its probes were taken away".to_owned());
            }
            collected.add(piece);
        }
        let all = collected.profile(Span::All);
        assert_eq!(all.meta.comments, ["its probes were taken away"]);
        assert!(collected.profile(Span::Window).meta.comments.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_lost_from_the_whole() {
        let mut collected = Collected::new(Duration::from_secs(10));
        collected.most = 10_000;
        for second in 0..300 {
            collected.add(piece(second * 1000..(second + 1) * 1000));
            let (recent, all) = (collected.profile(Span::Window), collected.profile(Span::All));
            assert!(size(recent) <= 3 * collected.most && size(all) <= collected.most);
        }
        // 10,000 stacks and samples: five pieces of 1,000 each
        assert_eq!(collected.profile(Span::Window).total(0), 5000);
        assert_eq!(collected.profile(Span::All).total(0), 300_000);
        assert_eq!(collected.profile(Span::All).accounting.kept(), 300_000);
        // a piece that is too large by itself
        collected.add(piece(0..20_000));
        assert_eq!(collected.profile(Span::Window).total(0), 20_000);
    }
}
