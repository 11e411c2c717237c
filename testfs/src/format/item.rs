//! The values of items, kind by kind.
//!
//! Owns their layout and the checks of one value alone. Which items must exist together is
//! [`check`](crate::check)'s business.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::units::{DiskBlock, DiskRun, Ino};
use super::{NAME_MAX, XATTR_VALUE_MAX};

/// Bytes of an inode item without inline data.
pub const INODE_BYTES: usize = size_of::<RawInode>();
/// Bytes of a directory entry without the name.
pub const DIRENT_BYTES: usize = size_of::<RawDirent>();
/// Bytes of the head of an extended attribute without name and value.
pub const XATTR_BYTES: usize = size_of::<RawXattr>();
/// The longest extent, blocks.
pub const EXTENT_MAX: u64 = 1 << 31;

/// A value that cannot be: which structure, and what about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadItem(pub &'static str);

/// What an inode is. The numbers are the on-disk ones, those of `S_IFMT >> 12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileType {
    /// A named pipe.
    Fifo = 1,
    /// A character device.
    CharDevice = 2,
    /// A directory.
    Directory = 4,
    /// A block device.
    BlockDevice = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A socket.
    Socket = 12,
}

impl FileType {
    /// The type with this number.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => return None,
        })
    }

    /// The type in the upper bits of a mode.
    #[must_use]
    pub const fn of_mode(mode: u32) -> Option<Self> {
        Self::from_raw(((mode >> 12) & 0xf) as u8)
    }

    /// The upper bits of a mode.
    #[must_use]
    pub const fn mode_bits(self) -> u32 {
        (self as u32) << 12
    }
}

/// A point in time: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

impl Time {
    /// Now, by the system's clock.
    #[must_use]
    pub fn now() -> Self {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => Self {
                sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                nsec: since.subsec_nanos(),
            },
            Err(_) => Self::default(),
        }
    }
}

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

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirent {
    /// What the name points to.
    pub ino: Ino,
    /// Its type.
    pub file_type: FileType,
    /// The name: 1 to [`NAME_MAX`] bytes, no `/` and no zero byte, not `.` or `..`.
    pub name: Vec<u8>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawDirent {
    ino: U64,
    file_type: u8,
}

impl Dirent {
    /// The value of a directory entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let raw = RawDirent {
            ino: self.ino.get().into(),
            file_type: self.file_type as u8,
        };
        let mut value = Vec::with_capacity(DIRENT_BYTES + self.name.len());
        value.extend_from_slice(raw.as_bytes());
        value.extend_from_slice(&self.name);
        value
    }

    /// Reads a directory entry.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode(value: &[u8]) -> Result<Self, BadItem> {
        let (raw, name) =
            RawDirent::read_from_prefix(value).map_err(|_| BadItem("directory entry too short"))?;
        let file_type =
            FileType::from_raw(raw.file_type).ok_or(BadItem("directory entry of unknown type"))?;
        if !is_valid_name(name) {
            return Err(BadItem("directory entry with an impossible name"));
        }
        Ok(Self {
            ino: Ino::new(raw.ino.get()),
            file_type,
            name: name.to_vec(),
        })
    }
}

/// Whether a directory may hold an entry of this name.
#[must_use]
pub fn is_valid_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| *b == b'/' || *b == 0)
}

/// Blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentItem {
    /// Where they live; 1 to [`EXTENT_MAX`] of them.
    pub run: DiskRun,
    /// Allocated and never written: they read as zeroes.
    pub unwritten: bool,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawExtent {
    start: U64,
    len: U32,
    flags: u8,
}

impl ExtentItem {
    /// The value of an extent item.
    #[must_use]
    pub fn encode(&self) -> [u8; size_of::<RawExtent>()] {
        zerocopy::transmute!(RawExtent {
            start: self.run.start.get().into(),
            len: U32::new(self.run.len as u32),
            flags: u8::from(self.unwritten),
        })
    }

    /// Reads an extent item.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode(value: &[u8]) -> Result<Self, BadItem> {
        let raw = RawExtent::read_from_bytes(value).map_err(|_| BadItem("extent of bad length"))?;
        let len = u64::from(raw.len.get());
        if len == 0 || len > EXTENT_MAX || raw.flags > 1 {
            return Err(BadItem("extent with impossible fields"));
        }
        Ok(Self {
            run: DiskRun::new(DiskBlock::new(raw.start.get()), len),
            unwritten: raw.flags & 1 != 0,
        })
    }
}

/// How many files share blocks. Blocks without such an item have one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefcountItem {
    /// Blocks from the key's offset on.
    pub len: u64,
    /// Owners: at least 2.
    pub count: u32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRefcount {
    len: U64,
    count: U32,
}

impl RefcountItem {
    /// The value of a reference count item.
    #[must_use]
    pub fn encode(&self) -> [u8; size_of::<RawRefcount>()] {
        zerocopy::transmute!(RawRefcount {
            len: self.len.into(),
            count: self.count.into(),
        })
    }

    /// Reads a reference count item.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode(value: &[u8]) -> Result<Self, BadItem> {
        let raw = RawRefcount::read_from_bytes(value)
            .map_err(|_| BadItem("reference count of bad length"))?;
        if raw.len.get() == 0 || raw.count.get() < 2 {
            return Err(BadItem("reference count with impossible fields"));
        }
        Ok(Self {
            len: raw.len.get(),
            count: raw.count.get(),
        })
    }
}

/// Why an inode is an orphan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OrphanItem {
    /// It has no name any more: delete it when nobody has it open.
    Unlinked = 1,
    /// It is being cut: free the blocks past its size.
    Truncate = 2,
}

impl OrphanItem {
    /// The value of an orphan item.
    #[must_use]
    pub const fn encode(self) -> [u8; 1] {
        [self as u8]
    }

    /// Reads an orphan item.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub const fn decode(value: &[u8]) -> Result<Self, BadItem> {
        match value {
            [1] => Ok(Self::Unlinked),
            [2] => Ok(Self::Truncate),
            _ => Err(BadItem("orphan of unknown reason")),
        }
    }
}

/// The head of an extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrItem {
    /// The full name, with its prefix; 1 to [`NAME_MAX`] bytes.
    pub name: Vec<u8>,
    /// Bytes of the value.
    pub len: usize,
    /// The value, if it is stored here and not in pieces.
    pub inline: Option<Vec<u8>>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawXattr {
    value_len: U32,
    name_len: U16,
    in_pieces: u8,
}

impl XattrItem {
    /// The value of an attribute's head.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let raw = RawXattr {
            value_len: U32::new(self.len as u32),
            name_len: U16::new(self.name.len() as u16),
            in_pieces: u8::from(self.inline.is_none()),
        };
        let mut value = raw.as_bytes().to_vec();
        value.extend_from_slice(&self.name);
        value.extend_from_slice(self.inline.as_deref().unwrap_or_default());
        value
    }

    /// Reads an attribute's head.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode(value: &[u8]) -> Result<Self, BadItem> {
        let (raw, rest) =
            RawXattr::read_from_prefix(value).map_err(|_| BadItem("attribute too short"))?;
        let (name_len, len) = (
            usize::from(raw.name_len.get()),
            raw.value_len.get() as usize,
        );
        if name_len == 0 || name_len > NAME_MAX || len > XATTR_VALUE_MAX {
            return Err(BadItem("attribute with impossible lengths"));
        }
        let (name, data) = rest
            .split_at_checked(name_len)
            .ok_or(BadItem("attribute name cut short"))?;
        let inline = match raw.in_pieces {
            0 if data.len() == len => Some(data.to_vec()),
            1 if data.is_empty() && len > 0 => None,
            _ => return Err(BadItem("attribute value does not match its length")),
        };
        Ok(Self {
            name: name.to_vec(),
            len,
            inline,
        })
    }
}
