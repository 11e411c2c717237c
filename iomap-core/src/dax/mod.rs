//! DAX: files whose pages are the device's own bytes. What such a file is made of.
//!
//! Owns the devices whose bytes are memory ([`DaxDevice`], [`FileDaxDevice`]), who has pinned pages
//! of one ([`Pins`]), and what a file knows of its pages ([`DaxTable`], in place of a page cache).
//! Does not own what is done with them: reads, writes, faults, flushes and moves of blocks are
//! [`dax_io`](crate::dax_io). Which files are DAX files is the backend's choice
//! ([`Inode::enable_dax`](crate::inode::Inode::enable_dax)).
//!
//! | Module | Owns |
//! |---|---|
//! | [`device`](DaxDevice) | the contract of a byte-addressable device |
//! | [`memory`](DaxMemory) | its bytes |
//! | [`file`](FileDaxDevice) | files of the host |
//! | `lines` | the instructions that flush cache lines |
//! | [`entries`](Entry) | pages: place, lock, dirty |
//! | [`pins`](Pins) | pages used around page tables |
//! | [`table`](DaxTable) | one file |
//!
//! # Locking
//!
//! The lock of an entry stands where the lock of a folio stands ([`Rank::Folio`]), for it is held
//! for the same reason: while the mapping is asked for, and page tables are changed.
//!
//! [`Rank::Folio`]: crate::sync::Rank::Folio

mod device;
mod entries;
mod file;
mod lines;
mod memory;
mod pins;
mod table;

pub use device::DaxDevice;
pub(crate) use entries::EntryGuard;
pub use entries::{Entry, EntrySize, HUGE_ORDER, HUGE_PAGES, Place};
pub use file::FileDaxDevice;
pub use memory::DaxMemory;
pub use pins::{PinGuard, PinWait, PinWaitError, Pins};
pub use table::{DaxTable, DaxVolume};
