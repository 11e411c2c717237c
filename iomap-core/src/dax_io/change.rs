//! Changing bytes of a DAX file in place: the part that write, zero and unshare share.
//!
//! Owns the loop over mappings, the copy of what surrounds the bytes in a block that was shared, and
//! the order at its end: bytes, then the mapping, then whoever still sees the old pages.

use super::drop_entries;
use crate::dax::{DaxDevice, DaxTable};
use crate::error::{FsError, ProtocolError, Result};
use crate::inode::Inode;
use crate::iomap::{FsFlags, MapKind};
use crate::iter::{Flow, Step, for_each_mapping};
use crate::ops::{Intent, MapFlags, MapOps};
use crate::units::{DevAddr, FileRange, PageIndex};

/// What bytes become.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill<'a> {
    /// These; the first is for the start of the range.
    Bytes(&'a [u8]),
    /// Zero. Holes stay holes.
    Zeroes,
    /// What they are, in blocks of the file's own. What is not shared stays where it is.
    Same,
}

impl Fill<'_> {
    const fn intent(self) -> Intent {
        match self {
            Self::Bytes(_) => Intent::Write,
            Self::Zeroes => Intent::Zero,
            Self::Same => Intent::Unshare,
        }
    }

    /// Without the first `n` bytes.
    fn skip(self, n: u64) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(&bytes[n as usize..]),
            other => other,
        }
    }
}

/// How far a change got, and why it stopped.
#[derive(Debug)]
pub(super) struct Changed {
    /// Bytes, from the start of the range on.
    pub(super) done: u64,
    /// The error that stopped it.
    pub(super) result: Result<()>,
}

/// Changes `range`. `Bytes` has as many; they may end past the end of the file, which grows.
pub(super) fn change<B: MapOps + ?Sized>(
    backend: &B,
    table: &DaxTable,
    range: FileRange,
    fill: Fill<'_>,
    flags: MapFlags,
) -> Changed {
    let inode = backend.inode();
    let mut done = 0;
    let mut copying = None;
    while done < range.len() {
        let (rest, fill) = (range.skip(done), fill.skip(done));
        let mut found = Found::SameBlocks;
        let outcome = for_each_mapping(backend, rest, fill.intent(), flags, |step| {
            if is_copied(step) && copying.is_none() {
                found = Found::Shared;
                return Ok(Flow::Stop);
            }
            found = one_mapping(inode, table, step, fill)?;
            Ok(Flow::Stop)
        });
        if found == Found::Shared && outcome.result.is_ok() {
            // Nobody else makes the same copy meanwhile; what is shared is asked again.
            copying = Some(table.copy_lock());
            continue;
        }
        copying = None;
        let here = rest.take(outcome.done);
        let mut result = outcome.all_or_error();
        if found == Found::OtherBlocks && !here.is_empty() {
            // Who sees pages of zeroes, or those that were shared, sees the new ones from here on.
            // That is all of their blocks, which may be larger than pages.
            let (start, end) = here.round_out(inode.block_bits()).pages();
            let nothing = PageIndex::ZERO..PageIndex::ZERO;
            result = result.and(drop_entries(inode, &(start..end), &nothing));
        }
        if matches!(fill, Fill::Bytes(_)) && !here.is_empty() && here.end() > inode.size() {
            // Not before `end` has made the bytes the file's: a fault might find others.
            inode.set_size(here.end());
        }
        done += here.len();
        if result.is_err() || here.is_empty() {
            return Changed { done, result };
        }
    }
    Changed {
        done,
        result: Ok(()),
    }
}

/// What a mapping was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// The bytes stay where they were.
    SameBlocks,
    /// The bytes lie in other blocks than before.
    OtherBlocks,
    /// Shared: nothing was done yet.
    Shared,
}

/// Whether the bytes of a step go to blocks that are not the file's yet.
pub(super) fn is_copied(step: &Step<'_>) -> bool {
    step.iomap().flags.contains(FsFlags::SHARED)
}

/// The body for one mapping.
fn one_mapping(
    inode: &Inode,
    table: &DaxTable,
    step: &mut Step<'_>,
    fill: Fill<'_>,
) -> Result<Found> {
    let here = step.rest();
    let copied = is_copied(step);
    let addr = match (&step.iomap().kind, fill) {
        (MapKind::Hole | MapKind::Unwritten { .. }, Fill::Zeroes | Fill::Same) => {
            step.advance(here.len())?;
            return Ok(Found::SameBlocks);
        }
        (MapKind::Mapped { .. }, Fill::Same) if !copied => {
            step.advance(here.len())?;
            return Ok(Found::SameBlocks);
        }
        (MapKind::Mapped { .. }, _) => step.iomap().addr_at(here.start()),
        _ => None,
    };
    let addr = addr.ok_or(ProtocolError::BadKind {
        what: "storage that cannot be stored to in place",
        pos: here.start(),
    })?;
    let device = table.device();
    let len = device.usable(addr, here.len()).map_err(FsError::from)?;
    let here = here.take(len);
    if copied {
        copy_around(inode, device, step, here, matches!(fill, Fill::Same))?;
    }
    match fill {
        Fill::Bytes(bytes) => device.store(addr, &bytes[..here.len() as usize])?,
        Fill::Zeroes => device.store_zeroes(addr, here.len())?,
        Fill::Same => {}
    }
    settle(inode, table, step, here, addr, copied)?;
    step.advance(here.len())?;
    if matches!(fill, Fill::Bytes(_)) && here.end() > inode.size() {
        step.set_size_changed();
    }
    let new = copied || step.iomap().flags.contains(FsFlags::NEW);
    Ok(if new {
        Found::OtherBlocks
    } else {
        Found::SameBlocks
    })
}

/// Makes new blocks durable before the mapping shows them; leaves the rest to the next flush, where
/// that is not cheap.
fn settle(
    inode: &Inode,
    table: &DaxTable,
    step: &Step<'_>,
    here: FileRange,
    addr: DevAddr,
    copied: bool,
) -> Result<()> {
    if copied {
        let blocks = here
            .round_out(inode.block_bits())
            .intersect(step.iomap().range);
        if let Some(start) = step.iomap().addr_at(blocks.start()) {
            table.device().persist(start, blocks.len())?;
        }
    } else if table.device().persists_cheaply() {
        table.device().persist(addr, here.len())?;
    } else {
        table.note_unpersisted(addr, here.len());
    }
    Ok(())
}

/// Copies what lies around `here` in its first and its last block (`whole`: all of it) from where
/// the file has it to where it is going to have it.
pub(super) fn copy_around(
    inode: &Inode,
    device: &dyn DaxDevice,
    step: &Step<'_>,
    here: FileRange,
    whole: bool,
) -> Result<()> {
    let blocks = here.round_out(inode.block_bits());
    let parts = if whole {
        [blocks, FileRange::default()]
    } else {
        [
            FileRange::between(blocks.start(), here.start()),
            FileRange::between(here.end(), blocks.end()),
        ]
    };
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        if !step.iomap().range.covers(part) || !step.source().range.covers(part) {
            return Err(ProtocolError::BadKind {
                what: "a copy of parts of blocks",
                pos: part.start(),
            }
            .into());
        }
        let to = step.iomap().addr_at(part.start());
        let to = to.ok_or(FsError::Invalid("a copy without blocks"))?;
        match step.source().kind {
            MapKind::Mapped { .. } => {
                let from = step.source().addr_at(part.start());
                let from = from.ok_or(FsError::Invalid("a copy from no blocks"))?;
                device.store_copy(to, from, part.len())?;
            }
            _ => device.store_zeroes(to, part.len())?,
        }
    }
    Ok(())
}
