//! core.
pub mod device;
pub mod error;
pub mod fiemap;
pub mod folio;
pub mod iomap;
pub mod page_cache;
pub mod seek;
pub mod sync;
pub mod units;
