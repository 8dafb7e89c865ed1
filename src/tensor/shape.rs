//! Shapes of up to [`MAX_RANK`] dimensions, small enough to copy.

/// The most dimensions a tensor can have.
pub const MAX_RANK: usize = 6;

/// Dimensions of a tensor, outermost first; elements are stored row-major and contiguous.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// A shape of the given dimensions.
    ///
    /// # Panics
    /// With more than [`MAX_RANK`] dimensions, which no model has; shapes read from files go through
    /// [`Shape::checked`].
    #[track_caller]
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= MAX_RANK, "a tensor has at most {MAX_RANK} dimensions, not {}", dims.len());
        let mut all = [1; MAX_RANK];
        all[..dims.len()].copy_from_slice(dims);
        Self { dims: all, rank: dims.len() }
    }

    /// A shape of untrusted dimensions: `None` with too many of them or more elements than fit in memory.
    pub fn checked(dims: &[usize]) -> Option<Self> {
        if dims.len() > MAX_RANK {
            return None;
        }
        let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        (count <= isize::MAX as usize / 8).then(|| Self::new(dims))
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// How many dimensions there are.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many elements there are (1 for a scalar).
    pub fn count(&self) -> usize {
        self.dims().iter().product()
    }

    /// The innermost dimension (1 for a scalar).
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// All but the innermost dimension, multiplied: the number of rows.
    pub fn rows(&self) -> usize {
        self.dims().split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// This shape with another innermost dimension.
    pub fn with_last(&self, last: usize) -> Self {
        let mut shape = *self;
        if shape.rank == 0 {
            shape.rank = 1;
        }
        shape.dims[shape.rank - 1] = last;
        shape
    }
}

impl std::ops::Index<usize> for Shape {
    type Output = usize;
    fn index(&self, axis: usize) -> &usize {
        &self.dims()[axis]
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    #[track_caller]
    fn from(dims: [usize; N]) -> Self {
        Self::new(&dims)
    }
}

impl From<&[usize]> for Shape {
    #[track_caller]
    fn from(dims: &[usize]) -> Self {
        Self::new(dims)
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_times_last_is_count() {
        for dims in [&[][..], &[5], &[2, 3], &[2, 3, 4, 5, 6, 7]] {
            let shape = Shape::new(dims);
            assert_eq!(shape.rows() * shape.last(), shape.count());
        }
    }

    #[test]
    fn absurd_shapes_are_refused() {
        assert!(Shape::checked(&[usize::MAX, 2]).is_none());
        assert!(Shape::checked(&[1; 7]).is_none());
        assert_eq!(Shape::checked(&[0, 4]).map(|s| s.count()), Some(0));
    }
}
