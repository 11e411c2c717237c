//! Telling where a file lives.
//!
//! Owns [`Extent`], the answer of `fiemap`. Does not own the mappings: those are the backend's.

use crate::units::{DevAddr, FileRange};

bitflags::bitflags! {
    /// What is known about an [`Extent`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ExtentFlags: u16 {
        /// The last extent of the file (`FIEMAP_EXTENT_LAST`).
        const LAST = 1 << 0;
        /// Where it lives is not known (yet) (`FIEMAP_EXTENT_UNKNOWN`).
        const UNKNOWN = 1 << 1;
        /// Storage is reserved, not allocated (`FIEMAP_EXTENT_DELALLOC`). Comes with
        /// [`ExtentFlags::UNKNOWN`].
        const DELALLOC = 1 << 2;
        /// Allocated, reads as zeroes (`FIEMAP_EXTENT_UNWRITTEN`).
        const UNWRITTEN = 1 << 3;
        /// The bytes are not a whole number of blocks on the device
        /// (`FIEMAP_EXTENT_NOT_ALIGNED`).
        const NOT_ALIGNED = 1 << 4;
        /// The bytes lie between metadata (`FIEMAP_EXTENT_DATA_INLINE`). Comes with
        /// [`ExtentFlags::NOT_ALIGNED`].
        const DATA_INLINE = 1 << 5;
        /// The storage belongs to another file or range too (`FIEMAP_EXTENT_SHARED`).
        const SHARED = 1 << 6;
        /// Several extents of the file system, told as one (`FIEMAP_EXTENT_MERGED`).
        const MERGED = 1 << 7;
    }
}

/// A range of a file that is not a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The bytes of the file.
    pub range: FileRange,
    /// Where the first byte lives; `None` where there is no address.
    pub physical: Option<DevAddr>,
    /// What is known about it.
    pub flags: ExtentFlags,
}
