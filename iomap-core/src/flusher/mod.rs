//! The flusher: who writes dirty data when nobody asks, and who slows writers down.
//!
//! Owns the list of inodes with dirty data, the limits on how much of a pool may be dirty, the
//! thread that writes in the background, and the worker that gives finished writeback its task
//! context. Knows no backend: an inode is a [`DirtyOwner`]. How an inode is written is
//! [`writeback`](crate::writeback).
//!
//! One flusher serves one pool; file system instances that share a pool share its flusher.
//!
//! # Locks
//!
//! The list has its own leaf lock. [`Flusher::run_once`] and [`balance_dirty_pages`] hold nothing
//! while they write. A writer is slowed down before it locks a folio or opens a transaction
//! (a wait under either could never end).

mod behind;
mod list;
mod throttle;
mod worker;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

pub(crate) use behind::{WriteStream, write_behind};
pub use throttle::balance_dirty_pages;
pub use worker::IoendWorker;

use self::list::{DirtyList, Entry, Part};
use crate::affinity::unbind;
use crate::device::BlockDevice;
use crate::folio::{DirtyPressure, PoolHandle};
use crate::page_cache::CacheOwner;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Mutex, Rank};
use crate::units::FileRange;

/// Pages written of one inode before the next one gets its turn, when memory is short.
const CHUNK: usize = 4096;

/// An inode whose cache can be dirty.
pub trait DirtyOwner: CacheOwner {
    /// Finishes the runs of writeback queued for it. Called with no locks held.
    fn finish_ioends(&self);

    /// Waits until what is under writeback now has been written. Called with no locks held.
    fn settle(&self);

    /// Whether its cache has dirty data.
    fn is_dirty(&self) -> bool;

    /// Takes the mark that it stands on the list of dirty inodes; it will be written now.
    fn unlist(&self);

    /// Sets that mark. Returns whether it was not set: then the caller puts it on the list.
    fn list(&self) -> bool;

    /// Starts to write what is dirty in `range`, from its start on, and waits for none of it. An
    /// error is kept for `fsync`. Called with no locks held.
    fn write_range(&self, range: FileRange);

    /// Keeps the backend's inode in memory, unless it is going away.
    fn keep(&self) -> Option<Arc<dyn Send + Sync>>;
}

/// When the flusher writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlusherConfig {
    /// Percent of the pool that may be dirty before it writes in the background.
    pub background_percent: u8,
    /// Percent of the pool that may be dirty or under writeback before writers are held up.
    pub limit_percent: u8,
    /// The age at which dirty data is written anyway.
    pub expire: Duration,
    /// How often ages are looked at.
    pub period: Duration,
    /// Whether a stream of writes (8 MiB, each behind the one before) is written back while it goes
    /// on, so that copy and transfer go side by side. Without, it waits for its age or a limit.
    pub write_behind: bool,
    /// Whether the flusher has threads of its own. Without, somebody calls
    /// [`Flusher::run_once`] and [`Flusher::run_worker`].
    pub threads: bool,
}

impl Default for FlusherConfig {
    /// 20 and 40 percent, 30 and 5 seconds, with write-behind and threads.
    fn default() -> Self {
        Self {
            background_percent: 20,
            limit_percent: 40,
            expire: Duration::from_secs(30),
            period: Duration::from_secs(5),
            write_behind: true,
            threads: true,
        }
    }
}

/// Tells the time since some moment in the past.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Writes dirty data of the caches of one pool in the background. Dropping it stops its threads
/// and waits for them; what is dirty stays dirty.
pub struct Flusher {
    shared: Arc<Shared>,
    worker: IoendWorker,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread, and the pool under pressure, know of the flusher.
pub(crate) struct Shared {
    pool: PoolHandle,
    config: FlusherConfig,
    clock: Clock,
    background: u64,
    limit: u64,
    list: Arc<DirtyList>,
}

/// Lets the pool ask for clean folios without keeping the flusher.
struct Pressure(Weak<Shared>);

impl DirtyPressure for Pressure {
    fn relieve(&self, pages: u64) {
        if let Some(shared) = self.0.upgrade() {
            shared.list.ask_for(pages);
        }
    }
}

impl Flusher {
    /// A flusher for `pool`, by the clock of the process.
    #[must_use]
    pub fn new(pool: &PoolHandle, config: FlusherConfig) -> Arc<Self> {
        let start = std::time::Instant::now();
        Self::with_clock(pool, config, Arc::new(move || start.elapsed()))
    }

    /// A flusher that goes by `clock`.
    #[must_use]
    pub fn with_clock(pool: &PoolHandle, config: FlusherConfig, clock: Clock) -> Arc<Self> {
        let part = |percent: u8| (pool.budget_pages() * u64::from(percent.min(100)) / 100).max(1);
        let shared = Arc::new(Shared {
            pool: pool.clone(),
            config,
            clock,
            background: part(config.background_percent),
            limit: part(config.limit_percent.max(config.background_percent)),
            list: Arc::new(DirtyList::new()),
        });
        pool.set_pressure(Some(Arc::new(Pressure(Arc::downgrade(&shared)))));
        let worker = IoendWorker::new(Arc::clone(&shared.list), config.threads);
        Arc::new(Self {
            shared,
            worker,
            thread: Mutex::new(Rank::Flusher, None),
        })
    }

    /// When it writes.
    #[must_use]
    pub fn config(&self) -> &FlusherConfig {
        &self.shared.config
    }

    /// The worker for finished writeback.
    #[must_use]
    pub const fn worker(&self) -> &IoendWorker {
        &self.worker
    }

    /// The cache of `owner` turned dirty: it will be written when it is old enough. Starts the
    /// thread. May be called with a folio locked.
    pub fn register(&self, owner: Weak<dyn DirtyOwner>) {
        self.shared.list.push(Entry {
            since: (self.shared.clock)(),
            owner,
        });
        self.start_thread();
    }

    /// A stream of writes to `owner` has left `range` behind it: it is written soon.
    fn push_part(&self, owner: &Arc<dyn DirtyOwner>, range: FileRange) {
        self.shared.list.push_part(Part {
            owner: Arc::downgrade(owner),
            range,
        });
    }

    /// Makes the thread look now whether something has to be written.
    pub fn wake(&self) {
        self.shared.list.ask_for(0);
    }

    /// Inodes on the list.
    #[must_use]
    pub fn nr_listed(&self) -> usize {
        self.shared.list.len()
    }

    /// One round of background writeback at time `now` of the clock: what streams of writes have left
    /// behind them, what has expired, and as much of the rest as is dirty above the background limit
    /// or was asked for, the oldest first. Returns the pages submitted of all but the streams; on
    /// return everything submitted has been written. Holds no locks.
    pub fn run_once(&self, now: Duration) -> usize {
        self.shared.run_once(now)
    }

    /// Finishes the writeback that is queued for the worker, in this thread.
    pub fn run_worker(&self) {
        self.worker.run_queued();
    }

    fn start_thread(&self) {
        if !self.shared.config.threads {
            return;
        }
        let Some(mut slot) = self.thread.try_lock() else {
            return;
        };
        if slot.is_some() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        *slot = spawn("iomap-flush", move || shared.run());
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.pool.set_pressure(None);
        self.shared.list.stop();
        let thread = self.thread.get_mut().take();
        join(thread);
        self.worker.stop();
    }
}

impl fmt::Debug for Flusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flusher")
            .field("config", &self.shared.config)
            .field("listed", &self.nr_listed())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Pages above the background limit.
    #[inline]
    fn excess(&self) -> u64 {
        self.pool.nr_dirty().saturating_sub(self.background)
    }

    /// Pages above the hard limit.
    #[inline]
    fn over_limit(&self) -> u64 {
        (self.pool.nr_dirty() + self.pool.nr_writeback()).saturating_sub(self.limit)
    }

    /// The thread.
    fn run(&self) {
        while self.list.sleep(self.config.period) {
            // One round writes a chunk of each inode; a writer that has stopped does not ask again.
            while self.run_once((self.clock)()) > 0 && self.excess() > 0 {}
        }
    }

    /// Writes what streams have left behind them, until there is no more of it.
    fn write_parts(&self) {
        loop {
            let parts = self.list.take_parts();
            if parts.is_empty() {
                return;
            }
            // All of them are on their way before one is waited for: the device has enough to do
            // while the stream makes the next ones.
            let mut started = Vec::with_capacity(parts.len());
            for part in parts {
                if let Some(owner) = part.owner.upgrade() {
                    owner.write_range(part.range);
                    started.push(owner);
                }
            }
            for owner in started {
                owner.settle();
            }
        }
    }

    fn run_once(&self, now: Duration) -> usize {
        self.write_parts();
        let wanted = usize::try_from(self.list.take_asked().max(self.excess())).unwrap_or(CHUNK);
        let mut written = 0;
        let mut started: Vec<Arc<dyn DirtyOwner>> = Vec::new();
        for _ in 0..self.list.len() {
            let expired = now.saturating_sub(self.config.expire);
            let Some(entry) = self.list.pop_if(|e| e.since <= expired || written < wanted) else {
                break;
            };
            let Some(owner) = entry.owner.upgrade() else {
                continue;
            };
            owner.unlist();
            let quota = if entry.since <= expired {
                usize::MAX
            } else {
                CHUNK
            };
            // An error is kept for fsync by the inode itself.
            written += owner.write_dirty(FileRange::ALL, quota).unwrap_or(0);
            if owner.is_dirty() && owner.list() {
                self.list.push(Entry {
                    since: now,
                    owner: entry.owner,
                });
            }
            started.push(owner);
        }
        // Nobody else may be there to look after the device.
        for owner in started {
            owner.settle();
        }
        self.list.progress();
        written
    }
}

/// Starts a thread; `None` if the system has none to give.
fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    let life = || {
        unbind();
        f();
    };
    match thread::Builder::new().name(name.to_owned()).spawn(life) {
        Ok(thread) => Some(thread),
        Err(error) => {
            tracing::warn!(target: "iomap::flusher", %error, "no thread for {name}");
            None
        }
    }
}

/// Waits for a thread, unless it is this one: the last user of a file system may be its own worker.
fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread
        && thread.thread().id() != thread::current().id()
    {
        // A panic of the thread was reported when it happened.
        let _ended = thread.join();
    }
}

/// Waits until the writeback of the pool is below its limit, or the device has nothing to do.
fn wait_for_room(shared: &Shared, device: &dyn BlockDevice) {
    device.wait(&mut || shared.over_limit() == 0 || device.in_flight() == 0);
}
