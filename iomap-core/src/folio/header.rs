//! The reference count and the flag word of a folio: who may touch it, and what state it is in.
//!
//! Owns the protocols of the two words and nothing else, so that a model can run them alone:
//! taking a reference that may have been freed ([`Header::try_get`]), freezing
//! ([`Header::freeze`]), the lock bit and its waiters bit. Who sleeps where is
//! [`wait`](super::wait).
//!
//! # Invariants
//!
//! - `refs` is 0 exactly while the folio is free or frozen; nobody takes a reference from 0.
//! - `LOCKED` is cleared only by its owner; `WRITEBACK` only by the end of the writeback.
//! - `WAITERS` is set under the bucket lock of the folio, and whoever clears a bit that is waited
//!   for clears it as well and then wakes the bucket.

use crate::sync::atomic::{AtomicU32, Ordering, fence};

/// The bits of the flag word.
pub mod flag {
    /// Somebody owns the folio: a thread, or a read in flight.
    pub const LOCKED: u32 = 1 << 0;
    /// Threads wait for `LOCKED` or `WRITEBACK`.
    pub const WAITERS: u32 = 1 << 1;
    /// Every block holds the contents of the file.
    pub const UPTODATE: u32 = 1 << 2;
    /// Some block differs from storage.
    pub const DIRTY: u32 = 1 << 3;
    /// Being written to storage.
    pub const WRITEBACK: u32 = 1 << 4;
    /// The lock belongs to a read in flight: a completion will release it.
    pub const READING: u32 = 1 << 5;
    /// All blocks are dirty, when there is no bitmap that says which.
    pub const BLOCKS_DIRTY: u32 = 1 << 6;
    /// Reaching this folio should start the next readahead.
    pub const READAHEAD: u32 = 1 << 7;
    /// To be dropped as soon as it has been written.
    pub const DROPBEHIND: u32 = 1 << 8;
    /// Some memory mapping shows it.
    pub const MAPPED: u32 = 1 << 9;
    /// On a reclaim list.
    pub const ON_LIST: u32 = 1 << 10;
    /// On the main list rather than the probation list.
    pub const MAIN: u32 = 1 << 11;
    /// Its bytes lie in the memory file of its inode.
    pub const MOVED: u32 = 1 << 14;
    /// How often it was used again since it came to its list, saturating: two bits.
    pub const USED_SHIFT: u32 = 12;
    /// The mask of the use count.
    pub const USED: u32 = 3 << USED_SHIFT;
    /// The reclaim epoch in which it was last counted as used: eight bits.
    pub const EPOCH_SHIFT: u32 = 24;
    /// The mask of the epoch.
    pub const EPOCH: u32 = 0xff << EPOCH_SHIFT;
    /// log2 of the pages: four bits.
    pub const ORDER_SHIFT: u32 = 16;
    /// The mask of the order.
    pub const ORDER: u32 = 15 << ORDER_SHIFT;
    /// log2 of the block size, minus 9: three bits.
    pub const BLOCK_SHIFT: u32 = 20;
    /// The mask of the block size.
    pub const BLOCK: u32 = 7 << BLOCK_SHIFT;
}

/// References and flags of one folio. All zero is a valid, free header.
#[derive(Debug)]
pub struct Header {
    /// Partner of itself: [`Header::try_get`] acquires what [`Header::revive`] released, and the
    /// last [`Header::put`] acquires what the others released.
    refs: AtomicU32,
    /// Set bits are released, looked at with acquire.
    flags: AtomicU32,
}

impl Header {
    /// A free header.
    #[must_use]
    pub fn new() -> Self {
        Self {
            refs: AtomicU32::new(0),
            flags: AtomicU32::new(0),
        }
    }

    /// Takes a reference unless the folio is free or frozen. Everything written before it was
    /// brought to life is visible afterwards.
    #[inline]
    pub fn try_get(&self) -> bool {
        let mut refs = self.refs.load(Ordering::Relaxed);
        loop {
            if refs == 0 {
                return false;
            }
            match self.refs.compare_exchange_weak(
                refs,
                refs + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => refs = now,
            }
        }
    }

    /// Takes another reference. The caller has one.
    #[inline]
    pub fn get(&self) {
        let refs = self.refs.fetch_add(1, Ordering::Relaxed);
        debug_assert!(refs != 0, "a reference taken from a free folio");
    }

    /// Gives a reference back. Returns whether it was the last: then the folio is the caller's to
    /// free, and everything done under the other references is visible.
    #[must_use]
    #[inline]
    pub fn put(&self) -> bool {
        let refs = self.refs.fetch_sub(1, Ordering::Release);
        debug_assert!(refs != 0, "a reference given back twice");
        if refs != 1 {
            return false;
        }
        fence(Ordering::Acquire);
        true
    }

    /// Takes all references away if there are exactly `expected` of them, so that nobody can find
    /// the folio. The caller holds one, and brings it back with [`Header::revive`].
    #[must_use]
    pub fn freeze(&self, expected: u32) -> bool {
        self.refs
            .compare_exchange(expected, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Brings a free or frozen folio to life with `refs` references, publishing what was written.
    pub fn revive(&self, refs: u32) {
        debug_assert_eq!(self.refs.load(Ordering::Relaxed), 0);
        self.refs.store(refs, Ordering::Release);
    }

    /// The references, at this moment.
    #[must_use]
    pub fn refs(&self) -> u32 {
        self.refs.load(Ordering::Relaxed)
    }

    /// The flags, at this moment (acquire).
    #[must_use]
    #[inline]
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Acquire)
    }

    /// Sets bits; returns the flags before.
    pub fn set(&self, bits: u32) -> u32 {
        self.flags.fetch_or(bits, Ordering::AcqRel)
    }

    /// Clears bits; returns the flags before.
    pub fn clear(&self, bits: u32) -> u32 {
        self.flags.fetch_and(!bits, Ordering::AcqRel)
    }

    /// Replaces all flags. Only while the folio is free.
    pub(super) fn reset(&self, flags: u32) {
        self.flags.store(flags, Ordering::Relaxed);
    }

    /// Takes one from the order.
    pub(super) fn lower_order(&self) {
        self.flags
            .fetch_sub(1 << flag::ORDER_SHIFT, Ordering::AcqRel);
    }

    /// Takes the lock bit if it is clear.
    #[must_use]
    #[inline]
    pub fn try_lock(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & flag::LOCKED == 0
            && self.flags.fetch_or(flag::LOCKED, Ordering::Acquire) & flag::LOCKED == 0
    }

    /// Releases the lock bit. Returns whether waiters must be woken.
    #[must_use]
    #[inline]
    pub fn unlock(&self) -> bool {
        let bits = flag::LOCKED | flag::READING | flag::WAITERS;
        let was = self.flags.fetch_and(!bits, Ordering::Release);
        debug_assert!(was & flag::LOCKED != 0, "unlocking what is not locked");
        was & flag::WAITERS != 0
    }

    /// Hands the lock to a read in flight. Returns whether waiters must be woken, so that one of
    /// them looks after the device.
    #[must_use]
    pub fn start_reading(&self) -> bool {
        self.set(flag::READING);
        self.clear(flag::WAITERS) & flag::WAITERS != 0
    }

    /// Ends the writeback. Returns whether waiters must be woken.
    #[must_use]
    pub fn end_writeback(&self) -> bool {
        let was = self.clear(flag::WRITEBACK | flag::WAITERS);
        debug_assert!(was & flag::WRITEBACK != 0, "writeback ended twice");
        was & flag::WAITERS != 0
    }

    /// Announces a waiter, if the bits waited for are still as `seen`. The caller holds the
    /// folio's bucket, and sleeps if this returns `true`: whoever changes those bits wakes it.
    #[must_use]
    pub fn announce(&self, seen: u32) -> bool {
        const WATCHED: u32 = flag::LOCKED | flag::READING | flag::WRITEBACK;
        let mut flags = self.flags.load(Ordering::Relaxed);
        loop {
            if (flags ^ seen) & WATCHED != 0 {
                return false;
            }
            match self.flags.compare_exchange_weak(
                flags,
                flags | flag::WAITERS,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => flags = now,
            }
        }
    }

    /// Counts a use, up to three, if it comes two epochs or more after the one counted last: the
    /// pieces of one visit, which may cross the border between two epochs, are no second use.
    #[inline]
    pub fn mark_used(&self, epoch: u32) {
        let flags = self.flags.load(Ordering::Relaxed);
        let last = (flags & flag::EPOCH) >> flag::EPOCH_SHIFT;
        if epoch.wrapping_sub(last) & 0xff < 2 {
            return;
        }
        let used = (flags & flag::USED) >> flag::USED_SHIFT;
        let rest = flags & !(flag::USED | flag::EPOCH);
        let new =
            rest | (used + 1).min(3) << flag::USED_SHIFT | (epoch & 0xff) << flag::EPOCH_SHIFT;
        // A lost race is a lost hint.
        let _ = self
            .flags
            .compare_exchange(flags, new, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Epochs since the use counted last, up to 255.
    #[must_use]
    pub fn unused_for(&self, epoch: u32) -> u32 {
        let last = (self.flags.load(Ordering::Relaxed) & flag::EPOCH) >> flag::EPOCH_SHIFT;
        epoch.wrapping_sub(last) & 0xff
    }

    /// Notes the epoch in which the folio came into being.
    pub fn set_epoch(&self, epoch: u32) {
        self.clear(flag::EPOCH);
        self.set((epoch & 0xff) << flag::EPOCH_SHIFT);
    }
}

impl Header {
    /// Takes one use back.
    pub fn unmark_used(&self) {
        let flags = self.flags.load(Ordering::Relaxed);
        if flags & flag::USED != 0 {
            // A lost race is a lost hint.
            let _ = self.flags.compare_exchange(
                flags,
                flags - (1 << flag::USED_SHIFT),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }
}

impl Default for Header {
    fn default() -> Self {
        Self::new()
    }
}
