//! core.
pub mod device;
pub mod error;
pub mod iomap;
pub mod sync;
pub mod units;
