//! Reading and writing a DAX file by call, zeroing and unsharing it.
//!
//! Owns the public loops. What happens to one mapping of a change is `change`; memory mappings of
//! the file see every byte at once, for they show the same memory.
//!
//! Kernel counterpart: `dax_iomap_rw`, `dax_zero_range`, `dax_file_unshare`.

use super::change::{Changed, Fill, change};
use super::table_of;
use crate::dax::DaxTable;
use crate::error::{FsError, ProtocolError, Result};
use crate::iomap::MapKind;
use crate::iter::{Flow, Step, for_each_mapping};
use crate::ops::{Intent, MapFlags, MapOps};
use crate::stats::Event;
use crate::sync::{Rank, rank};
use crate::units::{FilePos, FileRange};

/// Reads from `pos` on, up to the end of the file. Short only there, and before bytes the medium
/// has lost.
///
/// Holding: the inode lock, shared or exclusively.
///
/// # Errors
///
/// Only if nothing was read: what the backend or the device answers; `WouldBlock` with `nowait`.
pub fn read<B: MapOps + ?Sized>(
    backend: &B,
    pos: FilePos,
    to: &mut [u8],
    nowait: bool,
) -> Result<u64> {
    debug_assert!(rank::is_held(Rank::Inode), "a DAX read without its lock");
    let table = table_of(backend.inode())?;
    let range = FileRange::at_most(pos, to.len() as u64).intersect(backend.inode().bytes());
    let read = for_each_mapping(backend, range, Intent::Read, flags(nowait), |step| {
        // Inside the slice: the range was cut to it.
        let skipped = step.rest().start().since(pos) as usize;
        let len = step.rest().len() as usize;
        read_mapping(table, step, &mut to[skipped..skipped + len])
    });
    let counters = backend.inode().counters();
    counters.add(Event::dax_read_bytes, read.done);
    read.bytes_or_error()
}

/// The body for one mapping: fills `to` with what is left of it.
fn read_mapping(table: &DaxTable, step: &mut Step<'_>, to: &mut [u8]) -> Result<Flow> {
    let start = step.rest().start();
    match &step.iomap().kind {
        MapKind::Hole | MapKind::Unwritten { .. } => to.fill(0),
        // Inline data begins at position 0, and lies in memory.
        MapKind::Inline { data } => data.read_at(start.bytes() as usize, to),
        MapKind::Mapped { addr } => {
            let addr = addr.plus(start.since(step.iomap().range.start()));
            let usable = table.device().usable(addr, to.len() as u64)?;
            table.device().load(addr, &mut to[..usable as usize])?;
            step.advance(usable)?;
            return Ok(Flow::Continue);
        }
        MapKind::Delalloc => {
            return Err(ProtocolError::BadKind {
                what: "delayed allocation of a DAX file",
                pos: start,
            }
            .into());
        }
    }
    step.advance(to.len() as u64)?;
    Ok(Flow::Continue)
}

/// Writes `from` to `pos`. The file grows as bytes beyond its end are accepted; what lies between
/// the old end and `pos` was made zero by the caller
/// ([`resize::zero_old_end`](crate::resize::zero_old_end)). The bytes are durable after the next
/// [`flush_range`](super::flush_range) and a sync of the metadata.
///
/// Holding: the inode lock exclusively.
///
/// # Errors
///
/// Only if nothing was written: `TooBig`, what the backend or the device answers, `WouldBlock` with
/// `nowait`.
pub fn write<B: MapOps + ?Sized>(
    backend: &B,
    pos: FilePos,
    from: &[u8],
    nowait: bool,
) -> Result<u64> {
    debug_assert!(rank::is_held(Rank::Inode), "a DAX write without its lock");
    let table = table_of(backend.inode())?;
    let range = FileRange::at(pos, from.len() as u64).ok_or(FsError::TooBig)?;
    let changed = change(backend, table, range, Fill::Bytes(from), flags(nowait));
    let counters = backend.inode().counters();
    counters.add(Event::dax_write_bytes, changed.done);
    match changed {
        Changed {
            done: 0,
            result: Err(error),
        } => Err(error),
        Changed { done, .. } => Ok(done),
    }
}

/// Makes the bytes of `range` zero, as far as they lie before the end of the file rounded up to a
/// block. Holes and unwritten blocks stay what they are. Returns whether any byte was stored to.
///
/// Holding: the inode lock exclusively.
///
/// # Errors
///
/// What the backend or the device answers; part of the range may be zero then.
pub fn zero_range<B: MapOps + ?Sized>(backend: &B, range: FileRange) -> Result<bool> {
    let inode = backend.inode();
    let table = table_of(inode)?;
    let end = inode.size().round_up(inode.block_bits());
    let range = range.intersect(FileRange::between(FilePos::ZERO, end));
    let changed = change(backend, table, range, Fill::Zeroes, MapFlags::DAX);
    changed.result.map(|()| changed.done > 0)
}

/// Gives every shared block of `range`, inside the file, a copy of the file's own.
///
/// Holding: the inode lock exclusively.
///
/// # Errors
///
/// What the backend or the device answers; part of the range may be unshared then.
pub fn unshare_range<B: MapOps + ?Sized>(backend: &B, range: FileRange) -> Result<()> {
    let table = table_of(backend.inode())?;
    let range = range.intersect(backend.inode().bytes());
    change(backend, table, range, Fill::Same, MapFlags::DAX).result
}

fn flags(nowait: bool) -> MapFlags {
    let mut flags = MapFlags::DAX;
    flags.set(MapFlags::NOWAIT, nowait);
    flags
}
