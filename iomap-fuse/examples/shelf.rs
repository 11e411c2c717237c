//! `shelf`: a file system in one sitting, written for `docs/your-own.md`.
//!
//! A shelf holds up to 64 books (files) of up to 1 MiB, in one directory. Block 0 of the device is
//! the table: names, sizes, times. Book `n` lives in the `n`-th MiB behind it, so the mapping from
//! file to device is one line. Everything a user expects of a file beyond that (cache, readahead,
//! writeback, direct I/O, memory mappings of a mount, `fsync`) is the framework's.
//!
//! ```console
//! $ cargo run -p iomap-fuse --example shelf            # try it
//! $ cargo run -p iomap-fuse --example shelf -- /mnt    # use it
//! ```

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use iomap_core::device::{BlockDevice, MemoryDevice};
use iomap_core::error::{Errno, FsError, Result, SeekError};
use iomap_core::fiemap::Extent;
use iomap_core::file::File;
use iomap_core::folio::{Pool, PoolConfig, PoolHandle};
use iomap_core::fsync::{fsync, write_and_wait};
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{Iomap, MapKind};
use iomap_core::ops::{
    DirectDone, DirectOps, Finished, FolioOps, IoendRange, MapError, MapOps, MapRequest, Mapped,
    Overwrite, TransactionOrder, WritebackOps, WritebackRequest,
};
use iomap_core::resize::{isize_extended, zero_old_end};
use iomap_core::seek::Whence;
use iomap_core::stats::{Counters, Snapshot};
use iomap_core::units::{BlockBits, DevAddr, FilePos, FileRange};
use iomap_core::vfs::{
    Attr, DirEntry, Fallocate, FileType, Held, Ino, IoFlags, NewInode, OpenFile, OpenFlags,
    RenameMode, SetAttr, Special, StatFs, Timestamp, Vfs, XattrMode,
};
use iomap_core::zero::truncate_page;
use parking_lot::Mutex;

// ANCHOR: format
const BLOCK: usize = 4096;
/// Bytes a book can have.
const AREA: u64 = 1 << 20;
const BOOKS: usize = 64;
const ENTRY: usize = BLOCK / BOOKS;
const NAME_MAX: usize = ENTRY - 17;

/// A book in the table. No name: the place is free.
#[derive(Clone, Default)]
struct Entry {
    name: Vec<u8>,
    size: u64,
    mtime: i64,
}

impl Entry {
    fn encode(&self, to: &mut [u8]) {
        to[..8].copy_from_slice(&self.size.to_le_bytes());
        to[8..16].copy_from_slice(&self.mtime.to_le_bytes());
        to[16] = self.name.len() as u8;
        to[17..17 + self.name.len()].copy_from_slice(&self.name);
    }

    /// Whatever the device holds, the answer makes sense.
    fn decode(from: &[u8]) -> Self {
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| from[at + n]));
        let len = usize::from(from[16]).min(NAME_MAX);
        Self {
            name: from[17..17 + len].to_vec(),
            size: number(0).min(AREA),
            mtime: number(8) as i64,
        }
    }
}

/// The table in memory, and its device.
struct Table {
    device: Arc<dyn BlockDevice>,
    entries: Mutex<Vec<Entry>>,
}

impl Table {
    /// One block is written or not, so the table is always whole.
    fn write(&self) -> Result<()> {
        let mut block = vec![0; BLOCK];
        for (entry, to) in self.entries.lock().iter().zip(block.chunks_mut(ENTRY)) {
            entry.encode(to);
        }
        self.device.write_at(DevAddr::new(0), &block)?;
        Ok(self.device.flush()?)
    }
}
// ANCHOR_END: format

// ANCHOR: inode
/// A book in memory.
struct Book {
    inode: Inode,
    slot: usize,
    generation: u64,
    table: Arc<Table>,
    /// Which areas are taken, one bit each; shared by all books.
    taken: Arc<AtomicU64>,
}

impl Book {
    /// Where the book lives: one mapping, always.
    fn extent(&self) -> Iomap {
        let addr = DevAddr::new(BLOCK as u64 + self.slot as u64 * AREA);
        let all = FileRange::at_most(FilePos::ZERO, AREA);
        Iomap::new(all, MapKind::Mapped { addr })
    }
}
// ANCHOR_END: inode

// ANCHOR: map
impl MapOps for Book {
    type Lease = ();
    const ORDER: TransactionOrder = TransactionOrder::InFolio;

    fn inode(&self) -> &Inode {
        &self.inode
    }

    fn begin(&self, req: &MapRequest) -> Result<Mapped<()>, MapError> {
        let start = req.range.start();
        if start.bytes() < AREA {
            return Ok(Mapped::new(self.extent(), ()));
        }
        if req.intent.is_write() {
            return Err(FsError::TooBig.into());
        }
        Ok(Mapped::new(
            Iomap::new(FileRange::from(start), MapKind::Hole),
            (),
        ))
    }

    fn end(&self, (): (), _finished: &Finished<'_>) -> Result<()> {
        Ok(())
    }

    fn file_modified(&self, _nowait: bool) -> Result<()> {
        self.table.entries.lock()[self.slot].mtime = Timestamp::now().secs;
        Ok(())
    }
}

/// Nothing is needed around a locked folio.
impl FolioOps for Book {
    type Guard = ();
}
// ANCHOR_END: map

// ANCHOR: writeback
impl WritebackOps for Book {
    fn map_writeback(&self, _: Option<&mut ()>, _: &WritebackRequest) -> Result<Option<Iomap>> {
        Ok(Some(self.extent()))
    }

    /// The size on the device follows the data, never the other way round.
    fn ioend_needs_work(&self, ioend: &IoendRange) -> bool {
        ioend.range.end().bytes() > self.table.entries.lock()[self.slot].size
    }

    fn ioend_done(&self, ioend: &IoendRange) -> Result<()> {
        self.grown_to(ioend.range.end());
        Ok(())
    }

    fn sync_metadata(&self, _data_only: bool) -> Result<()> {
        self.table.write()
    }
}

impl DirectOps for Book {
    fn direct_done(&self, done: &DirectDone) -> Result<()> {
        self.grown_to(done.range.take(done.written).end());
        Ok(())
    }

    fn is_overwrite(&self, range: FileRange) -> Result<Overwrite> {
        let inside = range.end() <= self.inode.size();
        Ok(if inside {
            Overwrite::Written
        } else {
            Overwrite::No
        })
    }
}

impl Book {
    fn grown_to(&self, end: FilePos) {
        let entry = &mut self.table.entries.lock()[self.slot];
        entry.size = entry.size.max(end.min(self.inode.size()).bytes());
    }
}
// ANCHOR_END: writeback

// ANCHOR: truncate
impl Book {
    /// Behind the end of a book its area is zero, always: so growing needs no storage, and shows
    /// nothing old.
    fn truncate(&self, size: FilePos) -> Result<()> {
        if size.bytes() > AREA {
            return Err(FsError::TooBig);
        }
        let guard = self.inode.lock_exclusive();
        self.inode.wait_for_direct(&guard);
        let _invalidate = self.inode.invalidate_lock().write();
        let old = self.inode.size();
        if size >= old {
            zero_old_end(self, size)?;
            write_and_wait(self, FileRange::from(old.round_down(BlockBits::PAGE)))?;
            self.inode.set_size(size);
            isize_extended(&self.inode, old, size);
        } else {
            if truncate_page(self, size)? {
                let last = FileRange::between(size.round_down(BlockBits::PAGE), size);
                write_and_wait(self, last)?;
            }
            self.inode.set_size(size);
            self.inode.cache().truncate(FileRange::from(size));
            self.erase(size.round_up(BlockBits::PAGE), old)?;
        }
        self.table.entries.lock()[self.slot].size = size.bytes();
        self.file_modified(false)
    }

    /// Makes the rule true again after a crash: data may have been written that the table does not
    /// know of.
    fn recover(&self) -> Result<()> {
        let size = self.inode.size();
        let block = size.round_down(BlockBits::PAGE);
        if block < size {
            let addr = DevAddr::new(BLOCK as u64 + self.slot as u64 * AREA + block.bytes());
            let mut bytes = vec![0; BLOCK];
            self.table.device.read_at(addr, &mut bytes)?;
            bytes[size.since(block) as usize..].fill(0);
            self.table.device.write_at(addr, &bytes)?;
        }
        self.erase(size.round_up(BlockBits::PAGE), FilePos::saturating(AREA))
    }

    /// Makes whole blocks of the area zero.
    fn erase(&self, from: FilePos, to: FilePos) -> Result<()> {
        let to = to.round_up(BlockBits::PAGE);
        if from >= to {
            return Ok(());
        }
        let addr = BLOCK as u64 + self.slot as u64 * AREA + from.bytes();
        let zeroes = vec![0; to.since(from) as usize];
        Ok(self.table.device.write_at(DevAddr::new(addr), &zeroes)?)
    }
}

impl Drop for Book {
    /// Nobody uses it any more. If it lost its name as well, its area is free.
    fn drop(&mut self) {
        if self.table.entries.lock()[self.slot].name.is_empty() {
            self.taken.fetch_and(!(1 << self.slot), Relaxed);
        }
    }
}
// ANCHOR_END: truncate

// ANCHOR: shelf
/// What keeps a book with a name, and how one without is found.
type Known = (Option<Arc<Book>>, Weak<Book>);

/// A mounted shelf.
struct Shelf {
    table: Arc<Table>,
    pool: PoolHandle,
    counters: Arc<Counters>,
    taken: Arc<AtomicU64>,
    /// By place: books with a name are kept, others only known while somebody uses them.
    books: Mutex<Vec<Known>>,
    /// Of the next book.
    generation: AtomicU64,
    /// All books belong to whoever mounted.
    owner: (u32, u32),
}

const ROOT: Ino = Ino(1);

impl Shelf {
    /// An empty shelf.
    fn mkfs(device: &dyn BlockDevice) -> Result<()> {
        device.write_at(DevAddr::new(0), &[0; BLOCK])?;
        Ok(device.flush()?)
    }

    fn open(device: Arc<dyn BlockDevice>) -> Result<Arc<Self>> {
        if device.size() < BLOCK as u64 + BOOKS as u64 * AREA {
            return Err(FsError::Invalid("the device is too small for a shelf"));
        }
        let mut block = vec![0; BLOCK];
        device.read_at(DevAddr::new(0), &mut block)?;
        let entries: Vec<_> = block.chunks(ENTRY).map(Entry::decode).collect();
        let shelf = Self {
            table: Arc::new(Table {
                device,
                entries: Mutex::new(entries.clone()),
            }),
            pool: Pool::new(PoolConfig::with_budget(128 << 20))?,
            counters: Counters::new(),
            taken: Arc::default(),
            books: Mutex::new(vec![Default::default(); BOOKS]),
            // Larger than any before: this is what tells a new file from an old one.
            generation: AtomicU64::new(Timestamp::now().secs.unsigned_abs() << 20),
            owner: {
                use rustix::process::{getgid, getuid};
                (getuid().as_raw(), getgid().as_raw())
            },
        };
        for (slot, entry) in entries
            .iter()
            .enumerate()
            .filter(|(_, e)| !e.name.is_empty())
        {
            shelf.place(slot, entry.size).recover()?;
        }
        Ok(Arc::new(shelf))
    }

    /// Puts a book into memory.
    fn place(&self, slot: usize, size: u64) -> Arc<Book> {
        self.taken.fetch_or(1 << slot, Relaxed);
        let book = Arc::new(Book {
            inode: Inode::new(InodeConfig {
                ino: slot as u64 + 2,
                block_bits: BlockBits::PAGE,
                size: FilePos::saturating(size),
                pool: self.pool.clone(),
                device: Arc::clone(&self.table.device),
                counters: Arc::clone(&self.counters),
                stable_writes: false,
            }),
            slot,
            generation: self.generation.fetch_add(1, Relaxed),
            table: Arc::clone(&self.table),
            taken: Arc::clone(&self.taken),
        });
        self.books.lock()[slot] = (Some(Arc::clone(&book)), Arc::downgrade(&book));
        book
    }

    fn book(&self, ino: Ino) -> Result<Arc<Book>> {
        let slot = ino.0.checked_sub(2).and_then(|n| usize::try_from(n).ok());
        let books = self.books.lock();
        let found = slot.and_then(|slot| books.get(slot)?.1.upgrade());
        found.ok_or_else(|| Errno::NOENT.into())
    }

    fn named(&self, name: &[u8]) -> Result<Arc<Book>> {
        let slot = self
            .table
            .entries
            .lock()
            .iter()
            .position(|e| e.name == name);
        let slot = slot.filter(|_| !name.is_empty()).ok_or(Errno::NOENT)?;
        self.book(Ino(slot as u64 + 2))
    }

    fn attr(&self, book: &Book) -> Attr {
        let entry = self.table.entries.lock()[book.slot].clone();
        let time = Timestamp {
            secs: entry.mtime,
            nanos: 0,
        };
        let linked = !entry.name.is_empty();
        Attr {
            ino: Ino(book.slot as u64 + 2),
            generation: book.generation,
            kind: FileType::Regular,
            mode: 0o644,
            nlink: u32::from(linked),
            size: book.inode.size().bytes(),
            blocks: AREA / 512,
            ..self.root_attr(time)
        }
    }

    fn root_attr(&self, time: Timestamp) -> Attr {
        Attr {
            ino: ROOT,
            generation: 0,
            kind: FileType::Directory,
            mode: 0o755,
            nlink: 2,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            size: 0,
            blocks: 0,
            block_size: BLOCK as u32,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        }
    }
}
// ANCHOR_END: shelf

// ANCHOR: vfs
impl Vfs for Shelf {
    fn root(&self) -> Ino {
        ROOT
    }

    fn lookup(&self, _dir: Ino, name: &[u8]) -> Result<Attr> {
        match name {
            b"." | b".." => self.getattr(ROOT),
            name => Ok(self.attr(&*self.named(name)?)),
        }
    }

    fn getattr(&self, ino: Ino) -> Result<Attr> {
        match ino {
            ROOT => Ok(self.root_attr(Timestamp::default())),
            ino => Ok(self.attr(&*self.book(ino)?)),
        }
    }

    fn hold(&self, ino: Ino) -> Result<Held> {
        match ino {
            ROOT => Ok(Box::new(())),
            ino => Ok(Box::new(self.book(ino)?)),
        }
    }

    fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() {
            return Err(FsError::Unsupported("modes and owners"));
        }
        let book = self.book(ino)?;
        if let Some(size) = set.size {
            book.truncate(FilePos::new(size).ok_or(FsError::TooBig)?)?;
        }
        if let Some(time) = set.mtime {
            self.table.entries.lock()[book.slot].mtime = time.secs;
        }
        Ok(self.attr(&book))
    }

    fn mknod(&self, _dir: Ino, name: &[u8], special: Special, _new: &NewInode) -> Result<Attr> {
        if special != Special::Regular {
            return Err(FsError::Unsupported("anything but files"));
        }
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        let mut entries = self.table.entries.lock();
        if entries.iter().any(|entry| entry.name == name) {
            return Err(Errno::EXIST.into());
        }
        let slot = (!self.taken.load(Relaxed)).trailing_zeros() as usize;
        if slot == BOOKS {
            return Err(FsError::NoSpace);
        }
        let book = self.place(slot, 0);
        if let Err(error) = book.recover() {
            drop(entries);
            self.books.lock()[slot].0 = None;
            return Err(error);
        }
        entries[slot] = Entry {
            name: name.to_vec(),
            size: 0,
            mtime: Timestamp::now().secs,
        };
        drop(entries);
        Ok(self.attr(&book))
    }

    fn unlink(&self, _dir: Ino, name: &[u8]) -> Result<()> {
        let book = self.named(name)?;
        self.table.entries.lock()[book.slot].name.clear();
        let shelved = self.books.lock()[book.slot].0.take();
        // The last one that has it frees the area.
        drop((shelved, book));
        Ok(())
    }

    fn rename(&self, dir: Ino, name: &[u8], _to: Ino, to: &[u8], mode: RenameMode) -> Result<()> {
        let book = self.named(name)?;
        if to.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        match (self.named(to).is_ok(), mode) {
            (true, RenameMode::NoReplace) => return Err(Errno::EXIST.into()),
            (_, RenameMode::Exchange) => return Err(FsError::Unsupported("exchange")),
            (true, _) if name != to => self.unlink(dir, to)?,
            _ => {}
        }
        self.table.entries.lock()[book.slot].name = to.to_vec();
        Ok(())
    }

    fn readdir(
        &self,
        _dir: Ino,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let entries = self.table.entries.lock().clone();
        let dots = [(ROOT, b".".to_vec()), (ROOT, b"..".to_vec())];
        let books = (2..)
            .map(Ino)
            .zip(entries.into_iter().map(|entry| entry.name));
        // The place of an entry never changes, so it is a good cookie.
        for (at, (ino, name)) in (1..).zip(dots.into_iter().chain(books)) {
            let kind = if ino == ROOT {
                FileType::Directory
            } else {
                FileType::Regular
            };
            let entry = DirEntry {
                ino,
                kind,
                name,
                cookie: at,
            };
            if at > cookie && !entry.name.is_empty() && !emit(&entry) {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Arc<dyn OpenFile>> {
        if ino == ROOT {
            return Err(Errno::ISDIR.into());
        }
        let book = self.book(ino)?;
        if flags.contains(OpenFlags::TRUNCATE) {
            book.truncate(FilePos::ZERO)?;
        }
        Ok(Arc::new(Reader(File::new(book, flags))))
    }

    fn statfs(&self) -> Result<StatFs> {
        let used = u64::from(self.taken.load(Relaxed).count_ones());
        let (blocks, all) = (AREA / BLOCK as u64, BOOKS as u64);
        Ok(StatFs {
            block_size: BLOCK as u32,
            blocks: all * blocks,
            blocks_free: (all - used) * blocks,
            blocks_available: (all - used) * blocks,
            files: all,
            files_free: all - used,
            name_max: NAME_MAX as u32,
        })
    }

    fn sync(&self) -> Result<()> {
        let books: Vec<_> = self
            .books
            .lock()
            .iter()
            .filter_map(|book| book.0.clone())
            .collect();
        let written = books
            .iter()
            .map(|book| write_and_wait(&**book, FileRange::ALL));
        let written = written.fold(Ok(()), Result::and);
        written.and(self.table.write())
    }

    fn fsync_inode(&self, ino: Ino, data_only: bool) -> Result<()> {
        match ino {
            ROOT => self.table.write(),
            ino => fsync(&*self.book(ino)?, FileRange::ALL, data_only),
        }
    }

    fn counters(&self) -> Snapshot {
        self.counters.snapshot()
    }
    // ANCHOR_END: vfs

    fn mkdir(&self, _dir: Ino, _name: &[u8], _new: &NewInode) -> Result<Attr> {
        Err(FsError::Unsupported("directories"))
    }

    fn rmdir(&self, _dir: Ino, _name: &[u8]) -> Result<()> {
        Err(Errno::NOTDIR.into())
    }

    fn symlink(&self, _dir: Ino, _name: &[u8], _target: &[u8], _new: &NewInode) -> Result<Attr> {
        Err(FsError::Unsupported("symbolic links"))
    }

    fn readlink(&self, _ino: Ino) -> Result<Vec<u8>> {
        Err(FsError::Invalid("not a symbolic link"))
    }

    fn link(&self, _ino: Ino, _dir: Ino, _name: &[u8]) -> Result<Attr> {
        Err(FsError::Unsupported("hard links"))
    }

    fn getxattr(&self, _ino: Ino, _name: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::NODATA.into())
    }

    fn setxattr(&self, _ino: Ino, _name: &[u8], _value: &[u8], _mode: XattrMode) -> Result<()> {
        Err(FsError::Unsupported("extended attributes"))
    }

    fn listxattr(&self, _ino: Ino) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    fn removexattr(&self, _ino: Ino, _name: &[u8]) -> Result<()> {
        Err(Errno::NODATA.into())
    }
}

// ANCHOR: openfile
/// An open book: everything is the framework's.
struct Reader(File<Book>);

impl OpenFile for Reader {
    fn ino(&self) -> Ino {
        Ino(self.0.backend().slot as u64 + 2)
    }

    fn read_at(&self, pos: FilePos, to: &mut [u8], flags: IoFlags) -> Result<usize> {
        self.0.read_at(pos, to, flags)
    }

    fn write_at(&self, pos: FilePos, from: &[u8], flags: IoFlags) -> Result<usize> {
        self.0.write_at(pos, from, flags)
    }

    fn fsync(&self, data_only: bool) -> Result<()> {
        self.0.fsync(data_only)
    }

    fn sync_range(&self, range: FileRange, wait: bool) -> Result<()> {
        self.0.sync_range(range, wait)
    }

    fn fallocate(&self, _mode: Fallocate, _range: FileRange) -> Result<()> {
        Err(FsError::Unsupported("fallocate"))
    }

    fn seek(&self, pos: FilePos, whence: Whence) -> Result<FilePos, SeekError> {
        self.0.seek(pos, whence)
    }

    fn fiemap(&self, range: FileRange, sync: bool) -> Result<Vec<Extent>> {
        self.0.fiemap(range, sync)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
// ANCHOR_END: openfile

// ANCHOR: main
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Arc::new(MemoryDevice::new(BLOCK as u64 + BOOKS as u64 * AREA));
    Shelf::mkfs(&*device)?;
    let shelf = Shelf::open(device)?;
    let Some(dir) = std::env::args_os().nth(1) else {
        println!("{}", try_it(&shelf)?);
        return Ok(());
    };
    let options = iomap_fuse::MountOptions::default();
    let mount = iomap_fuse::mount(shelf, dir.as_ref(), &options)?;
    println!("on {}; umount ends it", mount.dir().display());
    Ok(mount.wait()?)
}

/// Writes a book and reads it back.
fn try_it(shelf: &Shelf) -> Result<String> {
    let book = shelf.mknod(ROOT, b"novel", Special::Regular, &NewInode::default())?;
    let file = shelf.open(book.ino, OpenFlags::READ | OpenFlags::WRITE)?;
    file.write_at(
        FilePos::saturating(10_000),
        b"It was a dark night.",
        IoFlags::empty(),
    )?;
    file.fsync(false)?;
    let mut bytes = [0; 20];
    file.read_at(FilePos::saturating(10_000), &mut bytes, IoFlags::empty())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
// ANCHOR_END: main

// ANCHOR: tests
#[cfg(test)]
mod tests {
    use super::*;

    type Test = Result<(), Box<dyn std::error::Error>>;

    fn shelf() -> Result<(Arc<MemoryDevice>, Arc<Shelf>)> {
        let device = Arc::new(MemoryDevice::new(BLOCK as u64 + BOOKS as u64 * AREA));
        Shelf::mkfs(&*device)?;
        let shelf = Shelf::open(device.clone())?;
        Ok((device, shelf))
    }

    #[test]
    fn what_was_synced_is_there_after_a_crash() -> Test {
        let (device, shelf) = shelf()?;
        assert_eq!(try_it(&shelf)?, "It was a dark night.");
        // No unmount: the memory is gone, the device is not.
        drop(shelf);
        let again = Shelf::open(device)?;
        let book = again.lookup(ROOT, b"novel")?;
        assert_eq!(book.size, 10_020);
        let mut bytes = [1; 10_020];
        let file = again.open(book.ino, OpenFlags::READ)?;
        assert_eq!(
            file.read_at(FilePos::ZERO, &mut bytes, IoFlags::empty())?,
            10_020
        );
        assert!(bytes[..10_000].iter().all(|byte| *byte == 0));
        assert_eq!(&bytes[10_000..], b"It was a dark night.");
        Ok(())
    }

    #[test]
    fn a_new_book_shows_nothing_of_the_old_one() -> Test {
        let (_, shelf) = shelf()?;
        try_it(&shelf)?;
        shelf.unlink(ROOT, b"novel")?;
        assert!(shelf.lookup(ROOT, b"novel").is_err());
        let book = shelf.mknod(ROOT, b"other", Special::Regular, &NewInode::default())?;
        let size = SetAttr {
            size: Some(20_000),
            ..SetAttr::default()
        };
        shelf.setattr(book.ino, &size)?;
        let mut bytes = vec![1; 20_000];
        let file = shelf.open(book.ino, OpenFlags::READ)?;
        assert_eq!(
            file.read_at(FilePos::ZERO, &mut bytes, IoFlags::empty())?,
            20_000
        );
        assert!(bytes.iter().all(|byte| *byte == 0));
        Ok(())
    }

    #[test]
    fn a_full_shelf_and_a_full_book_are_errors() -> Test {
        let (_, shelf) = shelf()?;
        let make = |name: String| {
            shelf.mknod(
                ROOT,
                name.as_bytes(),
                Special::Regular,
                &NewInode::default(),
            )
        };
        for n in 0..BOOKS {
            make(n.to_string())?;
        }
        assert_eq!(make("one more".to_owned()).err(), Some(FsError::NoSpace));
        let file = shelf.open(Ino(2), OpenFlags::WRITE)?;
        let end = FilePos::saturating(AREA - 1);
        assert_eq!(file.write_at(end, b"xx", IoFlags::empty())?, 1);
        let past = FilePos::saturating(AREA);
        assert_eq!(
            file.write_at(past, b"x", IoFlags::empty()),
            Err(FsError::TooBig)
        );
        Ok(())
    }
}
// ANCHOR_END: tests
