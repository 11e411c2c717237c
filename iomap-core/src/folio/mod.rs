//! Folios: the memory of the page cache, how it is counted, locked, and given out.
//!
//! Owns the [`Pool`] (a budget of memory), [`FolioRef`] (a counted reference), [`LockedFolio`] (the
//! right to change contents and state) and [`ReadingFolio`] (a lock that belongs to a read in
//! flight). Which folio holds which page of which file is
//! [`page_cache`](crate::page_cache); reading and writing folios from and to storage is the
//! business of the operations.
//!
//! | Module | Owns |
//! |---|---|
//! | [`bytes`] | the copies: the only code that touches folio memory |
//! | `arena` | the mappings: data, and tables of metadata, never unmapped |
//! | `buddy` | which pages are free |
//! | [`header`] | references, flags and the lock bit of one folio |
//! | [`meta`] | the 48 bytes of one folio |
//! | `state` | bitmaps of up-to-date and dirty blocks |
//! | `state_ptr` | who may look at them |
//! | [`wait`] | sleeping for a folio, and driving the device meanwhile |
//! | [`pool`] | allocation, accounting, the life of a pool |
//! | `foreign` | folio memory that a program's page tables can show |
//! | `frames` | pages of a folio in the page tables of memory mappings |
//! | `index` | the radix tree of a page cache: page numbers to folio ids, with marks |
//! | `registry` | what a folio leads back to: the index and the owner of its cache |
//! | `owner` | the contract of the inode behind a cache |
//! | `split` | a large folio becoming two |
//! | `reclaim` | which folios leave when memory runs short |
//!
//! # The life of a folio
//!
//! ```text
//! free ─alloc→ locked, in no cache ─insert→ in a cache ─remove→ in no cache ─last put→ free
//!              refs 1                       refs 1 + users      refs = users
//! ```
//!
//! A reference keeps the memory, not the place in the cache: whoever locks a folio asks afterwards
//! whether it is still there ([`PageCache::lock`](crate::page_cache::PageCache::lock) does).
//!
//! # Locking
//!
//! The folio lock is a bit. Its place on the ladder is [`Rank::Folio`](crate::sync::Rank::Folio),
//! several in ascending order of index. Completions take leaf locks only.

mod arena;
mod buddy;
pub mod bytes;
mod copy;
mod folio_ref;
mod foreign;
mod frames;
#[doc(hidden)]
pub mod header;
pub(crate) mod index;
mod locked;
#[doc(hidden)]
pub mod meta;
mod owner;
pub mod pool;
mod reading;
mod reclaim;
pub(crate) mod registry;
mod split;
mod state;
mod state_ptr;
#[doc(hidden)]
pub mod wait;

pub use buddy::MAX_ORDER;
pub use folio_ref::FolioRef;
pub use foreign::FileMemory;
pub(crate) use frames::FolioPages;
pub use index::Mark;
pub(crate) use index::{IndexGuard, InsertError};
pub use locked::{DirtyRanges, LockedFolio};
pub use owner::CacheOwner;
pub use pool::{DirtyPressure, Pool, PoolConfig, PoolHandle, PoolStats};
pub use reading::ReadingFolio;
pub(crate) use reclaim::may_go;
