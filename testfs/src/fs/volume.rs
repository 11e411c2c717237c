//! What all inodes of a mount share: metadata, device, memory, flusher.
//!
//! Owns the verdict that a mount has failed: after a commit or a metadata write that the device
//! refused nothing is changed any more, because what is durable is not known. Reading goes on.

use std::sync::{Arc, OnceLock};

use iomap_core::dax_io::PinTimeout;
use iomap_core::device::BlockDevice;
use iomap_core::error::{DeviceOp, Errno, FsError, Result};
use iomap_core::flusher::Flusher;
use iomap_core::folio::PoolHandle;
use iomap_core::mutation::{self, Rule};
use iomap_core::stats::Counters;
use iomap_core::sync::atomic::{AtomicBool, Ordering};
use iomap_core::units::BlockBits;

use super::dax::DaxMount;
use crate::meta::{Durable, Meta, Purpose, Reservation, Txn};

/// What all inodes of a mount share.
pub(super) struct Volume {
    meta: Meta,
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) pool: PoolHandle,
    pub(super) counters: Arc<Counters>,
    pub(super) flusher: Arc<Flusher>,
    pub(super) bits: BlockBits,
    /// The device's bytes, if files may use them in place.
    pub(super) dax: Option<DaxMount>,
    /// Why nothing can be changed any more.
    failed: OnceLock<Errno>,
    /// Unmounted: whoever still holds a file may look at it, not change it.
    closed: AtomicBool,
}

impl Volume {
    pub(super) fn new(
        meta: Meta,
        device: Arc<dyn BlockDevice>,
        pool: PoolHandle,
        flusher: Arc<Flusher>,
        bits: BlockBits,
        dax: Option<DaxMount>,
    ) -> Self {
        Self {
            meta,
            device,
            pool,
            counters: Counters::new(),
            flusher,
            bits,
            dax,
            failed: OnceLock::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// The metadata, for looking.
    pub(super) const fn meta(&self) -> &Meta {
        &self.meta
    }

    /// How long a change waits for pins before it frees or moves blocks.
    pub(super) fn pin_timeout(&self) -> PinTimeout {
        self.dax.as_ref().and_then(|dax| dax.pin_timeout)
    }

    /// Refuses if nothing can be changed.
    pub(super) fn check_writable(&self) -> Result<()> {
        let closed = self.closed.load(Ordering::Relaxed);
        if closed || self.has_failed() || self.meta.is_read_only() {
            return Err(FsError::ReadOnly);
        }
        Ok(())
    }

    /// Whether nothing is changed any more because the device refused metadata.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    /// Refuses changes from here on. Everything was written before.
    pub(super) fn close(&self) {
        // A flag of its own: orders nothing.
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Changes the metadata: [`Meta::update`].
    pub(super) fn update<T>(
        &self,
        purpose: Purpose,
        f: impl FnOnce(&mut Txn<'_>) -> Result<T>,
    ) -> Result<T> {
        self.run(|meta| meta.update(purpose, f))
    }

    /// Runs a change that is made of several transactions.
    pub(super) fn run<T>(&self, f: impl FnOnce(&Meta) -> Result<T>) -> Result<T> {
        self.check_writable()?;
        self.watch(f(&self.meta))
    }

    /// Promises up to `blocks` of data, at least one: halves the wish while there is no room.
    pub(super) fn reserve_some(&self, blocks: u64) -> Result<Reservation> {
        let mut wish = blocks.max(1);
        loop {
            match self.reserve(wish) {
                Err(FsError::NoSpace) if wish > 1 => wish /= 2,
                result => return result,
            }
        }
    }

    /// Promises `blocks` of data.
    pub(super) fn reserve(&self, blocks: u64) -> Result<Reservation> {
        self.run(|meta| meta.reserve(blocks))
    }

    /// Makes `generation` and everything written so far durable (rule C5).
    pub(super) fn make_durable(&self, generation: u64) -> Result<()> {
        if let Some(errno) = self.failed.get() {
            return Err(FsError::Writeback(*errno));
        }
        if self.meta.is_read_only() {
            return Ok(());
        }
        match self.watch(self.meta.commit_through(generation))? {
            Durable::Flushed => Ok(()),
            Durable::Already if mutation::off(Rule::C5) => Ok(()),
            Durable::Already => self.watch(self.device.flush().map_err(FsError::from)),
        }
    }

    /// Looks for an error after which nothing may be changed any more.
    fn watch<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(FsError::Device(error)) = &result
            && matches!(error.op, DeviceOp::Write | DeviceOp::Flush)
            && self.failed.set(error.errno).is_ok()
        {
            tracing::error!(
                target: "testfs", %error,
                "metadata could not be written: the file system is read-only from here on"
            );
        }
        result
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("meta", &self.meta)
            .field("failed", &self.failed.get())
            .finish_non_exhaustive()
    }
}
