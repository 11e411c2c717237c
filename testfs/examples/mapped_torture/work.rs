//! What the threads do: stores and loads, each kind of read, syncs, with mappings that come and go.
//!
//! Owns the threads of a round and their mix of operations. The two threads that change the file
//! around them are [`shaper`](super::shaper).

use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use iomap_core::device::DeviceBuf;
use iomap_core::mmap::Access;
use iomap_core::mmap::real::Mapping;
use iomap_core::units::FilePos;
use iomap_core::vfs::{IoFlags, OpenFile, SetAttr, Vfs};
use testfs::fs::TestFs;

use super::model::{Model, PAGE, STRIDE, value};
use super::owned::Owned;
use super::storage::Queue;
use super::tail::{self, Reach, Tail};
use super::{BOTH, Setup, Verdict, range, read, shaper, text};

/// What the threads of a round share.
pub(crate) struct Bench<'a> {
    pub(crate) fs: &'a Arc<TestFs>,
    pub(crate) queue: &'a Queue,
    pub(crate) file: Arc<dyn OpenFile>,
    pub(crate) clone: Arc<dyn OpenFile>,
    pub(crate) model: &'a Model,
    pub(crate) tail: Tail,
    ops: &'a Arc<AtomicU64>,
    stop: AtomicBool,
    until: std::sync::Mutex<Instant>,
}

/// What a thread has done, to be checked after the mount.
#[derive(Debug)]
pub(crate) struct Worker {
    owned: Owned,
}

impl Worker {
    pub(crate) fn verify_owned(&self, content: &[u8]) -> Verdict {
        self.owned.verify(content)
    }
}

impl<'a> Bench<'a> {
    pub(crate) fn new(
        fs: &'a Arc<TestFs>,
        queue: &'a Queue,
        file: Arc<dyn OpenFile>,
        clone: Arc<dyn OpenFile>,
        model: &'a Model,
        ops: &'a Arc<AtomicU64>,
    ) -> Self {
        Self {
            fs,
            queue,
            file,
            clone,
            model,
            tail: Tail::new(model.tail()),
            ops,
            stop: AtomicBool::new(false),
            until: std::sync::Mutex::new(Instant::now()),
        }
    }

    pub(crate) fn truncates(&self) -> u64 {
        self.tail.truncates()
    }

    pub(crate) fn did(&self) {
        self.ops.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the threads that change the file go on.
    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn is_time_left(&self) -> bool {
        let until = self.until.lock().map(|until| *until);
        self.goes_on() && until.is_ok_and(|until| Instant::now() < until)
    }

    /// Runs the threads; the first failure wins.
    pub(crate) fn work(&self, setup: &Setup, length: Duration) -> Result<Vec<Worker>, String> {
        if let Ok(mut until) = self.until.lock() {
            *until = Instant::now() + length;
        }
        let set = SetAttr {
            size: Some(self.tail.start),
            ..SetAttr::default()
        };
        self.fs.setattr(self.file.ino(), &set).map_err(text)?;
        // All have synced before the first goes on with stores that may be lost.
        let synced = Barrier::new(setup.threads);
        std::thread::scope(|scope| {
            let others = [
                scope.spawn(|| self.end_on_failure(|| shaper::shape(self, setup.seed))),
                scope.spawn(|| self.end_on_failure(|| shaper::sync(self, setup.seed))),
                scope.spawn(|| self.end_on_failure(|| shaper::pump(self, setup.seed))),
            ];
            let workers: Vec<_> = (0..setup.threads)
                .map(|thread| {
                    let synced = &synced;
                    scope.spawn(move || self.one(setup, thread, synced))
                })
                .collect();
            let done: Vec<_> = workers.into_iter().map(join).collect();
            self.stop.store(true, Ordering::Relaxed);
            for other in others {
                join(other)?;
            }
            done.into_iter().collect()
        })
    }

    fn end_on_failure<T>(&self, f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let result = f();
        if result.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        result
    }

    fn one(&self, setup: &Setup, thread: usize, synced: &Barrier) -> Result<Worker, String> {
        let made = Thread::new(self, setup, thread);
        let worked = self.end_on_failure(|| {
            let mut one = made?;
            while self.is_time_left() {
                one.step()?;
                self.did();
            }
            one.msync()?;
            Ok(one)
        });
        synced.wait();
        let mut one = worked?;
        for _ in 0..300 {
            // Not synced: only what is shared may become anything newer.
            one.store_word()?;
        }
        Ok(Worker { owned: one.owned })
    }

    pub(crate) fn map(&self) -> Result<Mapping, String> {
        let len = self.tail.start + tail::LEN;
        self.file.mmap(range(0, len), BOTH, true).map_err(text)
    }

    /// Makes everything durable that was stored before.
    pub(crate) fn sync_with(&self, f: impl FnOnce() -> Verdict) -> Verdict {
        let ended = self.model.ended();
        f()?;
        self.model.note_synced(&ended);
        Ok(())
    }
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T, String>>) -> Result<T, String> {
    thread.join().map_err(|_| "a thread panicked".to_owned())?
}

/// A thread that stores.
struct Thread<'a> {
    bench: &'a Bench<'a>,
    thread: usize,
    rng: fastrand::Rng,
    owned: Owned,
    reach: Reach,
    mapping: Mapping,
}

impl<'a> Thread<'a> {
    fn new(bench: &'a Bench<'a>, setup: &Setup, thread: usize) -> Result<Self, String> {
        let model = bench.model;
        Ok(Self {
            bench,
            thread,
            rng: fastrand::Rng::with_seed(setup.seed ^ (thread as u64) << 32),
            owned: Owned::new(model, thread, u64::from(setup.block_size)),
            reach: Reach::new(&bench.tail, thread, setup.threads)?,
            mapping: bench.map()?,
        })
    }

    fn step(&mut self) -> Verdict {
        match self.rng.u8(..64) {
            0..=15 => self.store_word(),
            16..=19 => self.write_word(),
            20..=25 => self.load_words(),
            26..=28 => self.read_words(IoFlags::empty()),
            29..=32 => self.read_words(IoFlags::DIRECT),
            33..=41 => {
                let tail = &self.bench.tail;
                self.reach.step(tail, &self.mapping, &mut self.rng)
            }
            42 => {
                let page = self.rng.u64(..self.bench.model.owned() / PAGE);
                let pages = range(page * PAGE, 8 * PAGE);
                self.mapping.prefault(pages, Access::Load).map_err(text)
            }
            43 if self.rng.u8(..4) == 0 => self.msync(),
            44 if self.rng.u8(..8) == 0 => {
                self.mapping = self.bench.map()?;
                Ok(())
            }
            45 if self.rng.u8(..8) == 0 => self.protect(),
            _ => {
                let (file, mapping) = (&*self.bench.file, &self.mapping);
                self.owned.step(file, mapping, &mut self.rng)
            }
        }
    }

    /// A store to a word of its own.
    fn store_word(&mut self) -> Verdict {
        let number = self.bench.model.draw_word(self.thread, &mut self.rng);
        let (at, word) = (number * STRIDE, self.bench.model.word(number));
        let count = word.begin();
        let pos = FilePos::saturating(at);
        self.mapping.store(pos, &value(at, count)).map_err(text)?;
        word.end(count);
        Ok(())
    }

    /// The same through the cache.
    fn write_word(&mut self) -> Verdict {
        let number = self.bench.model.draw_word(self.thread, &mut self.rng);
        let (at, word) = (number * STRIDE, self.bench.model.word(number));
        let count = word.begin();
        let (pos, bytes) = (FilePos::saturating(at), value(at, count));
        let written = self.bench.file.write_at(pos, &bytes, IoFlags::empty());
        word.end(count);
        match written {
            Ok(8) => Ok(()),
            other => Err(format!("write at {at}: {other:?}")),
        }
    }

    /// Whole pages of shared words.
    fn draw_pages(&mut self) -> (u64, u64) {
        let pages = self.bench.model.owned() / PAGE;
        // The device takes whole blocks.
        let step = self.bench.model.unit / PAGE;
        let first = self.rng.u64(..pages / step) * step;
        let count = self.rng.u64(1..=4.min((pages - first) / step)) * step;
        (first * PAGE, count * PAGE)
    }

    fn load_words(&mut self) -> Verdict {
        let (at, len) = self.draw_pages();
        let low = self.bench.model.ended();
        let mut bytes = vec![0; len as usize];
        let pos = FilePos::saturating(at);
        self.mapping.load(pos, &mut bytes).map_err(text)?;
        self.bench.model.check(at, &bytes, &low, "load")
    }

    fn read_words(&mut self, flags: IoFlags) -> Verdict {
        let (at, len) = self.draw_pages();
        let low = self.bench.model.ended();
        let mut bytes = DeviceBuf::zeroed(len as usize, PAGE as usize);
        read(&*self.bench.file, at, &mut bytes, flags)?;
        let how = if flags.is_empty() {
            "read"
        } else {
            "direct read"
        };
        self.bench.model.check(at, &bytes, &low, how)
    }

    fn msync(&self) -> Verdict {
        let bench = self.bench;
        bench.sync_with(|| {
            self.mapping.forgive(range(0, u64::MAX));
            bench.file.fsync(true).map_err(text)
        })
    }

    /// Takes the permission to store away, and gives it back.
    fn protect(&mut self) -> Verdict {
        let page = self.rng.u64(..self.bench.model.owned() / PAGE);
        let pages = range(page * PAGE, PAGE);
        let read = iomap_core::mmap::Prot::READ;
        self.mapping.protect(pages, read).map_err(text)?;
        self.load_words()?;
        self.mapping.protect(pages, BOTH).map_err(text)
    }
}
