//! A mounted testfs with one DAX file, on a device of `/dev/shm` (the temporary folder without it).

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use iomap_core::dax::FileDaxDevice;
use iomap_core::device::OpenOptions;
use iomap_core::units::FilePos;
use iomap_core::vfs::{IoFlags, OpenFile, OpenFlags, Special, Vfs};
use tempfile::TempDir;
use testfs::fs::{MkfsOptions, MountOptions, TestFs};

use crate::{NEW, noise};

/// A mounted DAX file system with one file of noise.
pub struct DaxBed {
    _fs: Arc<TestFs>,
    /// The file.
    pub file: Arc<dyn OpenFile>,
    len: usize,
    dir: TempDir,
}

impl DaxBed {
    /// A file of `len` bytes, every block written.
    ///
    /// # Errors
    ///
    /// No room.
    pub fn new(len: usize) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() {
            tempfile::tempdir_in(shm)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.map_err(|e| text(&e))?;
        let options = OpenOptions {
            create_size: Some(2 * len as u64 + (64 << 20)),
            ..OpenOptions::default()
        };
        let device = FileDaxDevice::open(dir.path().join("image"), &options);
        let device = Arc::new(device.map_err(|e| text(&e))?);
        TestFs::mkfs(device.clone(), &MkfsOptions::default()).map_err(|e| text(&e))?;
        let options = MountOptions {
            dax: true,
            ..MountOptions::default()
        };
        let fs = TestFs::mount_dax(device, options).map_err(|e| text(&e))?;
        let attr = fs.mknod(fs.root(), b"file", Special::Regular, &NEW);
        let ino = attr.map_err(|e| text(&e))?.ino;
        let flags = OpenFlags::READ | OpenFlags::WRITE;
        let file = fs.open(ino, flags).map_err(|e| text(&e))?;
        let written = file.write_at(FilePos::ZERO, &noise(len), IoFlags::empty());
        match written.map_err(|e| text(&e))? {
            done if done == len => {}
            done => return Err(format!("{done} of {len} bytes written")),
        }
        file.fsync(false).map_err(|e| text(&e))?;
        Ok(Self {
            _fs: fs,
            file,
            len,
            dir,
        })
    }

    /// A file as long beside the device, for the kernel.
    ///
    /// # Errors
    ///
    /// No room.
    pub fn host_file(&self) -> std::io::Result<File> {
        let path = self.dir.path().join("host");
        std::fs::write(&path, noise(self.len))?;
        File::options().read(true).write(true).open(path)
    }
}

impl std::fmt::Debug for DaxBed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DaxBed")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}
