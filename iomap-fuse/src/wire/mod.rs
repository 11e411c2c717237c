//! The kernel's FUSE interface: what the bytes of requests, answers and notifications mean.
//!
//! Owns their layout and numbers, taking a request apart and putting an answer together. Does not own
//! how they travel ([`transport`](crate::transport)), nor what is done ([`server`](crate::server)).
//!
//! What is described here is the protocol of major version 7, up to minor version 45 (Linux 6.18).

mod abi;
mod flags;
mod opcode;
mod reply;
mod request;

pub(crate) use abi::*;
pub(crate) use flags::{FopenFlags, InitFlags, SetAttrFlags, WriteFlags};
pub(crate) use opcode::{INIT, Opcode};
pub(crate) use reply::{Directory, Reply};
pub(crate) use request::{Request, split};

/// What the kernel calls an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(pub(crate) u64);

impl NodeId {
    /// The directory that is mounted.
    pub(crate) const ROOT: Self = Self(1);
}

/// The number of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileHandle(pub(crate) u64);

/// Who makes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}
