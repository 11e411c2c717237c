//! iomap for user space: page cache, buffered and direct I/O, writeback, and the orderings that make
//! them safe beside each other, as a library.
//!
//! A file system author supplies the mapping from file ranges to storage ([`ops::MapOps`]) and a few
//! hooks. Everything else is here: a page cache with large folios, buffered reads and writes with
//! delayed allocation, writeback, zeroing, direct I/O, memory mappings, DAX, seek, fiemap, and errors
//! that reach `fsync`. It is what `fs/iomap`, `mm/filemap` and writeback are to a kernel file system, written new.
//!
//! # From question to code
//!
//! | Question | Module | Then |
//! |---|---|---|
//! | What does a file system supply? | [`ops`] | `examples/flat_file.rs`, the crate `testfs` |
//! | How is a mapping asked for and given back? | [`iter`] | [`iomap`](mod@iomap) |
//! | What happens in a read? | [`read`] | [`readahead`], [`page_cache`] |
//! | What happens in a write? | [`write`](mod@write) | `folio_write.rs`, [`delalloc`] |
//! | How do dirty bytes reach the device? | [`writeback`] | [`ioend`], [`fsync`], [`flusher`] |
//! | What happens around the cache? | [`direct`] | [`file`](mod@file), [`device`] |
//! | What must a device be able to do? | [`device`] | [`device::immediate`], the devices of `testfs` |
//! | How is a range made zero, or private? | [`zero`] | [`unshare`], [`resize`] |
//! | Where is data, where is it stored? | [`seek`] | [`fiemap`] |
//! | What is a folio, who may touch it? | [`folio`] | [`page_cache`] |
//! | What happens in a memory mapping? | [`mmap`] | [`fault`], [`page_cache`] |
//! | What is a DAX file? | [`dax`] | [`dax_io`] |
//! | What does a journal ask of the cache? | [`commit`] | [`ops::FolioOps`], `tests/mmap/journal.rs` |
//! | Which lock before which? | [`sync`](mod@sync) | `docs/LOCKING.md` |
//! | Which rules are there, what fails without one? | [`mutation`] | `cargo xtask mutate` |
//! | What does a mount ask for? | [`vfs`] | [`file`](mod@file) |
//!
//! # Layers
//!
//! Each module uses its own layer and those below; `cargo xtask layers` checks it.
//!
//! ```text
//! 4  file  vfs  aio
//! 3  read  readahead  write  fault  zero  unshare  delalloc  resize  writeback  ioend  fsync  direct
//!    commit  dax_io  seek  fiemap  swapfile
//! 2  ops  iter  user
//! 1  device < folio, page_cache, mmap, dax < inode < flusher
//! 0  units  error  iomap  stats  sync  mutation  affinity
//! ```
//!
//! # Words
//!
//! *Mapping* alone would mean three things, so three words are reserved: [`iomap::Iomap`] is file
//! range to storage, [`page_cache::PageCache`] is what C calls `address_space`, and a memory mapping
//! is always called one.
//!
//! # Blocking
//!
//! Every operation is a plain function that may block. With `nowait` it answers
//! [`FsError::WouldBlock`](error::FsError::WouldBlock) instead; an asynchronous surface is built on
//! that, not beneath it, because a future that is dropped half way would skip the hooks that must
//! run.

mod affinity;
#[cfg(feature = "tokio")]
pub mod aio;
pub mod commit;
pub mod dax;
pub mod dax_io;
pub mod delalloc;
pub mod device;
pub mod direct;
pub mod error;
pub mod fault;
pub mod fiemap;
pub mod file;
pub mod flusher;
pub mod folio;
mod folio_write;
pub mod fsync;
pub mod inode;
pub mod ioend;
pub mod iomap;
pub mod iter;
pub mod mmap;
pub mod mutation;
pub mod ops;
pub mod page_cache;
pub mod read;
pub mod readahead;
pub mod resize;
pub mod seek;
pub mod stats;
pub mod swapfile;
pub mod sync;
pub mod units;
pub mod unshare;
pub mod user;
pub mod vfs;
pub mod write;
pub mod writeback;
pub mod zero;
