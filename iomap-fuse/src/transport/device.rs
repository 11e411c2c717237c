//! Requests read from `/dev/fuse`, answers and notifications written to it.
//!
//! Owns the descriptors, the memory a request is read into, and what the errors of the device mean.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::{ALIGN, Aligned, answer, serve};
use crate::server::Server;
use crate::wire::{
    InHeader, MIN_READ_BUFFER, NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE, NodeId, NotifyInvalEntryOut,
    NotifyInvalInodeOut, Opcode, OutHeader, Request, WriteIn, split,
};

/// Where a request begins, so that the data of a `WRITE` is aligned.
const LEAD: usize = ALIGN - size_of::<InHeader>() - size_of::<WriteIn>();

/// A descriptor of a connection to the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Device(Arc<OwnedFd>);

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Device {
    pub(crate) fn new(descriptor: OwnedFd) -> Self {
        Self(Arc::new(descriptor))
    }

    /// Another descriptor of the same connection, for another thread: the kernel keeps the requests
    /// that each has read apart.
    ///
    /// # Errors
    ///
    /// What opening the device or the kernel gives.
    pub(crate) fn another(&self) -> io::Result<Self> {
        /// `FUSE_DEV_IOC_CLONE`: reads the number of the other descriptor.
        const CLONE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(229, 0);
        let new = File::options().read(true).write(true).open("/dev/fuse")?;
        let ours = self.0.as_raw_fd().cast_unsigned();
        // SAFETY: the number is that of this request, which reads a `u32` and writes nothing.
        unsafe {
            let request = rustix::ioctl::Setter::<CLONE, u32>::new(ours);
            rustix::ioctl::ioctl(&new, request)?;
        }
        Ok(Self::new(new.into()))
    }

    /// Waits for a request. `None`: the mount is gone.
    ///
    /// # Errors
    ///
    /// `ECONNABORTED` if the connection was taken away.
    pub(crate) fn receive(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(&self.0, &mut *room) {
                Ok(len) => return Ok(Some(len)),
                // Whoever made the request has given it up.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::NODEV) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends an answer or a notification; `header` knows how long it is.
    ///
    /// # Errors
    ///
    /// `ENOENT` if nobody waits for it; what the kernel refuses it with.
    pub(crate) fn send(&self, header: &OutHeader, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices = vec![IoSlice::new(header.as_bytes())];
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        // Taken whole or not at all.
        rustix::io::writev(&self.0, &slices)?;
        Ok(())
    }

    /// Serves until the mount is gone. `max_data`: bytes of the longest data of a request or answer.
    ///
    /// # Errors
    ///
    /// `ECONNABORTED` if the connection was taken away; `InvalidData` if what comes is no request.
    pub(crate) fn serve(&self, server: &Server, max_data: usize) -> io::Result<()> {
        let max_data = max_data.max(MIN_READ_BUFFER);
        let mut incoming = Aligned::new(ALIGN + max_data);
        let mut outgoing = Aligned::new(max_data);
        while let Some(len) = self.receive(&mut incoming.as_mut()[LEAD..])? {
            let bytes = &incoming.as_ref()[LEAD..LEAD + len];
            let header = self.serve_one(server, bytes, outgoing.as_mut())?;
            if Opcode::from_number(header.opcode) == Some(Opcode::Destroy) {
                break;
            }
        }
        Ok(())
    }

    /// Serves a request and sends its answer. Returns the header of the request.
    fn serve_one(&self, server: &Server, bytes: &[u8], room: &mut [u8]) -> io::Result<InHeader> {
        let Ok((header, rest)) = InHeader::read_from_prefix(bytes) else {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        };
        let answer = match split(header.opcode, rest) {
            Some((head, data)) => serve(server, &Request::new(header, head, data), room),
            None => answer(&Request::new(header, &[], rest), -libc::EINVAL, 0),
        };
        if Opcode::from_number(header.opcode).is_none_or(Opcode::is_answered) {
            let len = answer.len as usize - size_of::<OutHeader>();
            if let Err(error) = self.send(&answer, &[&room[..len]]) {
                // Nobody waits any more, or the mount is gone: then reading tells.
                tracing::debug!(target: "iomap_fuse", opcode = header.opcode, %error, "no answer");
            }
        }
        Ok(header)
    }
}

/// Tells the kernel what it cannot know.
#[derive(Clone, Debug)]
pub(crate) struct Notifier(Device);

impl Notifier {
    pub(crate) const fn new(device: Device) -> Self {
        Self(device)
    }

    /// The attributes of an inode are not what they were, nor `len` bytes from `start` on: none with a
    /// `start` below 0, all with a `len` of 0.
    ///
    /// # Errors
    ///
    /// What the kernel says; an inode it does not know of is none.
    pub(crate) fn inval_inode(&self, node: NodeId, start: i64, len: i64) -> io::Result<()> {
        let told = NotifyInvalInodeOut {
            ino: node.0,
            off: start,
            len,
        };
        self.notify(NOTIFY_INVAL_INODE, &[told.as_bytes()])
    }

    /// A name in a directory is not what it was.
    ///
    /// # Errors
    ///
    /// What the kernel says; a name it does not know of is none.
    pub(crate) fn inval_entry(&self, dir: NodeId, name: &[u8]) -> io::Result<()> {
        let namelen = u32::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        let told = NotifyInvalEntryOut {
            parent: dir.0,
            namelen,
            flags: 0,
        };
        self.notify(NOTIFY_INVAL_ENTRY, &[told.as_bytes(), name, b"\0"])
    }

    fn notify(&self, code: i32, parts: &[&[u8]]) -> io::Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let header = OutHeader {
            len: u32::try_from(size_of::<OutHeader>() + len).map_err(|_| Errno::TOOBIG)?,
            error: code,
            unique: 0,
        };
        match self.0.send(&header, parts) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            sent => sent,
        }
    }
}
