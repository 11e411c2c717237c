//! testfs.

pub mod device;
pub mod format;
pub mod meta;
