//! Open files, by the number the kernel has for each.
//!
//! Owns the table. A number is used again when its file was released, never before.

use std::sync::Arc;

use iomap_core::error::{Errno, Result};
use iomap_core::vfs::OpenFile;
use parking_lot::RwLock;
use slab::Slab;

use crate::wire::FileHandle;

/// Open files.
#[derive(Default)]
pub(crate) struct Handles {
    files: RwLock<Slab<Arc<dyn OpenFile>>>,
}

impl Handles {
    pub(crate) fn insert(&self, file: Arc<dyn OpenFile>) -> FileHandle {
        FileHandle(self.files.write().insert(file) as u64)
    }

    pub(crate) fn get(&self, handle: FileHandle) -> Result<Arc<dyn OpenFile>> {
        let index = usize::try_from(handle.0).map_err(|_| Errno::BADF)?;
        let found = self.files.read().get(index).cloned();
        found.ok_or_else(|| Errno::BADF.into())
    }

    /// Takes the file out; it is closed when the last request that uses it is done.
    pub(crate) fn remove(&self, handle: FileHandle) -> Option<Arc<dyn OpenFile>> {
        let index = usize::try_from(handle.0).ok()?;
        self.files.write().try_remove(index)
    }

    /// Takes all files out.
    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut *self.files.write());
        drop(gone);
    }
}
