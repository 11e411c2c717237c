//! A file under test: what it should contain, and its open files.

use std::sync::Arc;

use iomap_core::error::FsError;
use iomap_core::vfs::{Ino, OpenFile, OpenFlags, Vfs};
use parking_lot::Mutex;

use super::content::Content;
use super::world::Fail;

/// Which open file of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handle {
    /// The one whose syncs are looked at.
    Plain,
    /// One opened with `O_DIRECT`.
    Direct,
}

/// A file under test and what it should contain.
pub struct TestFile {
    /// Its number in the reference: never used again.
    pub model: Ino,
    /// Its number in the file system under test.
    pub real: Ino,
    /// What it should contain.
    pub content: Content,
    handles: Mutex<[Option<Arc<dyn OpenFile>>; 2]>,
}

impl std::fmt::Debug for TestFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "file {} (inode {})", self.model.0, self.real.0)
    }
}

impl TestFile {
    /// A file that is not open; `doubtful` if the device may fail.
    #[must_use]
    pub fn new(model: Ino, real: Ino, doubtful: bool) -> Self {
        Self {
            model,
            real,
            content: Content::new(doubtful),
            handles: Mutex::new([None, None]),
        }
    }

    /// An open file; made when first needed.
    ///
    /// # Errors
    ///
    /// What opening gives.
    pub fn handle(&self, vfs: &dyn Vfs, which: Handle) -> Result<Arc<dyn OpenFile>, FsError> {
        let mut handles = self.handles.lock();
        let [plain, direct] = &mut *handles;
        let open = |slot: &mut Option<Arc<dyn OpenFile>>, extra| {
            if let Some(handle) = slot {
                return Ok(Arc::clone(handle));
            }
            let handle = vfs.open(self.real, OpenFlags::READ | OpenFlags::WRITE | extra)?;
            Ok(Arc::clone(slot.insert(handle)))
        };
        // The plain one first: an error the other is told of must be one it waits for.
        let first = open(plain, OpenFlags::empty())?;
        match which {
            Handle::Plain => Ok(first),
            Handle::Direct => open(direct, OpenFlags::DIRECT),
        }
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.handles.lock()[0].is_some()
    }

    /// Closes it, as far as nobody uses it right now.
    pub fn close(&self) {
        let closed = std::mem::take(&mut *self.handles.lock());
        drop(closed);
    }

    /// A failure of this file.
    pub fn fail(&self, what: impl Into<String>) -> Fail {
        Fail {
            what: format!("{self:?}: {}", what.into()),
            history: self.content.state().history.iter().cloned().collect(),
        }
    }
}
