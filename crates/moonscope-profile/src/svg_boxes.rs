//! How many boxes a flame graph has: a browser needs seconds for more than some ten thousand.

/// A picture of this many boxes has about 6 MB and opens in a second.
const MAX_BOXES: usize = 30_000;
/// Less than a tenth of a pixel on a screen, in percent of the width.
const INVISIBLE: f64 = 0.01;

/// The share, in percent, under which boxes must be left out. Rows are sorted by path.
pub(crate) fn smallest<'a>(rows: impl Iterator<Item = (&'a [u32], u64)>, total: u64) -> f64 {
    let mut values = values(rows);
    if values.len() <= MAX_BOXES || total == 0 {
        return INVISIBLE;
    }
    let (_, first_left_out, _) = values.select_nth_unstable_by(MAX_BOXES, |a, b| b.cmp(a));
    let share = (*first_left_out as f64 + 0.5) / total as f64 * 100.0;
    share.max(INVISIBLE)
}

/// What the footer says about it, when it is more than what nobody would see.
pub(crate) fn remark(smallest: f64) -> Option<String> {
    (smallest > INVISIBLE)
        .then(|| format!("boxes under {smallest:.3} % are left out, since there are too many for a browser"))
}

/// The values of all boxes.
fn values<'a>(rows: impl Iterator<Item = (&'a [u32], u64)>) -> Vec<u64> {
    let mut done = Vec::new();
    // The boxes that the row before runs through, root first.
    let mut open: Vec<(u32, u64)> = Vec::new();
    for (path, value) in rows {
        let shared = open
            .iter()
            .zip(path)
            .take_while(|((name, _), other)| name == *other)
            .count();
        done.extend(open.drain(shared..).map(|(_, value)| value));
        open.iter_mut()
            .for_each(|(_, sum)| *sum = sum.saturating_add(value));
        open.extend(path[shared..].iter().map(|name| (*name, value)));
    }
    done.extend(open.into_iter().map(|(_, value)| value));
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_of_rows_with_a_common_start_are_one() {
        let rows: [(&[u32], u64); 4] = [(&[1], 1), (&[1, 2], 2), (&[1, 2, 3], 4), (&[2, 2], 8)];
        let mut values = values(rows.into_iter());
        values.sort_unstable();
        assert_eq!(values, [4, 6, 7, 8, 8]);
    }

    #[test]
    fn too_many_boxes_are_cut_by_size() {
        let paths: Vec<[u32; 1]> = (0..MAX_BOXES as u32 + 10).map(|nr| [nr]).collect();
        let rows = || {
            paths
                .iter()
                .map(|path| (&path[..], if path[0] < 20 { 1000 } else { 1 }))
        };
        let total = rows().map(|(_, value)| value).sum();
        let smallest = smallest(rows(), total) / 100.0 * total as f64;
        assert!(smallest > 1.0 && smallest < 1000.0);
        assert!(remark(0.5).unwrap().contains("0.500 %"));
        assert_eq!(remark(INVISIBLE), None);
    }
}
