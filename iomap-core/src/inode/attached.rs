//! Who writes an inode in the background: its owner and its flusher.

use std::sync::Arc;

use crate::flusher::{DirtyOwner, Flusher};

/// What an inode is attached to.
pub struct Attached {
    owner: Arc<dyn DirtyOwner>,
    flusher: Arc<Flusher>,
}

impl Attached {
    /// This owner and this flusher.
    #[must_use]
    pub fn new(owner: Arc<dyn DirtyOwner>, flusher: Arc<Flusher>) -> Self {
        Self { owner, flusher }
    }

    /// Who writes the inode.
    #[must_use]
    #[inline]
    pub fn owner(&self) -> &Arc<dyn DirtyOwner> {
        &self.owner
    }

    /// Who says when.
    #[must_use]
    #[inline]
    pub const fn flusher(&self) -> &Arc<Flusher> {
        &self.flusher
    }
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attached")
            .field("flusher", &self.flusher)
            .finish_non_exhaustive()
    }
}
