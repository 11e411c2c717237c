//! The disk of a race: a read is done when the thread of reads is scheduled, a write when the thread
//! of writes is; so writes overtake reads and reads writes, as on a real one.
//!
//! Owns the two queues. What is on the disk before anything is written is [`SECRET`]: what a block
//! held for its previous owner.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use iomap_core::device::bytes::read_bytes;
use iomap_core::device::parking::Parking;
use iomap_core::device::{Bio, BioOp, BlockDevice, Limits, MemoryDevice};
use iomap_core::sync::atomic::{AtomicUsize, Ordering};
use iomap_core::sync::{Condvar, Mutex, Rank};
use iomap_core::units::DevAddr;

use super::engine::{note, note_here};

/// Somebody else's old bytes.
pub(super) const SECRET: u8 = 0xEE;

#[derive(Default)]
struct Queues {
    reads: VecDeque<Bio>,
    writes: VecDeque<Bio>,
    stopped: bool,
}

/// See the module documentation.
pub(super) struct Disk {
    inner: MemoryDevice,
    limits: Limits,
    queues: Mutex<Queues>,
    changed: Condvar,
    parking: Parking,
    /// Requests not done. `Release` down after the completion has run; partner: the `Acquire` load
    /// of `in_flight`.
    pending: AtomicUsize,
    /// log2 of a block, for the texts.
    bits: u32,
}

impl Disk {
    /// `blocks` blocks of `1 << bits` bytes, full of [`SECRET`].
    pub(super) fn new(blocks: usize, bits: u32) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryDevice::from_image(&vec![SECRET; blocks << bits]),
            limits: Limits {
                memory_align: 512,
                ..Limits::PLAIN
            },
            queues: Mutex::new(Rank::DeviceQueue, Queues::default()),
            changed: Condvar::new(),
            parking: Parking::new(),
            pending: AtomicUsize::new(0),
            bits,
        })
    }

    /// What block `n` holds.
    pub(super) fn block(&self, n: u64) -> Vec<u8> {
        let mut bytes = vec![0; 1 << self.bits];
        read_bytes(&self.inner, DevAddr::new(n << self.bits), &mut bytes)
            .expect("a memory device reads");
        bytes
    }

    /// Does requests of one kind until told to stop.
    pub(super) fn run(&self, writes: bool) {
        loop {
            let bio = {
                let mut queues = self.queues.lock();
                loop {
                    let queue = if writes {
                        &mut queues.writes
                    } else {
                        &mut queues.reads
                    };
                    if let Some(bio) = queue.pop_front() {
                        break bio;
                    }
                    if queues.stopped {
                        return;
                    }
                    self.changed.wait(&mut queues);
                }
            };
            let what = if writes { "writes" } else { "reads" };
            note(&format!("{what} b{}", bio.addr.bytes() >> self.bits));
            self.inner.submit(bio);
            self.pending.fetch_sub(1, Ordering::Release);
            self.parking.notify();
        }
    }

    /// Ends both threads when they have done what is queued.
    pub(super) fn stop(&self) {
        self.queues.lock().stopped = true;
        self.changed.notify_all();
    }
}

impl BlockDevice for Disk {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn submit(&self, bio: Bio) {
        let write = !matches!(bio.op, BioOp::Read);
        let what = if write { "write" } else { "read" };
        let block = bio.addr.bytes() >> self.bits;
        self.pending.fetch_add(1, Ordering::Relaxed);
        {
            let mut queues = self.queues.lock();
            if write {
                &mut queues.writes
            } else {
                &mut queues.reads
            }
            .push_back(bio);
            // With the queue locked, so that the step stands before what the disk does of it.
            note_here(&format!("the disk is asked to {what} b{block}"));
        }
        self.changed.notify_all();
    }

    fn poll(&self) {}

    fn wait(&self, done: &mut dyn FnMut() -> bool) {
        self.parking.wait(done);
    }

    fn wake(&self) {
        self.parking.notify();
    }

    fn in_flight(&self) -> usize {
        self.pending.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}
