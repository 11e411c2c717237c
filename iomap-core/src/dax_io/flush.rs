//! Making stores to a DAX file durable.
//!
//! Owns the walk over dirty entries and the order for each: every mapping write-protected, then the
//! bytes made durable, then the entry clean. A store that comes after the write-protection faults,
//! waits for the entry, and makes it dirty again.
//!
//! Kernel counterpart: `dax_writeback_mapping_range`.

use super::{persist_entry, table_of};
use crate::dax::{DaxTable, EntryGuard, Place};
use crate::error::Result;
use crate::inode::Inode;
use crate::units::{DevAddr, FileRange, PAGE_SIZE};

/// Makes what was written and stored to `range` before this call durable; more may become so.
/// Metadata is the backend's ([`fsync`](crate::fsync::fsync) does both). Takes one entry at a time;
/// no entry is held by the caller.
///
/// # Errors
///
/// The device failed. What was not made durable stays dirty.
pub fn flush_range(inode: &Inode, range: FileRange) -> Result<()> {
    let table = table_of(inode)?;
    let (start, end) = range.pages();
    let pages = start..end;
    table.entries().tag_for_writeback(&pages);
    while let Some(entry) = table.entries().lock_next_to_write(&pages) {
        flush_entry(inode, table, &entry)?;
    }
    // After the entries: one that was dropped meanwhile has left its bytes here.
    persist_written(table)
}

/// What was written by calls, and was stored to blocks that were to be freed.
fn persist_written(table: &DaxTable) -> Result<()> {
    let mut first_error = Ok(());
    for (start, end) in table.take_unpersisted() {
        let len = end.bytes() - start.bytes();
        let result = match first_error {
            Ok(()) => table.device().persist(start, len),
            Err(_) => {
                table.note_unpersisted(start, len);
                continue;
            }
        };
        if result.is_err() {
            table.note_unpersisted(start, len);
            first_error = result;
        }
    }
    Ok(first_error?)
}

fn flush_entry(inode: &Inode, table: &DaxTable, entry: &EntryGuard<'_>) -> Result<()> {
    entry.clear_towrite();
    if !entry.is_dirty() {
        return Ok(());
    }
    inode.cache().mappings().write_protect(&entry.pages());
    persist_entry(table, entry)?;
    if !is_pinned(table, entry) {
        entry.clear_dirty();
    }
    Ok(())
}

/// Whether somebody may store to the pages without asking a page table: they are never clean then.
fn is_pinned(table: &DaxTable, entry: &EntryGuard<'_>) -> bool {
    let len = entry.size().pages() * PAGE_SIZE as u64;
    let pinned = |addr: DevAddr| table.volume().pins().first_in(addr, len).is_some();
    matches!(entry.entry().map(|e| e.place), Some(Place::Device(addr)) if pinned(addr))
}
