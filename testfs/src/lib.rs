//! testfs.
