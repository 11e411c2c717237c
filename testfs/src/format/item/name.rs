//! Values with a name in them: directory entries and extended attributes.
//!
//! Owns their layout, and which names may be. Where a name is found: [`hash`](super::super::hash).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::units::Ino;
use super::super::{NAME_MAX, XATTR_VALUE_MAX};
use super::{BadItem, FileType};

/// Bytes of a directory entry without the name.
pub const DIRENT_BYTES: usize = size_of::<RawDirent>();
/// Bytes of the head of an extended attribute without name and value.
pub const XATTR_BYTES: usize = size_of::<RawXattr>();

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
