//! Where what lies in the file, and what may be found there at any moment.
//!
//! Owns the layout and the shared words. The pages that belong to one thread are
//! [`owned`](super::owned)'s, the words that truncates take away are [`tail`](super::tail)'s.
//!
//! ```text
//! 0                  OWNED                       TAIL              END
//! | shared words     | units of one thread each  | comes and goes  |
//! ```
//!
//! # Shared words
//!
//! Each belongs to a thread, which stores to it again and again; everybody looks at it. The upper
//! seven bytes say which word it is; the last counts. So a copy that races with a store finds one
//! of two values, and whoever reads knows a lower bound (the stores that had ended before) and an
//! upper one (those that had begun afterwards).

use std::sync::atomic::{AtomicU64, Ordering};

use iomap_core::units::FilePos;
use iomap_core::vfs::{IoFlags, OpenFile};

use super::{Verdict, text};

pub(crate) const PAGE: u64 = 4096;
/// Bytes from one shared word to the next.
pub(crate) const STRIDE: u64 = 64;

/// The stores to one word, counted.
#[derive(Debug, Default)]
pub(crate) struct Word {
    begun: AtomicU64,
    ended: AtomicU64,
    synced: AtomicU64,
}

impl Word {
    /// A store begins: what it stores.
    pub(crate) fn begin(&self) -> u64 {
        // A total order with the other counts: who finds the value finds that it had begun.
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn end(&self, count: u64) {
        self.ended.store(count, Ordering::SeqCst);
    }

    /// Stores that have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Stores that have ended.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }
}

/// The word at `at` after `count` stores. Never zero, in none of its bytes.
pub(crate) fn value(at: u64, count: u64) -> [u8; 8] {
    let mut bytes = (at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    for byte in &mut bytes {
        *byte |= 1;
    }
    bytes[7] = (count % 255) as u8 + 1;
    bytes
}

/// Whether `found` is the word at `at` after `low` to `high` stores.
pub(crate) fn matches(at: u64, found: &[u8], low: u64, high: u64) -> bool {
    if high - low >= 254 {
        return found[..7] == value(at, 0)[..7];
    }
    (low..=high).any(|count| found == value(at, count))
}

/// The file.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) threads: usize,
    /// Bytes that no two threads share in the middle part: a multiple of blocks and pages.
    pub(crate) unit: u64,
    /// The shared words, by place.
    words: Vec<Word>,
    /// Units in the middle part.
    pub(crate) units: u64,
}

impl Model {
    pub(crate) fn new(threads: usize, block: u64) -> Self {
        let unit = block.max(PAGE);
        // Larger than the smallest page cache.
        let shared = 80 * PAGE;
        Self {
            threads,
            unit,
            words: (0..shared / STRIDE).map(|_| Word::default()).collect(),
            units: threads as u64 * 24,
        }
    }

    /// The first byte of the middle part.
    pub(crate) const fn owned(&self) -> u64 {
        self.words.len() as u64 * STRIDE
    }

    /// The first byte of the last part.
    pub(crate) const fn tail(&self) -> u64 {
        self.owned() + self.units * self.unit
    }

    /// The words of a thread, as numbers of words.
    pub(crate) fn draw_word(&self, thread: usize, rng: &mut fastrand::Rng) -> u64 {
        let own = self.words.len() / self.threads;
        (rng.usize(..own) * self.threads + thread) as u64
    }

    pub(crate) fn word(&self, number: u64) -> &Word {
        &self.words[number as usize]
    }

    /// Makes the shared words what they are before the first store.
    pub(crate) fn lay_out(&self, file: &dyn OpenFile) -> Verdict {
        for (number, word) in (0..).zip(&self.words) {
            let (at, count) = (number * STRIDE, word.begin());
            let written =
                file.write_at(FilePos::saturating(at), &value(at, count), IoFlags::empty());
            written.map_err(text)?;
            word.end(count);
        }
        file.fsync(true).map_err(text)?;
        self.note_synced(&self.ended());
        Ok(())
    }

    /// How many stores to each word have ended: before looking.
    pub(crate) fn ended(&self) -> Vec<u64> {
        self.words.iter().map(Word::ended).collect()
    }

    /// What had ended before a sync that succeeded is durable.
    pub(crate) fn note_synced(&self, ended: &[u64]) {
        for (word, count) in self.words.iter().zip(ended) {
            word.synced.fetch_max(*count, Ordering::SeqCst);
        }
    }

    /// Checks bytes that were read from `start` on, a multiple of the stride; `low` is what had
    /// ended before.
    pub(crate) fn check(&self, start: u64, bytes: &[u8], low: &[u64], how: &str) -> Verdict {
        for (n, stretch) in bytes.chunks_exact(STRIDE as usize).enumerate() {
            let number = start / STRIDE + n as u64;
            let (at, word) = (number * STRIDE, self.word(number));
            let (low, high) = (low[number as usize], word.begun());
            if !matches(at, &stretch[..8], low, high) {
                let (found, wanted) = (&stretch[..8], value(at, low));
                return Err(format!(
                    "{how}: word at {at} is {found:x?}, expected {wanted:x?} (stores {low}..={high})"
                ));
            }
            if stretch[8..].iter().any(|byte| *byte != 0) {
                return Err(format!("{how}: bytes behind the word at {at} are not zero"));
            }
        }
        Ok(())
    }

    /// After a mount: what was synced, or, after an unmount, everything.
    pub(crate) fn verify_synced(&self, content: &[u8], crash: bool) -> Verdict {
        let low: Vec<u64> = if crash {
            let synced = |word: &Word| word.synced.load(Ordering::SeqCst);
            self.words.iter().map(synced).collect()
        } else {
            self.ended()
        };
        let shared = &content[..self.owned() as usize];
        self.check(0, shared, &low, "after the mount")
    }
}
