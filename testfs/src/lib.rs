//! testfs.

pub mod format;
pub mod meta;
