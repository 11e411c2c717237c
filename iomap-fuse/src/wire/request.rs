//! A request, taken apart.
//!
//! Owns that nothing outside the bytes of a request is looked at, whatever they say.

use iomap_core::error::{Errno, Result};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{Caller, InHeader, NodeId, Opcode};

/// A request of the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) header: InHeader,
    /// The structure it begins with; may be longer, never shorter than the opcode says.
    head: &'a [u8],
    /// Names or data.
    payload: &'a [u8],
}

/// Takes the bytes after a header apart: the structure, and what follows it. `None` if they are too
/// few.
pub(crate) fn split(opcode: u32, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let head_len = Opcode::from_number(opcode).map_or(0, Opcode::head_len);
    bytes.split_at_checked(head_len)
}

impl<'a> Request<'a> {
    pub(crate) const fn new(header: InHeader, head: &'a [u8], payload: &'a [u8]) -> Self {
        Self {
            header,
            head,
            payload,
        }
    }

    /// `None`: a request that is not served here.
    pub(crate) const fn opcode(&self) -> Option<Opcode> {
        Opcode::from_number(self.header.opcode)
    }

    /// The inode it is about.
    pub(crate) const fn node(&self) -> NodeId {
        NodeId(self.header.nodeid)
    }

    pub(crate) const fn caller(&self) -> Caller {
        Caller {
            uid: self.header.uid,
            gid: self.header.gid,
        }
    }

    /// The structure it begins with.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the bytes are too few.
    pub(crate) fn head<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<T> {
        let (head, _) = T::read_from_prefix(self.head).map_err(|_| Errno::INVAL)?;
        Ok(head)
    }

    /// All that follows the structure.
    pub(crate) const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The first `len` bytes that follow the structure.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there are fewer.
    pub(crate) fn data(&self, len: u32) -> Result<&'a [u8]> {
        let data = self.payload.get(..len as usize);
        data.ok_or_else(|| Errno::INVAL.into())
    }

    /// The name that follows the structure.
    ///
    /// # Errors
    ///
    /// `EINVAL` if none ends.
    pub(crate) fn name(&self) -> Result<&'a [u8]> {
        Ok(self.name_and_rest()?.0)
    }

    /// The two names that follow the structure.
    ///
    /// # Errors
    ///
    /// `EINVAL` if one does not end.
    pub(crate) fn names(&self) -> Result<(&'a [u8], &'a [u8])> {
        let (first, rest) = self.name_and_rest()?;
        Ok((first, until_nul(rest)?.0))
    }

    /// The name that follows the structure, and what follows the name.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the name does not end.
    pub(crate) fn name_and_rest(&self) -> Result<(&'a [u8], &'a [u8])> {
        until_nul(self.payload)
    }
}

/// The bytes before the first NUL, and those after it.
fn until_nul(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let end = end.ok_or(Errno::INVAL)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use zerocopy::IntoBytes;

    use super::super::{LinkIn, MkdirIn, ReadIn};
    use super::*;

    fn request<'a>(head: &'a [u8], payload: &'a [u8]) -> Request<'a> {
        let header = InHeader::of(9, 7);
        Request::new(header, head, payload)
    }

    #[test]
    fn the_structure_and_what_follows_it_come_apart() {
        let head = MkdirIn {
            mode: 0o755,
            umask: 0o22,
        };
        let bytes = [head.as_bytes(), b"name\0"].concat();
        let (head, payload) = split(9, &bytes).unwrap();
        let request = request(head, payload);
        assert_eq!(request.head::<MkdirIn>().unwrap().mode, 0o755);
        assert_eq!(request.name().unwrap(), b"name");
        assert!(split(9, &bytes[..7]).is_none());
    }

    #[test]
    fn two_names_and_a_name_with_data_come_apart() {
        let both = request(b"", b"old\0new\0");
        assert_eq!(both.names().unwrap(), (&b"old"[..], &b"new"[..]));
        let (name, rest) = both.name_and_rest().unwrap();
        assert_eq!((name, rest), (&b"old"[..], &b"new\0"[..]));
        assert_eq!(both.data(3).unwrap(), b"old");
    }

    #[test]
    fn what_is_cut_off_is_invalid_and_nothing_else_is_read() {
        let cut = request(&[0; 7], b"no end");
        assert!(cut.head::<LinkIn>().is_err());
        assert!(cut.name().is_err());
        assert!(cut.data(7).is_err());
        assert!(request(b"", b"one\0two").names().is_err());
        assert!(request(b"", b"").name().is_err());
        assert!(request(&[0; 39], b"").head::<ReadIn>().is_err());
    }
}
