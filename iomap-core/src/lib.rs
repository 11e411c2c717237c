//! core.
pub mod device;
pub mod error;
pub mod fiemap;
pub mod iomap;
pub mod seek;
pub mod sync;
pub mod units;
