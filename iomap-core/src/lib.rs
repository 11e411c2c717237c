//! iomap for user space.
pub mod device;
pub mod error;
pub mod fiemap;
pub mod folio;
pub mod inode;
pub mod iomap;
pub mod iter;
pub mod ops;
pub mod page_cache;
pub mod seek;
pub mod stats;
pub mod sync;
pub mod units;
pub mod vfs;
