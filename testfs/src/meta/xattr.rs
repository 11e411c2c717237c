//! Extended attributes.
//!
//! Owns their items: a head with the name, found by its hash, and the value in it or, if it is long,
//! in pieces behind it. Names are kept whole, with their prefix; what a prefix means and who may use
//! it is the caller's.

use iomap_core::error::{Corrupt, Errno, FsError, Result};

use super::tree::Walk;
use super::view::os;
use super::{Txn, View};
use crate::format::hash::{PROBES, xattr_offset};
use crate::format::item::{Time, XATTR_BYTES, XattrItem};
use crate::format::{Ino, Key, Kind, NAME_MAX, XATTR_VALUE_MAX};

/// What setting an attribute does depending on whether it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetMode {
    /// Sets it either way.
    Any,
    /// Fails with `EEXIST` if it exists.
    Create,
    /// Fails with `ENODATA` if it does not.
    Replace,
}

/// Key offsets from one probe to the next; those between are the pieces of its value.
const STEP: u64 = 1 << 16;

impl View<'_> {
    /// The value of an attribute, or `None` if there is no such.
    ///
    /// # Errors
    ///
    /// Damage, and reading it.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some((key, head)) = self.xattr_head(ino, name)? else {
            return Ok(None);
        };
        if let Some(value) = head.inline {
            return Ok(Some(value));
        }
        let mut value = Vec::new();
        let bytes = |piece: &[u8]| Ok(piece.to_vec());
        let (from, to) = piece_keys(key);
        self.walk(from, to, bytes, |_, piece| {
            value.extend_from_slice(&piece);
            let longer = value.len() > head.len;
            Ok(if longer { Walk::Stop } else { Walk::On })
        })?;
        if value.len() != head.len {
            let what = format!("attribute {key}: value is not as long as its head says");
            return Err(Corrupt::new(what).into());
        }
        Ok(Some(value))
    }

    /// The names of the attributes, in no particular order.
    ///
    /// # Errors
    ///
    /// Damage, and reading it.
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let mut from = Key::new(ino, Kind::Xattr, 0);
        let to = Key::new(ino, Kind::Xattr, u64::MAX);
        // Heads only: jump over the pieces of each.
        while let Some((key, head)) = self.first(from, to, XattrItem::decode)? {
            if key.offset % STEP != 0 {
                return Err(Corrupt::new(format!("attribute {key}: piece without a head")).into());
            }
            names.push(head.name);
            match key.offset.checked_add(STEP) {
                Some(next) => from.offset = next,
                None => break,
            }
        }
        Ok(names)
    }

    /// The head of an attribute, and its key.
    fn xattr_head(&self, ino: Ino, name: &[u8]) -> Result<Option<(Key, XattrItem)>> {
        let first = xattr_offset(self.seed(), name);
        for probe in 0..PROBES {
            let from = Key::new(ino, Kind::Xattr, first + probe * STEP);
            let to = Key::new(ino, Kind::Xattr, first + (PROBES - 1) * STEP + (STEP - 1));
            // Nothing at all from here on is by far the most common answer.
            if self.first(from, to, |_| Ok(()))?.is_none() {
                return Ok(None);
            }
            if let Some(head) = self.get(&from, XattrItem::decode)?
                && head.name == name
            {
                return Ok(Some((from, head)));
            }
        }
        Ok(None)
    }
}

impl Txn<'_> {
    /// Sets an attribute.
    ///
    /// # Errors
    ///
    /// `EEXIST`, `ENODATA` as `mode` says; `ERANGE` for a name, `E2BIG` for a value that is too long.
    pub fn set_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: SetMode,
        now: Time,
    ) -> Result<()> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(os(Errno::RANGE));
        }
        if value.len() > XATTR_VALUE_MAX {
            return Err(os(Errno::TOOBIG));
        }
        match (self.view().xattr_head(ino, name)?, mode) {
            (Some(_), SetMode::Create) => return Err(os(Errno::EXIST)),
            (None, SetMode::Replace) => return Err(os(Errno::NODATA)),
            (Some((key, head)), _) => self.remove_xattr_at(key, &head)?,
            (None, _) => {}
        }
        let key = self.free_xattr_key(ino, name)?;
        let fits = XATTR_BYTES + name.len() + value.len() <= self.geometry().value_max();
        let head = XattrItem {
            name: name.to_vec(),
            len: value.len(),
            inline: fits.then(|| value.to_vec()),
        };
        self.insert(key, &head.encode())?;
        if !fits {
            for (n, piece) in value.chunks(self.geometry().chunk_bytes()).enumerate() {
                let offset = key.offset + 1 + n as u64;
                self.insert(Key { offset, ..key }, piece)?;
            }
        }
        self.touch(ino, now)
    }

    /// Removes an attribute.
    ///
    /// # Errors
    ///
    /// `ENODATA` if there is no such.
    pub fn remove_xattr(&mut self, ino: Ino, name: &[u8], now: Time) -> Result<()> {
        let (key, head) = self
            .view()
            .xattr_head(ino, name)?
            .ok_or(os(Errno::NODATA))?;
        self.remove_xattr_at(key, &head)?;
        self.touch(ino, now)
    }

    fn touch(&mut self, ino: Ino, now: Time) -> Result<()> {
        self.update_inode(ino, |inode| {
            inode.ctime = now;
            Ok(())
        })?;
        Ok(())
    }

    fn remove_xattr_at(&mut self, key: Key, head: &XattrItem) -> Result<()> {
        self.remove_known(&key)?;
        if head.inline.is_some() {
            return Ok(());
        }
        let (from, to) = piece_keys(key);
        while let Some((piece, ())) = self.view().first(from, to, |_| Ok(()))? {
            self.remove_known(&piece)?;
        }
        Ok(())
    }

    fn free_xattr_key(&self, ino: Ino, name: &[u8]) -> Result<Key> {
        let first = xattr_offset(self.view().seed(), name);
        for probe in 0..PROBES {
            let key = Key::new(ino, Kind::Xattr, first + probe * STEP);
            if self.view().get(&key, |_| Ok(()))?.is_none() {
                return Ok(key);
            }
        }
        // 256 names of one seeded 40-bit hash.
        Err(FsError::NoSpace)
    }
}

/// The first and the last key of the pieces of a value whose head is `key`.
const fn piece_keys(key: Key) -> (Key, Key) {
    let from = Key::new(key.ino, key.kind, key.offset + 1);
    let to = Key::new(key.ino, key.kind, key.offset + (STEP - 1));
    (from, to)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::meta::testing::{at, file, new_fs, reopen};
    use crate::meta::{Meta, Purpose};

    fn set(meta: &Meta, ino: Ino, name: &[u8], value: &[u8], mode: SetMode) -> Result<()> {
        meta.update(Purpose::Normal, |txn| {
            txn.set_xattr(ino, name, value, mode, at(9))
        })
    }

    #[test]
    fn values_of_every_length_are_read_back_and_leave_nothing_behind() {
        for block_size in [1024, 4096] {
            let (device, meta) = new_fs(block_size, 4096);
            let ino = meta
                .update(Purpose::Normal, |txn| txn.create(Ino::ROOT, b"f", &file()))
                .unwrap()
                .0;
            meta.commit().unwrap();
            let before = meta.statfs();
            let lengths = [0, 1, 100, 447, 448, 1000, 1979, 1980, 5000, 65536];
            for (n, len) in lengths.into_iter().enumerate() {
                let name = format!("user.{n}");
                set(&meta, ino, name.as_bytes(), b"short", SetMode::Create).unwrap();
                set(
                    &meta,
                    ino,
                    name.as_bytes(),
                    &vec![n as u8; len],
                    SetMode::Any,
                )
                .unwrap();
            }
            meta.commit().unwrap();
            let meta = reopen(&device);
            let names = meta.read(|view| view.xattr_names(ino)).unwrap();
            assert_eq!(names.len(), lengths.len());
            for (n, len) in lengths.into_iter().enumerate() {
                let name = format!("user.{n}");
                let value = meta.read(|view| view.xattr(ino, name.as_bytes())).unwrap();
                assert_eq!(value, Some(vec![n as u8; len]));
                meta.update(Purpose::Normal, |txn| {
                    txn.remove_xattr(ino, name.as_bytes(), at(9))
                })
                .unwrap();
            }
            meta.commit().unwrap();
            assert_eq!(meta.statfs(), before);
        }
    }

    #[test]
    fn the_modes_say_whether_it_must_exist() {
        let (_, meta) = new_fs(4096, 1024);
        let errno = |r: Result<()>| r.unwrap_err().errno();
        let root = Ino::ROOT;
        assert_eq!(
            errno(set(&meta, root, b"user.a", b"1", SetMode::Replace)),
            Errno::NODATA
        );
        set(&meta, root, b"user.a", b"1", SetMode::Create).unwrap();
        assert_eq!(
            errno(set(&meta, root, b"user.a", b"2", SetMode::Create)),
            Errno::EXIST
        );
        set(&meta, root, b"user.a", b"3", SetMode::Replace).unwrap();
        assert_eq!(
            meta.read(|v| v.xattr(root, b"user.a")).unwrap(),
            Some(b"3".to_vec())
        );
        assert_eq!(meta.read(|v| v.xattr(root, b"user.b")).unwrap(), None);
        let long = vec![0; XATTR_VALUE_MAX + 1];
        assert_eq!(
            errno(set(&meta, root, b"user.b", &long, SetMode::Any)),
            Errno::TOOBIG
        );
        assert_eq!(
            errno(set(&meta, root, &[b'x'; 256], b"", SetMode::Any)),
            Errno::RANGE
        );
    }
}
