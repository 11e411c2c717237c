//! The asynchronous edge: an open file for tokio.
//!
//! Owns [`AsyncFile`] and [`TokioFile`]. Beneath it every operation is a blocking function with a
//! no-wait form; this module tries that form first, starts what is missing and awaits it holding
//! nothing, lets direct I/O complete through its ticket, and sends only what must block to the
//! blocking pool. Does not drive the device: that is
//! [`AsyncDevice`](crate::device::tokio::AsyncDevice), which the file system must have been given
//! as its device for reads to make progress without a thread.
//!
//! # Dropped futures
//!
//! A future may be dropped at any await. What was started goes on to its end: a fill keeps its
//! folios, a direct request its memory and its place in the in-flight count, a blocking call its
//! thread. A write whose future was dropped may or may not have happened, never half a hook.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::device::DeviceBuf;
use crate::direct::{self, DirectFlags, DirectOutcome};
use crate::error::{Errno, FsError, Result};
use crate::file::File;
use crate::ops::DirectOps;
use crate::units::{FilePos, FileRange};
use crate::vfs::IoFlags;

/// An open file whose operations can be awaited.
#[async_trait]
pub trait AsyncFile: Send + Sync {
    /// Reads up to `len` bytes from `pos` on; fewer only at the end of the file.
    ///
    /// # Errors
    ///
    /// As [`OpenFile::read_at`](crate::vfs::OpenFile::read_at).
    async fn read_at(&self, pos: FilePos, len: usize, flags: IoFlags) -> Result<Bytes>;

    /// Writes at `pos`.
    ///
    /// # Errors
    ///
    /// As [`OpenFile::write_at`](crate::vfs::OpenFile::write_at).
    async fn write_at(&self, pos: FilePos, from: Bytes, flags: IoFlags) -> Result<usize>;

    /// Makes the file durable.
    ///
    /// # Errors
    ///
    /// As [`OpenFile::fsync`](crate::vfs::OpenFile::fsync).
    async fn fsync(&self, data_only: bool) -> Result<()>;
}

/// An open file of a backend, in a tokio runtime.
#[derive(Debug)]
pub struct TokioFile<B>(Arc<File<B>>);

impl<B: DirectOps + 'static> TokioFile<B> {
    /// The file, to be used from tokio tasks.
    #[must_use]
    pub const fn new(file: Arc<File<B>>) -> Self {
        Self(file)
    }

    /// The file.
    #[must_use]
    pub const fn file(&self) -> &Arc<File<B>> {
        &self.0
    }

    /// How much memory a read of `len` bytes takes: what lies behind the last device block of the file
    /// is never read.
    fn memory_for(&self, pos: FilePos, len: usize) -> usize {
        let inode = self.0.backend().inode();
        let block_size = inode.device().limits().block_size;
        let inside = inode.size().since(pos).checked_next_multiple_of(block_size);
        len.min(usize::try_from(inside.unwrap_or(u64::MAX)).unwrap_or(usize::MAX))
    }

    /// Buffered: what is cached at once, then fills that are awaited.
    async fn read_buffered(&self, pos: FilePos, len: usize, flags: IoFlags) -> Result<Bytes> {
        let mut to = BytesMut::zeroed(len);
        let range = FileRange::at_most(pos, len as u64);
        let mut done = 0;
        loop {
            let rest = range.skip(done as u64);
            match self
                .0
                .read_at(rest.start(), &mut to[done..], flags | IoFlags::NOWAIT)
            {
                Ok(0) => break,
                Ok(more) => done += more,
                Err(FsError::WouldBlock) if flags.contains(IoFlags::NOWAIT) && done == 0 => {
                    return Err(FsError::WouldBlock);
                }
                Err(FsError::WouldBlock) if flags.contains(IoFlags::NOWAIT) => break,
                Err(FsError::WouldBlock) => match self.0.start_fill(rest, flags) {
                    Ok(Some(filling)) => {
                        filling.clone().await;
                        if let Some(error) = filling.error() {
                            return if done > 0 { break } else { Err(error.into()) };
                        }
                    }
                    // Another reader's fill, a lock, metadata: a thread waits for those.
                    Ok(None) | Err(FsError::WouldBlock) => {
                        let (bytes, more) =
                            self.read_blocking(rest, flags, to.split_off(done)).await?;
                        to.unsplit(bytes);
                        done += more;
                        break;
                    }
                    Err(_) if done > 0 => break,
                    Err(error) => return Err(error),
                },
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
            if done == len {
                break;
            }
        }
        to.truncate(done);
        Ok(to.freeze())
    }

    /// A read in the blocking pool, into `to`.
    async fn read_blocking(
        &self,
        range: FileRange,
        flags: IoFlags,
        mut to: BytesMut,
    ) -> Result<(BytesMut, usize)> {
        let file = Arc::clone(&self.0);
        blocking(move || {
            let done = file.read_at(range.start(), &mut to, flags)?;
            Ok((to, done))
        })
        .await
    }

    /// Direct, through a ticket; what the device cannot do comes from the cache.
    async fn read_direct(&self, pos: FilePos, len: usize, flags: IoFlags) -> Result<Bytes> {
        let backend = self.0.backend();
        let align = backend.inode().device().limits().memory_align;
        let buffer = DeviceBuf::zeroed(len, align);
        let ticket = {
            let Some(_shared) = backend.inode().try_lock_shared() else {
                return self.read_in_pool(pos, len, flags).await;
            };
            let nowait = DirectFlags::NOWAIT;
            direct::submit_read(Arc::clone(backend), pos, buffer, nowait)
        };
        let result = ticket.await;
        match result.outcome {
            // No larger than the buffer.
            Ok(DirectOutcome::Done(done)) => {
                // The device's memory itself: a copy would take longer than the rest of this call.
                let mut bytes = Bytes::from_owner(result.buffer);
                bytes.truncate(done as usize);
                Ok(bytes)
            }
            Ok(DirectOutcome::UseBuffered { .. }) => {
                self.read_buffered(pos, len, flags.difference(IoFlags::DIRECT))
                    .await
            }
            Err(FsError::WouldBlock) if !flags.contains(IoFlags::NOWAIT) => {
                self.read_in_pool(pos, len, flags).await
            }
            Err(error) => Err(error),
        }
    }

    async fn read_in_pool(&self, pos: FilePos, len: usize, flags: IoFlags) -> Result<Bytes> {
        let range = FileRange::at_most(pos, len as u64);
        let (mut bytes, done) = self
            .read_blocking(range, flags, BytesMut::zeroed(len))
            .await?;
        bytes.truncate(done);
        Ok(bytes.freeze())
    }
}

#[async_trait]
impl<B: DirectOps + 'static> AsyncFile for TokioFile<B> {
    async fn read_at(&self, pos: FilePos, len: usize, flags: IoFlags) -> Result<Bytes> {
        let len = self.memory_for(pos, len);
        if self.0.is_direct(flags) {
            self.read_direct(pos, len, flags).await
        } else {
            self.read_buffered(pos, len, flags).await
        }
    }

    async fn write_at(&self, pos: FilePos, from: Bytes, flags: IoFlags) -> Result<usize> {
        // A durable write waits for the device whatever happens: it goes to the pool at once.
        if !self.0.is_durable(flags) && !self.0.is_direct(flags) {
            match self.0.write_at(pos, &from, flags | IoFlags::NOWAIT) {
                Err(FsError::WouldBlock) if !flags.contains(IoFlags::NOWAIT) => {}
                Ok(done) if done < from.len() && !self.0.appends(flags) => {
                    let rest = from.slice(done..);
                    let pos = pos.saturating_add(done as u64);
                    let file = Arc::clone(&self.0);
                    let more = blocking(move || file.write_at(pos, &rest, flags)).await;
                    return Ok(done + more.unwrap_or(0));
                }
                result => return result,
            }
        }
        let file = Arc::clone(&self.0);
        blocking(move || file.write_at(pos, &from, flags)).await
    }

    async fn fsync(&self, data_only: bool) -> Result<()> {
        let file = Arc::clone(&self.0);
        blocking(move || file.fsync(data_only)).await
    }
}

/// Runs `f` in the runtime's blocking pool. It runs to its end even if nobody awaits it any more.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        // The runtime is shutting down, or `f` panicked: the operation did not end.
        Err(_) => Err(Errno::CANCELED.into()),
    }
}
