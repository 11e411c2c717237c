//! What a file system must look like after a sequence of operations: the one definition of
//! correctness of the torture and run commands.
//!
//! [`bytes`] owns the content of one file, [`memfs`] a whole tree of names on top of it, behind the
//! same traits as a real file system. Neither is fast, neither caches, and neither knows what a
//! block is beyond the alignment rules of the interface. How operations are generated and compared
//! is [`torture`](crate::torture).

pub mod bytes;
pub mod memfs;

pub use bytes::FileBytes;
pub use memfs::MemFs;
