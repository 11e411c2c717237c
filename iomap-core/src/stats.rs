//! Counters of what the framework did: cheap to count, read as a snapshot.
//!
//! Owns the list of counters and their sharding. A counter is a statistic: `Relaxed` everywhere, no
//! ordering is promised, no decision is taken on it.

use std::sync::Arc;

use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

use slot::THREADS;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Which event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        #[expect(non_camel_case_types, reason = "the names are those of the snapshot's fields")]
        pub enum Event { $($(#[$doc])* $name),+ }

        const EVENTS: usize = [$(Event::$name),+].len();

        /// What happened so far.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $($(#[$doc])* pub $name: u64),+ }

        impl Snapshot {
            /// Every counter with its name, in a fixed order.
            #[must_use]
            pub fn named(&self) -> [(&'static str, u64); EVENTS] {
                [$((stringify!($name), self.$name)),+]
            }

            /// What happened since `earlier`.
            #[must_use]
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name.wrapping_sub(earlier.$name)),+ }
            }
        }

        impl Counters {
            /// The counts at this moment; not one instant over all of them.
            #[must_use]
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.sum(Event::$name)),+ }
            }
        }
    };
}

counters! {
    /// Buffered reads: times a folio was found uptodate.
    cache_hits,
    /// Buffered reads: times bytes had to be fetched first.
    cache_misses,
    /// Pages brought in by readahead.
    readahead_pages,
    /// Bytes read by buffered reads.
    buffered_read_bytes,
    /// Bytes written by buffered writes.
    buffered_write_bytes,
    /// Bytes handed to the device by writeback.
    written_back_bytes,
    /// Runs of writeback submitted.
    ioends,
    /// Bytes read by direct I/O.
    direct_read_bytes,
    /// Bytes written by direct I/O.
    direct_write_bytes,
    /// Bytes read by calls from DAX files.
    dax_read_bytes,
    /// Bytes written by calls to DAX files.
    dax_write_bytes,
    /// Faults of memory mappings of DAX files.
    dax_faults,
    /// Those of them that had to make metadata durable first.
    dax_sync_faults,
    /// Times a move of blocks had to wait for a pinned page.
    pin_waits,
    /// Direct writes that fell back to buffered ones.
    direct_fallbacks,
    /// Times the cache could not be invalidated for a direct write.
    direct_invalidate_failures,
    /// Mappings found stale with the folio locked.
    stale_remaps,
    /// Mappings asked for.
    mappings,
    /// Short copies from the caller's memory.
    short_copies,
    /// Times a write was held up because too much is dirty.
    throttled,
    /// Folios found locked, or under writeback, and waited for.
    folio_waits,
    /// Loads through a memory mapping that found no page.
    read_faults,
    /// Stores through a memory mapping that were not permitted yet.
    write_faults,
    /// Writeback errors recorded.
    writeback_errors,
    /// Calls of fsync, fdatasync and the like.
    syncs,
}

/// The counters of one thread, in cache lines of their own.
#[repr(align(128))]
struct Shard([AtomicU64; EVENTS]);

/// The counters of one file system instance.
pub struct Counters {
    shards: Box<[Shard]>,
}

impl Counters {
    /// All zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let shard = |_| Shard(std::array::from_fn(|_| AtomicU64::new(0)));
        Arc::new(Self {
            shards: (0..=THREADS).map(shard).collect(),
        })
    }

    /// Counts one event.
    #[inline]
    pub fn count(&self, event: Event) {
        self.add(event, 1);
    }

    /// Counts `n` events, or bytes.
    #[inline]
    pub fn add(&self, event: Event, n: u64) {
        let slot = slot::current();
        let counter = &self.shards[slot].0[event as usize];
        if slot < THREADS {
            // This thread alone writes here: no need for a locked instruction.
            counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
        } else {
            counter.fetch_add(n, Relaxed);
        }
    }

    fn sum(&self, event: Event) -> u64 {
        let counts = self
            .shards
            .iter()
            .map(|s| s.0[event as usize].load(Relaxed));
        counts.fold(0, u64::wrapping_add)
    }
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.snapshot(), f)
    }
}

/// Which shard a thread counts in.
mod slot {
    // Outside of what is model-checked: which shard is counted in decides nothing.
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Threads that count without sharing; the others share the last shard.
    pub(super) const THREADS: usize = 64;

    /// A bit for each slot a live thread has. Taken with `Acquire`, given back with `Release`: the
    /// next owner goes on from the last one's counts.
    static TAKEN: AtomicU64 = AtomicU64::new(0);

    struct Slot(usize);

    impl Slot {
        fn take() -> Self {
            let mut taken = TAKEN.load(Ordering::Relaxed);
            loop {
                let free = taken.trailing_ones() as usize;
                if free == THREADS {
                    return Self(THREADS);
                }
                let with = taken | 1 << free;
                match TAKEN.compare_exchange_weak(taken, with, Ordering::Acquire, Ordering::Relaxed)
                {
                    Ok(_) => return Self(free),
                    Err(now) => taken = now,
                }
            }
        }
    }

    impl Drop for Slot {
        fn drop(&mut self) {
            if self.0 < THREADS {
                TAKEN.fetch_and(!(1 << self.0), Ordering::Release);
            }
        }
    }

    thread_local! {
        static SLOT: Slot = Slot::take();
    }

    /// The shard of this thread; the shared one while the thread ends.
    #[inline]
    pub(super) fn current() -> usize {
        SLOT.try_with(|slot| slot.0).unwrap_or(THREADS)
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sums_over_threads() {
        let counters = Counters::new();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| counters.add(Event::mappings, 5));
            }
        });
        let first = counters.snapshot();
        assert_eq!(first.mappings, 15);
        counters.count(Event::mappings);
        assert_eq!(counters.snapshot().since(&first).mappings, 1);
    }

    #[test]
    fn nothing_is_lost_when_there_are_more_threads_than_shards() {
        let counters = Counters::new();
        let barrier = std::sync::Barrier::new(THREADS + 20);
        std::thread::scope(|scope| {
            for _ in 0..THREADS + 20 {
                scope.spawn(|| {
                    barrier.wait();
                    (0..1000).for_each(|_| counters.count(Event::syncs));
                    barrier.wait();
                });
            }
        });
        assert_eq!(counters.snapshot().syncs, 1000 * (THREADS as u64 + 20));
    }
}
