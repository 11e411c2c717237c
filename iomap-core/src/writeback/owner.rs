//! The tie between a backend's inode and those who call it: cache, pool, flusher.

use std::fmt;
use std::sync::{Arc, Weak};

use super::{WritebackControl, wait, walk};
use crate::error::Result;
use crate::flusher::{DirtyOwner, Flusher};
use crate::folio::LockedFolio;
use crate::inode::{Attached, IoendQueue};
use crate::ioend::finish;
use crate::ops::WritebackOps;
use crate::page_cache::CacheOwner;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::units::FileRange;

/// Lets the flusher write `backend`, its pool ask before folios leave, and its writeback be
/// finished by the flusher's worker. To be called once, when the inode has been made; without it
/// writeback is synchronous and nothing is written in the background.
///
/// The backend keeps the inode while its cache is dirty: the flusher does not.
pub fn attach<B: WritebackOps + 'static>(backend: &Arc<B>, flusher: &Arc<Flusher>) {
    let inode = backend.inode();
    let owner = Arc::new_cyclic(|me| Owner {
        me: Weak::clone(me),
        backend: Arc::downgrade(backend),
        flusher: Arc::clone(flusher),
        queue: Arc::clone(inode.ioends()),
        listed: AtomicBool::new(false),
    });
    inode
        .cache()
        .set_owner(Arc::downgrade(&owner) as Weak<dyn CacheOwner>);
    inode.attach(Attached::new(owner, Arc::clone(flusher)));
}

/// A backend's inode as its page cache and the flusher see it. See [`attach`].
pub struct Owner<B> {
    me: Weak<Self>,
    backend: Weak<B>,
    flusher: Arc<Flusher>,
    queue: Arc<IoendQueue>,
    /// Whether it stands on the flusher's list. Taken back (`Release`) before the dirty state is
    /// looked at, set (`AcqRel`) after a folio was dirtied: one of the two sees the other.
    listed: AtomicBool,
}

impl<B: WritebackOps + 'static> CacheOwner for Owner<B> {
    fn release_folio(&self, folio: &mut LockedFolio) -> bool {
        match self.backend.upgrade() {
            Some(backend) => backend.release_folio(folio),
            None => true,
        }
    }

    fn write_dirty(&self, range: FileRange, nr_to_write: usize) -> Result<usize> {
        let Some(backend) = self.backend.upgrade() else {
            return Ok(0);
        };
        let control = WritebackControl::background(range, nr_to_write as u64);
        let pages = walk(&*backend, &control, false)?;
        Ok(usize::try_from(pages).unwrap_or(usize::MAX))
    }

    fn became_dirty(&self) {
        if self.list() {
            self.flusher
                .register(Weak::clone(&self.me) as Weak<dyn DirtyOwner>);
        }
    }
}

impl<B: WritebackOps + 'static> DirtyOwner for Owner<B> {
    fn finish_ioends(&self) {
        let backend = self.backend.upgrade();
        loop {
            let ioends = self.queue.take_scheduled();
            if ioends.is_empty() {
                return;
            }
            match &backend {
                Some(backend) => finish::finish_all(&**backend, ioends),
                // The inode is gone: nothing to convert, nobody to tell.
                None => ioends.into_iter().for_each(|ioend| ioend.end_folios()),
            }
        }
    }

    fn settle(&self) {
        if let Some(backend) = self.backend.upgrade() {
            wait::for_range(&*backend, FileRange::ALL, true);
        }
    }

    fn is_dirty(&self) -> bool {
        self.backend
            .upgrade()
            .is_some_and(|backend| backend.inode().cache().nr_dirty() > 0)
    }

    fn unlist(&self) {
        self.listed.store(false, Ordering::Release);
    }

    fn list(&self) -> bool {
        !self.listed.swap(true, Ordering::AcqRel)
    }

    fn write_range(&self, range: FileRange) {
        if let Some(backend) = self.backend.upgrade() {
            let control = WritebackControl::background(range, u64::MAX).in_order();
            // After an error the data is still dirty; one that lost data is on record.
            let _kept = walk(&*backend, &control, false);
        }
    }

    fn keep(&self) -> Option<Arc<dyn Send + Sync>> {
        let backend: Arc<dyn Send + Sync> = self.backend.upgrade()?;
        Some(backend)
    }
}

impl<B> fmt::Debug for Owner<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner")
            .field("flusher", &self.flusher)
            .finish_non_exhaustive()
    }
}
