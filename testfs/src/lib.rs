//! testfs.

pub mod format;
