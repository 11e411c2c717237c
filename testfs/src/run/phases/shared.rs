//! One file, many hands: direct and buffered I/O at once, and storage shared by reflink.

use std::sync::Arc;
use std::time::Instant;

use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::IoFlags;

use super::{Calls, MIB, PAGE, Stage, Subject, calls_for, open, put};
use crate::aligned::Aligned;
use crate::run::RunError;

const THREADS: u64 = 4;
/// Bytes one thread owns in a row.
const REGION: u64 = 65_536;

/// Threads on one file, each with regions of its own between those of the others; direct and
/// buffered, aligned and not.
pub(super) fn mixed(stage: &mut Stage) -> Result<(), RunError> {
    let mut subject = open(stage, "mixed")?;
    let size = stage.volume_bytes() / 16 / (REGION * THREADS) * (REGION * THREADS);
    let bytes = stage.bytes(size as usize);
    subject.write(0, &bytes, IoFlags::empty())?;
    let count = calls_for(stage, 20_000) / THREADS;
    let seed = stage.rng.u64(..);
    let meter = stage.meter();
    let hands: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let file = Arc::clone(&subject.file);
                let own: Vec<_> = own_regions(&bytes, thread);
                scope.spawn(move || {
                    let rng = fastrand::Rng::with_seed(seed ^ thread);
                    Hand {
                        subject: Subject::new("mixed", file),
                        thread,
                        own,
                        rng,
                    }
                    .work(count)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect()
    });
    let mut model = bytes;
    let mut calls = Calls::default();
    for hand in hands {
        let hand = hand.map_err(|_| RunError::Mismatch("a thread panicked".to_owned()))??;
        for (n, region) in hand.own.iter().enumerate() {
            put(&mut model, hand.place(n as u64), region);
        }
        calls.merge(hand.subject.calls);
    }
    stage.done("mixed, 4 threads", &meter, calls);
    subject.fsync()?;
    *stage.model("mixed") = model;
    Ok(())
}

fn own_regions(bytes: &[u8], thread: u64) -> Vec<Vec<u8>> {
    let regions = bytes.chunks(REGION as usize).skip(thread as usize);
    regions
        .step_by(THREADS as usize)
        .map(<[u8]>::to_vec)
        .collect()
}

/// One thread of [`mixed`].
struct Hand {
    subject: Subject<'static>,
    thread: u64,
    /// What its regions contain.
    own: Vec<Vec<u8>>,
    rng: fastrand::Rng,
}

impl Hand {
    /// Where its `n`-th region begins.
    const fn place(&self, n: u64) -> u64 {
        (n * THREADS + self.thread) * REGION
    }

    fn work(mut self, count: u64) -> Result<Self, RunError> {
        let mut buffer = Aligned::new(REGION as usize, 0);
        for _ in 0..count {
            let region = self.rng.usize(..self.own.len());
            let direct = self.rng.bool();
            let (mut from, mut len) = (self.rng.u64(..REGION), self.rng.u64(1..=REGION));
            if direct {
                (from, len) = (from / PAGE * PAGE, len.next_multiple_of(PAGE));
            }
            let len = len.min(REGION - from) as usize;
            let flags = if direct {
                IoFlags::DIRECT
            } else {
                IoFlags::empty()
            };
            let pos = self.place(region as u64) + from;
            let own = &mut self.own[region][from as usize..][..len];
            if self.rng.u8(..3) == 0 {
                self.rng.fill(own);
                buffer.bytes()[..len].copy_from_slice(own);
                self.subject.write(pos, &buffer.bytes()[..len], flags)?;
            } else {
                self.subject.read(pos, own, buffer.bytes(), flags)?;
            }
        }
        Ok(self)
    }
}

/// A file made of another's storage; then both are overwritten, and neither sees the other's bytes.
pub(super) fn reflink(stage: &mut Stage) -> Result<(), RunError> {
    let (mut source, mut clone) = (open(stage, "big")?, open(stage, "clone")?);
    let mut left = std::mem::take(stage.model("big"));
    let range = FileRange::at_most(FilePos::ZERO, left.len() as u64);
    let meter = stage.meter();
    let started = Instant::now();
    let cloned = source.file.clone_range(range, &*clone.file, FilePos::ZERO);
    let mut calls = Calls::default();
    calls.add(started.elapsed(), left.len() as u64);
    cloned.map_err(RunError::in_phase("reflink"))?;
    stage.done("reflink", &meter, calls);
    let mut right = left.clone();
    let pages = left.len() as u64 / PAGE;
    let mut page = Aligned::new(2 * PAGE as usize, 0);
    let meter = stage.meter();
    for n in 0..calls_for(stage, 2_000) {
        let (subject, model) = if n % 2 == 0 {
            (&mut source, &mut left)
        } else {
            (&mut clone, &mut right)
        };
        let direct = n % 3 == 0;
        let flags = if direct {
            IoFlags::DIRECT
        } else {
            IoFlags::empty()
        };
        let shift = if direct { 0 } else { stage.rng.u64(..PAGE) };
        let pos = stage.rng.u64(..pages - 2) * PAGE + shift;
        let len = if direct {
            PAGE as usize
        } else {
            stage.rng.usize(1..=2 * PAGE as usize)
        };
        let bytes = &mut page.bytes()[..len];
        stage.rng.fill(bytes);
        subject.write(pos, bytes, flags)?;
        put(model, pos, bytes);
    }
    let mut calls = source.take();
    calls.merge(clone.take());
    stage.done("overwrite of shared", &meter, calls);
    clone.fsync()?;
    let mut buffer = vec![0; MIB as usize];
    for (subject, model) in [(&mut source, &left), (&mut clone, &right)] {
        for (n, wanted) in model.chunks(MIB as usize).enumerate() {
            subject.read(n as u64 * MIB, wanted, &mut buffer, IoFlags::empty())?;
        }
    }
    *stage.model("big") = left;
    *stage.model("clone") = right;
    Ok(())
}
