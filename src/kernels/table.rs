//! Tables whose rows serve many rows of another tensor: modulation, gates.

use crate::tensor::Shape;

/// How the R rows of a table \[R, C\] are shared out over the rows of a tensor x \[..., L, C\]: R divides L, and each row
/// of the table serves a run of L / R rows, the same in every batch. One row serves all, L rows one each; in between
/// are the frames of a video, whose tokens share a timestep. A table may also have a row for every row of x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// R
    pub rows: usize,
    /// Rows of x in a run.
    pub each: usize,
}

impl Repeat {
    /// `None` when the rows of `table` cannot be shared out over those of `x`.
    pub fn of(table: Shape, x: Shape) -> Option<Self> {
        let (rows, all) = (table.rows(), x.rows());
        let length = x.dims().iter().rev().nth(1).copied().unwrap_or(1);
        let runs = rows > 0 && length.is_multiple_of(rows);
        let every = rows > 0 && rows.is_multiple_of(length.max(1)) && all.is_multiple_of(rows);
        (runs || every).then(|| Self { rows, each: (length / rows).max(1) })
    }

    /// The table's row that serves a row of x.
    pub fn row(&self, row: usize) -> usize {
        row / self.each % self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_serve_runs_and_repeat_over_batches() {
        let rows = |x: &[usize], table: &[usize]| {
            let repeat = Repeat::of(Shape::new(table), Shape::new(x))?;
            Some((0..Shape::new(x).rows()).map(|row| repeat.row(row)).collect::<Vec<_>>())
        };
        assert_eq!(rows(&[2, 4, 3], &[1, 3]), Some(vec![0; 8]));
        assert_eq!(rows(&[2, 4, 3], &[2, 3]), Some(vec![0, 0, 1, 1, 0, 0, 1, 1]));
        assert_eq!(rows(&[2, 4, 3], &[4, 3]), Some(vec![0, 1, 2, 3, 0, 1, 2, 3]));
        assert_eq!(rows(&[2, 2, 3], &[4, 3]), Some(vec![0, 1, 2, 3]));
        assert_eq!(rows(&[4, 3], &[3]), Some(vec![0; 4]));
        assert_eq!(rows(&[3], &[3]), Some(vec![0]));
        assert_eq!(rows(&[2, 4, 3], &[3, 3]), None);
        assert_eq!(rows(&[2, 4, 3], &[16, 3]), None);
    }
}
