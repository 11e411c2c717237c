//! The attributes of an inode.
//!
//! Owns the value of an inode item, inline data included.

use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::units::Ino;
use super::{BadItem, FileType, Time};

/// Bytes of an inode item without inline data.
pub const INODE_BYTES: usize = size_of::<RawInode>();

/// Where the data of a regular file lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// In extents. Also for everything that is no regular file.
    Extents,
    /// In the inode item. As many bytes as the size of the file.
    Inline(Vec<u8>),
}

/// The attributes of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Type and permission bits, as in `stat`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that point here; for a directory 2 and one for each directory in it.
    pub nlink: u32,
    /// Bytes of the file. The durable size: never ahead of the data.
    pub size: u64,
    /// Blocks of the file system its extents occupy, shared ones included.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Creation.
    pub btime: Time,
    /// Attribute flags (`FS_*_FL` of `FS_IOC_GETFLAGS`); kept, not interpreted here.
    pub flags: u32,
    /// Device number of a device inode.
    pub rdev: u64,
    /// The transaction that created it.
    pub generation: u64,
    /// The directory a directory is in; 0 for everything else.
    pub parent: Ino,
    /// Entries of a directory.
    pub entries: u64,
    /// Where the data is.
    pub body: Body,
}

impl Inode {
    /// The type.
    #[must_use]
    pub const fn file_type(&self) -> FileType {
        match FileType::of_mode(self.mode) {
            Some(file_type) => file_type,
            // Decoding and creating refuse such modes.
            None => FileType::Regular,
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub const fn is_dir(&self) -> bool {
        matches!(self.file_type(), FileType::Directory)
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTime {
    sec: I64,
    nsec: U32,
}

impl RawTime {
    fn new(time: Time) -> Self {
        Self {
            sec: time.sec.into(),
            nsec: time.nsec.into(),
        }
    }

    fn get(self) -> Result<Time, BadItem> {
        if self.nsec.get() >= 1_000_000_000 {
            return Err(BadItem("inode time with too many nanoseconds"));
        }
        Ok(Time {
            sec: self.sec.get(),
            nsec: self.nsec.get(),
        })
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawInode {
    mode: U32,
    uid: U32,
    gid: U32,
    nlink: U32,
    size: U64,
    blocks: U64,
    atime: RawTime,
    mtime: RawTime,
    ctime: RawTime,
    btime: RawTime,
    flags: U32,
    body: u8,
    pad: [u8; 3],
    rdev: U64,
    generation: U64,
    parent: U64,
    entries: U64,
}

impl Inode {
    /// The value of an inode item.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (body, data): (u8, &[u8]) = match &self.body {
            Body::Extents => (0, &[]),
            Body::Inline(data) => (1, data),
        };
        let raw = RawInode {
            mode: self.mode.into(),
            uid: self.uid.into(),
            gid: self.gid.into(),
            nlink: self.nlink.into(),
            size: self.size.into(),
            blocks: self.blocks.into(),
            atime: RawTime::new(self.atime),
            mtime: RawTime::new(self.mtime),
            ctime: RawTime::new(self.ctime),
            btime: RawTime::new(self.btime),
            flags: self.flags.into(),
            body,
            pad: [0; 3],
            rdev: self.rdev.into(),
            generation: self.generation.into(),
            parent: self.parent.get().into(),
            entries: self.entries.into(),
        };
        let mut value = Vec::with_capacity(INODE_BYTES + data.len());
        value.extend_from_slice(raw.as_bytes());
        value.extend_from_slice(data);
        value
    }

    /// Reads an inode item.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode(value: &[u8]) -> Result<Self, BadItem> {
        let (raw, data) =
            RawInode::read_from_prefix(value).map_err(|_| BadItem("inode item too short"))?;
        let mode = raw.mode.get();
        if FileType::of_mode(mode).is_none() || mode > 0xffff {
            return Err(BadItem("inode of unknown type"));
        }
        let size = raw.size.get();
        if size > iomap_core::units::FilePos::MAX.bytes() {
            return Err(BadItem("inode size out of range"));
        }
        let body = match raw.body {
            0 if data.is_empty() => Body::Extents,
            1 if data.len() as u64 == size => Body::Inline(data.to_vec()),
            _ => return Err(BadItem("inode data does not match its size")),
        };
        Ok(Self {
            mode,
            uid: raw.uid.get(),
            gid: raw.gid.get(),
            nlink: raw.nlink.get(),
            size,
            blocks: raw.blocks.get(),
            atime: raw.atime.get()?,
            mtime: raw.mtime.get()?,
            ctime: raw.ctime.get()?,
            btime: raw.btime.get()?,
            flags: raw.flags.get(),
            rdev: raw.rdev.get(),
            generation: raw.generation.get(),
            parent: Ino::new(raw.parent.get()),
            entries: raw.entries.get(),
            body,
        })
    }
}
