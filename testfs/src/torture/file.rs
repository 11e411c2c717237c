//! A file under test: what it should contain, its open files, and its memory mapping.

use std::sync::Arc;

use iomap_core::error::FsError;
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::mmap::{MapOptions, Prot};
use iomap_core::units::PageIndex;
use iomap_core::vfs::{Ino, OpenFile, OpenFlags, Vfs};
use parking_lot::Mutex;

use super::content::Content;
use super::world::Fail;

/// Pages of a mapping: more than positions are drawn from.
const MAPPED_PAGES: u64 = 1 << 12;

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
    opened: Mutex<Opened>,
}

/// What is open of a file.
#[derive(Default)]
struct Opened {
    mapping: Option<Arc<SoftMapping>>,
    direct: Option<Arc<dyn OpenFile>>,
    plain: Option<Arc<dyn OpenFile>>,
}

impl Opened {
    fn handle(
        &mut self,
        vfs: &dyn Vfs,
        ino: Ino,
        which: Handle,
    ) -> Result<Arc<dyn OpenFile>, FsError> {
        let open = |slot: &mut Option<Arc<dyn OpenFile>>, extra| {
            if let Some(handle) = slot {
                return Ok(Arc::clone(handle));
            }
            let handle = vfs.open(ino, OpenFlags::READ | OpenFlags::WRITE | extra)?;
            Ok(Arc::clone(slot.insert(handle)))
        };
        // The plain one first: an error the other is told of must be one it waits for.
        let first = open(&mut self.plain, OpenFlags::empty())?;
        match which {
            Handle::Plain => Ok(first),
            Handle::Direct => open(&mut self.direct, OpenFlags::DIRECT),
        }
    }
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
            opened: Mutex::default(),
        }
    }

    /// An open file; made when first needed.
    ///
    /// # Errors
    ///
    /// What opening gives.
    pub fn handle(&self, vfs: &dyn Vfs, which: Handle) -> Result<Arc<dyn OpenFile>, FsError> {
        self.opened.lock().handle(vfs, self.real, which)
    }

    /// A mapping of all that torture reaches; made when first needed, and there until the file is
    /// closed. That of every third file is synchronous.
    ///
    /// # Errors
    ///
    /// What opening and mapping give.
    pub fn mapping(&self, vfs: &dyn Vfs) -> Result<Arc<SoftMapping>, FsError> {
        let mut opened = self.opened.lock();
        if let Some(mapping) = &opened.mapping {
            return Ok(Arc::clone(mapping));
        }
        let handler = opened
            .handle(vfs, self.real, Handle::Plain)?
            .fault_handler()?;
        let synchronous = self.model.0.is_multiple_of(3);
        let options = if synchronous {
            MapOptions::SYNC
        } else {
            MapOptions::empty()
        };
        let pages = PageIndex::ZERO..PageIndex::new(MAPPED_PAGES);
        let mapping = SoftMapping::new(handler, pages, Prot::READ | Prot::WRITE, options);
        Ok(Arc::clone(opened.mapping.insert(Arc::new(mapping))))
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.opened.lock().plain.is_some()
    }

    /// Closes it, as far as nobody uses it right now.
    pub fn close(&self) {
        let closed = std::mem::take(&mut *self.opened.lock());
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
