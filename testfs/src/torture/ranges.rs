//! Byte ranges of a file, as a list.
//!
//! Owns adding, taking out, and following the bytes when a file is cut or its bytes are moved. What
//! the ranges mean is [`doubt`](super::doubt)'s. They may overlap: only whether a byte is in one of
//! them counts.

/// Bytes of a file: start and end of each run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds the bytes from `start` to `end`.
    pub fn add(&mut self, start: u64, end: u64) {
        if start < end {
            self.0.push((start, end));
        }
    }

    /// Takes the bytes from `start` to `end` out.
    pub fn remove(&mut self, start: u64, end: u64) {
        self.map(|from, to, keep| {
            keep(from, to.min(start));
            keep(from.max(end), to);
        });
    }

    /// The bytes from `start` to `end` leave the file; what follows moves down.
    pub fn collapse(&mut self, start: u64, end: u64) {
        self.map(|from, to, keep| {
            keep(from, to.min(start));
            keep(from.max(end) - (end - start), to.max(end) - (end - start));
        });
    }

    /// `len` new bytes come into the file at `start`; what follows moves up.
    pub fn insert(&mut self, start: u64, len: u64) {
        self.map(|from, to, keep| {
            keep(from, to.min(start));
            keep(from.max(start) + len, to.max(start) + len);
        });
    }

    /// Whether a byte is in it.
    #[must_use]
    pub fn contains(&self, at: u64) -> bool {
        self.0
            .iter()
            .any(|(start, end)| (*start..*end).contains(&at))
    }

    /// The end of the last byte; 0 if there is none.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.0.iter().map(|range| range.1).max().unwrap_or(0)
    }

    /// Takes out everything.
    pub fn take(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.0)
    }

    /// Replaces each run by the ones `f` keeps of it.
    fn map(&mut self, f: impl Fn(u64, u64, &mut dyn FnMut(u64, u64))) {
        let mut kept = Self::default();
        for (from, to) in self.take() {
            f(from, to, &mut |start, end| kept.add(start, end));
        }
        *self = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(ranges: &Ranges) -> Vec<u64> {
        (0..20).filter(|at| ranges.contains(*at)).collect()
    }

    fn ranges() -> Ranges {
        let mut ranges = Ranges::default();
        ranges.add(2, 5);
        ranges.add(8, 12);
        ranges
    }

    #[test]
    fn what_is_taken_out_is_not_in_it() {
        let mut ranges = ranges();
        ranges.remove(4, 9);
        assert_eq!(bytes(&ranges), [2, 3, 9, 10, 11]);
        ranges.remove(10, u64::MAX);
        assert_eq!((bytes(&ranges), ranges.end()), (vec![2, 3, 9], 10));
    }

    #[test]
    fn bytes_are_followed_when_they_move() {
        let mut ranges = ranges();
        ranges.collapse(4, 9);
        assert_eq!(bytes(&ranges), [2, 3, 4, 5, 6]);
        ranges.insert(3, 10);
        assert_eq!(bytes(&ranges), [2, 13, 14, 15, 16]);
        ranges.collapse(0, 1);
        assert_eq!(bytes(&ranges), [1, 12, 13, 14, 15]);
    }
}
