//! Flags of inodes: the four requests that `lsattr`, `chattr` and `xfs_io` make.
//!
//! Owns their numbers and bytes. FUSE hands on only requests whose size their number tells, so
//! `FIEMAP` does not come here. Who may change flags the kernel has checked.

use iomap_core::error::{Errno, FsError, Result};
use iomap_core::vfs::{Ino, InodeFlags};

use super::Shared;

/// `FS_IOC_GETFLAGS` and the others, as a program of 64 bits makes them.
const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const GET_XATTR: u32 = 0x801c_581f;
const SET_XATTR: u32 = 0x401c_5820;

/// Bytes of `struct fsxattr`.
const XATTR_BYTES: usize = 28;

/// The flags of `fsx_xflags` and what they are called by `FS_IOC_GETFLAGS`.
const XFLAGS: [(u32, InodeFlags); 6] = [
    (0x8, InodeFlags::IMMUTABLE),
    (0x10, InodeFlags::APPEND),
    (0x20, InodeFlags::SYNC),
    (0x40, InodeFlags::NOATIME),
    (0x80, InodeFlags::NODUMP),
    (0x8000, InodeFlags::DAX),
];

impl Shared {
    /// What the request answers, in bytes.
    pub(super) fn ioctl(&self, ino: Ino, request: u32, data: &[u8]) -> Result<Vec<u8>> {
        match request {
            GET_FLAGS => Ok(self.fs().flags(ino)?.bits().to_le_bytes().to_vec()),
            GET_XATTR => Ok(fsxattr(self.fs().flags(ino)?)),
            SET_FLAGS => {
                let flags = InodeFlags::from_bits_retain(first(data)?);
                self.change_flags(ino, flags)
            }
            SET_XATTR => {
                let flags = told(self.fs().flags(ino)?, data)?;
                self.change_flags(ino, flags)
            }
            _ => Err(Errno::NOTTY.into()),
        }
    }

    fn change_flags(&self, ino: Ino, flags: InodeFlags) -> Result<Vec<u8>> {
        self.fs().set_flags(ino, flags)?;
        self.attributes_changed(ino);
        Ok(Vec::new())
    }
}

/// The first word.
fn first(data: &[u8]) -> Result<u32> {
    let word = data.first_chunk().copied().ok_or(Errno::INVAL)?;
    Ok(u32::from_le_bytes(word))
}

/// `struct fsxattr` of an inode.
fn fsxattr(flags: InodeFlags) -> Vec<u8> {
    let known = XFLAGS.iter().filter(|known| flags.contains(known.1));
    let xflags = known.fold(0, |all, known| all | known.0);
    let mut bytes = vec![0; XATTR_BYTES];
    bytes[..4].copy_from_slice(&u32::to_le_bytes(xflags));
    bytes
}

/// The flags that `struct fsxattr` asks for. Extent sizes and projects are not there to be set.
fn told(before: InodeFlags, data: &[u8]) -> Result<InodeFlags> {
    let xflags = first(data)?;
    let rest = data.get(4..XATTR_BYTES).ok_or(Errno::INVAL)?;
    let known = XFLAGS.iter().fold(0, |all, known| all | known.0);
    // The number of extents, in the third word, is told and not asked for.
    let asks = rest[..4].iter().chain(&rest[8..]).any(|byte| *byte != 0);
    if asks || xflags & !known != 0 {
        return Err(FsError::Unsupported("attribute of the inode"));
    }
    let mut flags = before;
    for (bit, flag) in XFLAGS {
        flags.set(flag, xflags & bit != 0);
    }
    Ok(flags)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_comes_back_and_what_is_not_there_is_refused() {
        let flags = InodeFlags::NODUMP | InodeFlags::DAX;
        let mut bytes = fsxattr(flags);
        assert_eq!(told(InodeFlags::empty(), &bytes).unwrap(), flags);
        let other = InodeFlags::from_bits_retain(0x8_0000);
        assert_eq!(told(other, &bytes).unwrap(), flags | other);
        bytes[8] = 3;
        assert!(told(other, &bytes).is_ok());
        bytes[12] = 1;
        assert!(told(other, &bytes).is_err());
        assert!(told(other, &bytes[..20]).is_err());
    }
}
