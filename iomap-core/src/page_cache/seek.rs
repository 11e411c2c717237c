//! Data and holes in the cache: for `SEEK_DATA` and `SEEK_HOLE` over unwritten extents, and for
//! what writing failed to cover.
//!
//! Block-wise: a block is data if it is up to date or dirty in the cache. Mappings and file size
//! are the caller's.

use std::ops::Range;

use super::PageCache;
use crate::folio::LockedFolio;
use crate::units::{FilePos, FileRange};

impl PageCache {
    /// The first byte of `range` that the cache holds data for. Waits for folio locks.
    #[must_use]
    pub fn seek_data(&self, range: FileRange) -> Option<FilePos> {
        let (mut at, end) = range.pages();
        while let Some(folio) = self.next(at, end) {
            let Some(folio) = self.lock(&folio) else {
                continue;
            };
            at = folio.end_index();
            let bytes = bytes_in(&folio, range);
            if let Some(run) = folio.first_data(bytes.clone()) {
                let pos = folio.range().start();
                return Some(pos.saturating_add(run.start.max(bytes.start) as u64));
            }
        }
        None
    }

    /// The first byte of `range` that the cache holds no data for; the end of the range if it holds
    /// all of it. Waits for folio locks.
    #[must_use]
    pub fn seek_hole(&self, range: FileRange) -> FilePos {
        let mut at = range.start();
        while at < range.end() {
            let Some(folio) = self.find(at.page()) else {
                return at;
            };
            let Some(folio) = self.lock(&folio) else {
                continue;
            };
            let bytes = bytes_in(&folio, FileRange::between(at, range.end()));
            if let Some(hole) = folio.first_hole(bytes.clone()) {
                let pos = folio.range().start();
                return pos.saturating_add(hole.start.max(bytes.start) as u64);
            }
            at = folio.range().end();
        }
        range.end()
    }
}

/// The bytes of `range` inside a folio that overlaps it.
fn bytes_in(folio: &LockedFolio, range: FileRange) -> Range<usize> {
    let part = folio.range().intersect(range);
    let start = part.start().since(folio.range().start()) as usize;
    start..start + part.len() as usize
}
