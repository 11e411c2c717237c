//! Telling where a file lives.
//!
//! Owns [`fiemap`], which lists the extents of a range, and [`bmap`], which tells the address of one
//! byte. Does not own the mappings: those are the backend's. Nothing told here may be written to:
//! it can be another file's a moment later.
//!
//! Kernel counterpart: `fs/iomap/fiemap.c`.

use crate::error::Result;
use crate::fsync;
use crate::iomap::{FsFlags, Iomap, MapKind};
use crate::iter::{Flow, for_each_mapping};
use crate::ops::{Intent, MapFlags, WritebackOps};
use crate::units::{DevAddr, FilePos, FileRange};

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

impl Extent {
    /// What a mapping looks like from outside; `None` for a hole.
    #[must_use]
    pub fn of(iomap: &Iomap) -> Option<Self> {
        let (physical, mut flags) = match iomap.kind {
            MapKind::Hole => return None,
            MapKind::Delalloc => (None, ExtentFlags::UNKNOWN | ExtentFlags::DELALLOC),
            MapKind::Inline { .. } => (None, ExtentFlags::NOT_ALIGNED | ExtentFlags::DATA_INLINE),
            MapKind::Unwritten { addr } => (Some(addr), ExtentFlags::UNWRITTEN),
            MapKind::Mapped { addr } => (Some(addr), ExtentFlags::empty()),
        };
        flags.set(ExtentFlags::SHARED, iomap.flags.contains(FsFlags::SHARED));
        flags.set(ExtentFlags::MERGED, iomap.flags.contains(FsFlags::MERGED));
        Some(Self {
            range: iomap.range,
            physical,
            flags,
        })
    }
}

/// The extents that have a byte in `range`, in order, as the backend has them: the first and the
/// last may reach beyond it, and beyond the end of the file. The last extent of the *file* has
/// [`ExtentFlags::LAST`]. With `sync` dirty data is written first, so that it has an address.
///
/// Each extent is held back until the next one is known, to tell whether it is the last.
///
/// Lock: the inode lock, shared; with `sync` no lock further in.
///
/// # Errors
///
/// Of writing dirty data; what the backend answers, also after extents have been found (rule B3).
pub fn fiemap<B: WritebackOps + ?Sized>(
    backend: &B,
    range: FileRange,
    sync: bool,
) -> Result<Vec<Extent>> {
    if sync {
        fsync::write_and_wait(backend, range)?;
    }
    let mut extents: Vec<Extent> = Vec::new();
    if range.is_empty() {
        return Ok(extents);
    }
    let mut more = false;
    // On to the end of the mappings: there may be one more extent behind the range.
    let all = FileRange::from(range.start());
    for_each_mapping(backend, all, Intent::Report, MapFlags::empty(), |step| {
        let extent = Extent::of(step.iomap());
        if extent.is_some() && step.rest().start() >= range.end() {
            more = true;
            return Ok(Flow::Stop);
        }
        extents.extend(extent);
        step.advance(step.rest().len())?;
        Ok(Flow::Continue)
    })
    .all_or_error()?;
    if let Some(last) = extents.last_mut()
        && !more
    {
        last.flags |= ExtentFlags::LAST;
    }
    Ok(extents)
}

/// Where the byte at `pos` lives; `None` if it has no storage with data. Writes the whole file back
/// first, so that what is only reserved gets an address.
///
/// Lock: none further in than the inode lock.
///
/// # Errors
///
/// Of writing dirty data; what the backend answers.
pub fn bmap<B: WritebackOps + ?Sized>(backend: &B, pos: FilePos) -> Result<Option<DevAddr>> {
    fsync::write_and_wait(backend, FileRange::ALL)?;
    let mut found = None;
    let range = FileRange::at_most(pos, backend.inode().block_bits().size());
    for_each_mapping(backend, range, Intent::Report, MapFlags::empty(), |step| {
        if matches!(step.iomap().kind, MapKind::Mapped { .. }) {
            found = step.iomap().addr_at(pos);
        }
        Ok(Flow::Stop)
    })
    .all_or_error()?;
    Ok(found)
}
