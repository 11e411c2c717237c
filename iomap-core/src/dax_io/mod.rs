//! DAX operations: reads, writes and faults on the device's own bytes, flushes, and moves of blocks
//! under memory mappings.
//!
//! Owns what is done with the pages of a DAX file. What such a file is made of is
//! [`dax`](crate::dax); which pages memory mappings show is [`mmap`](crate::mmap). The operations of
//! the page cache ([`zero_range`](crate::zero::zero_range), [`fsync`](crate::fsync::fsync) and so
//! on) come here by themselves for a DAX file.
//!
//! | To see | open |
//! |---|---|
//! | reading, writing, zeroing, unsharing | [`rw`], `change` |
//! | what a load or store through a mapping does | [`mod@fault`] |
//! | how stores become durable | [`flush`] |
//! | what stands between pinned pages and those who move blocks | [`layout`] |
//!
//! # Locking
//!
//! ```text
//! read                    Inode (shared)
//! write, zero, unshare    Inode (exclusive) -> entry, one at a time
//! fault                   Invalidate (shared) -> [transaction] -> entry -> [transaction]
//! flush                   entry
//! move of blocks          Inode (exclusive) -> Invalidate (exclusive; dropped while it waits for
//!                         pins) -> entry
//! ```

mod change;
pub mod fault;
pub mod flush;
pub mod layout;
pub mod rw;

pub use fault::fault;
pub use flush::flush_range;
pub use layout::{Blocks, Content, LayoutLocks, PinTimeout, move_blocks, unmap_and_wait_for_pins};
pub use rw::{read, unshare_range, write, zero_range};

use std::ops::Range;

use crate::dax::{DaxTable, EntryGuard, Place};
use crate::error::{DeviceError, FsError, Result};
use crate::inode::Inode;
use crate::units::{PAGE_SIZE, PageIndex};

/// The DAX state of a file that must have some.
fn table_of(inode: &Inode) -> Result<&DaxTable> {
    inode
        .dax()
        .ok_or(FsError::Invalid("a DAX operation on a file that is none"))
}

/// Makes what was stored to the pages of an entry durable. Nothing can be stored meanwhile: they
/// are write-protected or unmapped.
fn persist_entry(table: &DaxTable, entry: &EntryGuard<'_>) -> Result<(), DeviceError> {
    match entry.entry().map(|entry| entry.place) {
        Some(Place::Device(addr)) => table
            .device()
            .persist(addr, entry.size().pages() * PAGE_SIZE as u64),
        Some(Place::Zero) | None => Ok(()),
    }
}

/// Takes the entries of `pages` out of every mapping and out of the table; what was stored becomes
/// durable first, except in entries that lie in `discarded`, whose bytes are going to be freed. Should
/// that fail they are the file's still: the next flush makes them durable.
///
/// # Errors
///
/// The device failed: that entry is unmapped, and stays dirty.
fn drop_entries(
    inode: &Inode,
    pages: &Range<PageIndex>,
    discarded: &Range<PageIndex>,
) -> Result<()> {
    let table = table_of(inode)?;
    while let Some(entry) = table.entries().lock_next(pages) {
        let covered = entry.pages();
        inode.cache().mappings().unmap(&covered);
        let whole = discarded.start <= covered.start && covered.end <= discarded.end;
        if entry.is_dirty() && !whole {
            persist_entry(table, &entry)?;
        } else if entry.is_dirty()
            && let Some(Place::Device(addr)) = entry.entry().map(|entry| entry.place)
        {
            // Before the entry goes: a flush looks at entries first.
            table.note_unpersisted(addr, entry.size().pages() * PAGE_SIZE as u64);
        }
        entry.delete();
    }
    Ok(())
}
