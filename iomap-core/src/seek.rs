//! Finding data and holes.
//!
//! Owns the vocabulary of `lseek` with `SEEK_DATA` and `SEEK_HOLE`. Does not own where data is:
//! that is asked of the backend, and for unwritten extents of the page cache.

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// The first byte at or after the position that may hold data (`SEEK_DATA`).
    Data,
    /// The first byte at or after the position that lies in a hole; the end of the file counts as
    /// one (`SEEK_HOLE`).
    Hole,
}
