//! An answer, put together in memory that a transport lends.
//!
//! Owns that no answer grows beyond that memory. The header before it is the transport's.

use iomap_core::error::{Errno, Result};
use zerocopy::{Immutable, IntoBytes};

use super::{Dirent, EntryOut};

/// The bytes of an answer.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    room: &'a mut [u8],
    len: usize,
}

impl<'a> Reply<'a> {
    /// An empty one in `room`.
    pub(crate) const fn new(room: &'a mut [u8]) -> Self {
        Self { room, len: 0 }
    }

    /// How long it is.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// What it is so far.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.room[..self.len]
    }

    /// Adds a structure.
    ///
    /// # Errors
    ///
    /// `ERANGE` if there is no room for it.
    pub(crate) fn put<T: IntoBytes + Immutable + ?Sized>(&mut self, part: &T) -> Result<()> {
        let bytes = part.as_bytes();
        let room = self.room.get_mut(self.len..).unwrap_or_default();
        let room = room.get_mut(..bytes.len()).ok_or(Errno::RANGE)?;
        room.copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }

    /// Adds what `fill` writes into memory of `len` bytes, aligned as direct I/O wants it if nothing
    /// was added before. `fill` returns how much it wrote.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no room for it, or what `fill` gives.
    pub(crate) fn fill(
        &mut self,
        len: u32,
        fill: impl FnOnce(&mut [u8]) -> Result<usize>,
    ) -> Result<()> {
        let room = self.room.get_mut(self.len..).unwrap_or_default();
        let room = room.get_mut(..len as usize).ok_or(Errno::INVAL)?;
        let filled = fill(room)?;
        self.len += filled.min(len as usize);
        Ok(())
    }

    /// The entries of a directory, up to `size` bytes.
    pub(crate) fn directory(&mut self, size: u32) -> Directory<'_> {
        let end = self.room.len().min(self.len.saturating_add(size as usize));
        let room = self.room.get_mut(self.len..end).unwrap_or_default();
        Directory {
            room,
            len: &mut self.len,
        }
    }
}

/// The entries of a directory in an answer.
#[derive(Debug)]
pub(crate) struct Directory<'a> {
    /// What is left.
    room: &'a mut [u8],
    /// The length of the answer.
    len: &'a mut usize,
}

impl Directory<'_> {
    /// Adds an entry: for `READDIRPLUS` after what tells the kernel of its inode. Returns whether there
    /// was room.
    pub(crate) fn add(
        &mut self,
        told: Option<&EntryOut>,
        (ino, cookie, kind): (u64, u64, u32),
        name: &[u8],
    ) -> bool {
        let dirent = Dirent {
            ino,
            off: cookie,
            namelen: name.len() as u32,
            kind,
        };
        let told = told.map_or(&[][..], IntoBytes::as_bytes);
        let padding = &[0; 8][..name.len().next_multiple_of(8) - name.len()];
        let parts = [told, dirent.as_bytes(), name, padding];
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > self.room.len() {
            return false;
        }
        let (mut entry, rest) = std::mem::take(&mut self.room).split_at_mut(len);
        for part in parts {
            let (room, after) = entry.split_at_mut(part.len());
            room.copy_from_slice(part);
            entry = after;
        }
        self.room = rest;
        *self.len += len;
        true
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::WriteOut;
    use super::*;

    #[test]
    fn an_answer_grows_up_to_its_room() {
        let mut room = [0; 12];
        let mut reply = Reply::new(&mut room);
        let part = WriteOut {
            size: 5,
            padding: 0,
        };
        reply.put(&part).unwrap();
        assert_eq!(reply.put(&part).unwrap_err().errno(), Errno::RANGE);
        let filled = reply.fill(4, |room| {
            room[..3].copy_from_slice(b"abc");
            Ok(3)
        });
        filled.unwrap();
        assert_eq!(reply.bytes(), b"\x05\0\0\0\0\0\0\0abc");
        assert!(reply.fill(2, |_| Ok(2)).is_err());
    }

    #[test]
    fn entries_stand_at_multiples_of_eight_and_end_where_the_caller_says() {
        let mut room = [0xff; 200];
        let mut reply = Reply::new(&mut room);
        let mut directory = reply.directory(24 + 8 + 24 + 16);
        assert!(directory.add(None, (2, 11, 4), b"abc"));
        assert!(directory.add(None, (3, 12, 8), b"longer name"));
        assert!(!directory.add(None, (4, 13, 8), b"x"));
        let bytes = reply.bytes();
        assert_eq!(bytes.len(), 72);
        assert_eq!(&bytes[24..32], b"abc\0\0\0\0\0");
        assert_eq!(&bytes[56..72], b"longer name\0\0\0\0\0");
    }

    #[test]
    fn an_entry_with_its_inode_is_told_whole_or_not_at_all() {
        let mut room = [0; 200];
        let mut reply = Reply::new(&mut room);
        let mut directory = reply.directory(159);
        assert!(!directory.add(Some(&EntryOut::default()), (2, 1, 8), b"n"));
        assert_eq!(reply.len(), 0);
        assert!(
            reply
                .directory(160)
                .add(Some(&EntryOut::default()), (2, 1, 8), b"n")
        );
        assert_eq!(reply.len(), 160);
    }
}
