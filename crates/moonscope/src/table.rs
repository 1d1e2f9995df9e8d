//! Aligned columns, as in `ps`: numbers to the right, the last column as long as it is.

use std::fmt;

use moonscope_process::visible;

/// A table with a line of names.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(names: &[&str]) -> Self {
        Self {
            rows: vec![names.iter().map(|&name| name.to_owned()).collect()],
        }
    }

    /// Adds a row. What others chose is escaped here.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.iter().map(|cell| visible(cell).to_string()).collect());
    }

    fn is_number(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().skip(1).filter_map(|row| row.get(column));
        cells.all(|cell| cell.starts_with(|first: char| first.is_ascii_digit() || first == '-'))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let (width, gap) = (*width, if column == 0 { "" } else { "  " });
                match column + 1 == columns {
                    _ if self.is_number(column) => write!(f, "{gap}{cell:>width$}")?,
                    true => write!(f, "{gap}{cell}")?,
                    false => write!(f, "{gap}{cell:width$}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A time in the unit that suits it.
pub fn age(time: std::time::Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.3}s", time.as_secs_f64()),
        seconds @ 60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        seconds => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// A size in the unit that suits it.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "K", "M", "G", "T"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes}B"),
        _ => format!("{value:.1}{}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn numbers_stand_right_and_names_left() {
        let mut table = Table::new(&["PID", "NAME", "WHAT"]);
        table.row(["7".into(), "a".into(), "x".into()]);
        table.row(["1234".into(), "long".into(), "y z".into()]);
        assert_eq!(
            table.to_string(),
            " PID  NAME  WHAT\n   7  a     x\n1234  long  y z\n"
        );
    }

    #[test]
    fn what_others_chose_gives_the_terminal_no_orders() {
        let mut table = Table::new(&["URI"]);
        table.row(["/\x1b[2J".into()]);
        assert_eq!(table.to_string(), "URI\n/\\x1b[2J\n");
    }

    #[test]
    fn times_and_sizes_have_the_unit_that_suits_them() {
        assert_eq!(age(Duration::from_millis(412)), "0.412s");
        assert_eq!(age(Duration::from_secs(75)), "1m15s");
        assert_eq!(age(Duration::from_secs(7260)), "2h01m");
        assert_eq!(size(80), "80B");
        assert_eq!(size(1_048_576), "1.0M");
    }
}
