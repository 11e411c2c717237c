//! POSIX access control lists as FUSE hands them over: the value of an extended attribute.
//!
//! Owns its layout (`<linux/posix_acl_xattr.h>`), what a list and a mode say of each other, and what
//! a new file inherits. Pure functions. Does not own who may set one, which the kernel checks.

use iomap_core::error::{Errno, Result};

/// The attribute with the list of a file.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute with the list that what is made in a directory begins with.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// The first word of the value.
const VERSION: u32 = 2;
/// Bytes of an entry: two halves and a word.
const ENTRY: usize = 8;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// A list that is valid: owner, group and others once each, and a mask where somebody is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl {
    entries: Vec<Entry>,
}

/// Whether the attribute is one of the two.
pub(crate) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

impl Acl {
    /// Reads the value of the attribute.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for another version; `EINVAL` for what is no valid list.
    pub(crate) fn read(value: &[u8]) -> Result<Self> {
        let (version, rest) = value.split_first_chunk().ok_or(Errno::INVAL)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(Errno::OPNOTSUPP.into());
        }
        let (entries, rest) = rest.as_chunks::<ENTRY>();
        let entries = entries
            .iter()
            .map(|&[t0, t1, p0, p1, i0, i1, i2, i3]| Entry {
                tag: u16::from_le_bytes([t0, t1]),
                permissions: u16::from_le_bytes([p0, p1]),
                id: u32::from_le_bytes([i0, i1, i2, i3]),
            });
        let acl = Self {
            entries: entries.collect(),
        };
        if rest.is_empty() && acl.is_valid() {
            Ok(acl)
        } else {
            Err(Errno::INVAL.into())
        }
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.entries.iter().filter(|entry| entry.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let fixed = [USER_OBJ, GROUP_OBJ, OTHER]
            .iter()
            .all(|&tag| count(tag) == 1);
        let mask = count(MASK);
        fixed
            && (mask == 1 || (mask == 0 && named == 0))
            && named + 3 + mask == self.entries.len()
            && self.entries.iter().all(|entry| entry.permissions <= 7)
    }

    /// The value of the attribute.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            bytes.extend(entry.tag.to_le_bytes());
            bytes.extend(entry.permissions.to_le_bytes());
            bytes.extend(entry.id.to_le_bytes());
        }
        bytes
    }

    /// Whether permission bits say all of it.
    pub(crate) fn is_mode(&self) -> bool {
        self.entries.len() == 3
    }

    /// The entries that are also bits of the mode, each with how far left its bits stand. With a mask
    /// that is what the mode shows for the group.
    fn shown(&mut self) -> impl Iterator<Item = (&mut Entry, u32)> {
        let group = if self.entries.iter().any(|entry| entry.tag == MASK) {
            MASK
        } else {
            GROUP_OBJ
        };
        self.entries.iter_mut().filter_map(move |entry| {
            let shift = match entry.tag {
                USER_OBJ => 6,
                OTHER => 0,
                tag if tag == group => 3,
                _ => return None,
            };
            Some((entry, shift))
        })
    }

    /// The permission bits that belong to it.
    pub(crate) fn mode(&self) -> u16 {
        let mut own = self.clone();
        own.shown()
            .fold(0, |mode, (entry, shift)| mode | entry.permissions << shift)
    }

    /// After `chmod` to these bits.
    pub(crate) fn set_mode(&mut self, mode: u16) {
        for (entry, shift) in self.shown() {
            entry.permissions = mode >> shift & 7;
        }
    }

    /// What is made with `mode` in a directory whose default list this is: it gets no more than both
    /// allow. [`mode`](Self::mode) are its bits then.
    pub(crate) fn restrict(&mut self, mode: u16) {
        for (entry, shift) in self.shown() {
            entry.permissions &= mode >> shift & 7;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entries = entries.iter().map(|&(tag, permissions, id)| Entry {
            tag,
            permissions,
            id,
        });
        Acl {
            entries: entries.collect(),
        }
        .bytes()
    }

    const NOBODY: u32 = u32::MAX;

    fn named() -> Vec<u8> {
        value(&[
            (USER_OBJ, 7, NOBODY),
            (USER, 6, 1000),
            (GROUP_OBJ, 5, NOBODY),
            (MASK, 6, NOBODY),
            (OTHER, 1, NOBODY),
        ])
    }

    #[test]
    fn the_mode_shows_the_mask_where_there_is_one() {
        let acl = Acl::read(&named()).unwrap();
        assert_eq!((acl.mode(), acl.is_mode()), (0o761, false));
        let plain = value(&[
            (USER_OBJ, 6, NOBODY),
            (GROUP_OBJ, 4, NOBODY),
            (OTHER, 0, NOBODY),
        ]);
        let acl = Acl::read(&plain).unwrap();
        assert_eq!((acl.mode(), acl.is_mode()), (0o640, true));
        assert_eq!(acl.bytes(), plain);
    }

    #[test]
    fn chmod_and_what_is_made_change_owner_mask_and_others_only() {
        let mut acl = Acl::read(&named()).unwrap();
        acl.set_mode(0o4520);
        assert_eq!(acl.mode(), 0o520);
        assert_eq!(acl.entries[1].permissions, 6);
        assert_eq!(acl.entries[2].permissions, 5);
        acl.restrict(0o4);
        assert_eq!(acl.mode(), 0);
        let mut acl = Acl::read(&named()).unwrap();
        acl.restrict(0o644);
        assert_eq!(acl.mode(), 0o640);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let good = named();
        for len in 0..good.len() {
            assert!(Acl::read(&good[..len]).is_err(), "{len}");
        }
        let mut other = good.clone();
        other[0] = 1;
        assert_eq!(Acl::read(&other).unwrap_err().errno(), Errno::OPNOTSUPP);
        let fixed = [(USER_OBJ, 7, 0), (GROUP_OBJ, 7, 0), (OTHER, 7, 0)];
        for wrong in [(USER, 7, 1), (OTHER, 7, 0), (0x40, 7, 0), (MASK, 8, 0)] {
            let mut entries = fixed.to_vec();
            entries.push(wrong);
            assert_eq!(
                Acl::read(&value(&entries)).unwrap_err().errno(),
                Errno::INVAL
            );
        }
        assert!(Acl::read(&value(&fixed[..2])).is_err());
    }
}
