//! Direct I/O's questions to a file system: which lock a write needs, and what makes directly
//! written bytes findable. The other traits are in [`ops`](crate::ops).

use super::WritebackOps;
use crate::error::Result;
use crate::units::FileRange;

bitflags::bitflags! {
    /// What a direct write was made of.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct DirectKinds: u8 {
        /// Unwritten blocks were written: convert them.
        const UNWRITTEN = 1 << 0;
        /// Shared blocks were written elsewhere: remap them.
        const COW = 1 << 1;
    }
}

/// A finished direct write, told to [`DirectOps::direct_done`].
#[derive(Clone, Copy, Debug)]
pub struct DirectDone {
    /// The bytes asked for.
    pub range: FileRange,
    /// The bytes on the device, from the start of `range` on.
    pub written: u64,
    /// What they were written to.
    pub kinds: DirectKinds,
}

/// What makes directly written bytes findable, and which lock a direct write needs.
pub trait DirectOps: WritebackOps {
    /// Converts, remaps and grows the file, for the bytes really written. Also called with
    /// `written` zero after a failure, so that a backend can undo preparations.
    ///
    /// - Called: in task context, after the last device write, **before** the cache is invalidated
    ///   and before the in-flight count is lowered (rule O8). Must not wait for that count.
    /// - Holding: the inode lock as the submitter took it, if the submitter still waits.
    ///
    /// # Errors
    ///
    /// Reported as the result of the write.
    fn direct_done(&self, done: &DirectDone) -> Result<()>;

    /// Whether [`direct_done`](DirectOps::direct_done) has work for a write that succeeded as a
    /// whole. `false`: it is not called, and an asynchronous write can end in the context of its
    /// completion. Default: it has.
    ///
    /// - Called: after the last device write, maybe like an interrupt handler: inner locks only
    ///   (see [`device`](crate::device)), must not block.
    fn direct_needs_work(&self, done: &DirectDone) -> bool {
        let _ = done;
        true
    }

    /// Whether a direct write to `range` can run under the shared inode lock: it neither grows the
    /// file nor needs an allocation, and if it is not aligned to blocks, everything is written
    /// already (rule O10). Asked again after every change of the lock.
    ///
    /// - Holding: the inode lock, shared or exclusive.
    ///
    /// # Errors
    ///
    /// Looking failed.
    fn is_overwrite(&self, range: FileRange) -> Result<Overwrite>;
}

/// What a direct write would write over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Written blocks only.
    Written,
    /// Allocated blocks, some of them unwritten.
    Allocated,
    /// Something that needs an allocation.
    No,
}
