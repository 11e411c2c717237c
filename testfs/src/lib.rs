//! testfs.

pub mod check;
pub mod device;
pub mod format;
pub mod fs;
pub mod meta;
