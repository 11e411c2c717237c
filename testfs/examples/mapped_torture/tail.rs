//! The end of the file, which truncates cut off and let grow again while threads store to it.
//!
//! Owns the words there and the size. They are reached by system calls on memory of the mapping, so
//! that an access past the end of the file is an error (`EFAULT`) and no signal. Where system calls do
//! not fault, what is not there is faulted in before the call is made again.
//!
//! # What may be found
//!
//! Before it shrinks the file, and before it lets it grow, the shaper notes which stores had ended:
//! of words past the size none of those may be seen again. A thread that stored while no truncate
//! was under way finds what it stored as long as none has begun.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use iomap_core::error::FaultError;
use iomap_core::mmap::Access;
use iomap_core::mmap::real::Mapping;

use super::model::{PAGE, Word, matches, value};
use super::{Verdict, range, text};

/// Bytes from one word to the next.
pub(crate) const STRIDE: u64 = 256;
/// Bytes of the part.
pub(crate) const LEN: u64 = 20 * PAGE;

/// The end of the file.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) start: u64,
    words: Vec<Word>,
    /// Of each word: stores up to this one were cut off.
    gone: Vec<AtomicU64>,
    size: AtomicU64,
    /// Truncates that have begun, and ended.
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Tail {
    pub(crate) fn new(start: u64) -> Self {
        let words = LEN / STRIDE;
        Self {
            start,
            words: (0..words).map(|_| Word::default()).collect(),
            gone: (0..words).map(|_| AtomicU64::new(0)).collect(),
            size: AtomicU64::new(start),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    pub(crate) fn truncates(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Changes the size by `f`. One thread does.
    pub(crate) fn resize(&self, size: u64, f: impl FnOnce() -> Verdict) -> Verdict {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let old = self.size.load(Ordering::SeqCst);
        self.note_gone(old.min(size));
        f()?;
        self.size.store(size, Ordering::SeqCst);
        self.ended.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// What was stored past `size` is gone.
    fn note_gone(&self, size: u64) {
        for (number, word) in self.words.iter().enumerate() {
            if self.place(number) >= size {
                let ended = word.ended();
                self.gone[number].fetch_max(ended, Ordering::SeqCst);
            }
        }
    }

    fn place(&self, number: usize) -> u64 {
        self.start + number as u64 * STRIDE
    }

    /// What the shaper finds when no truncate is under way.
    pub(crate) fn check_all(&self, mut read: impl FnMut(u64, &mut [u8]) -> Verdict) -> Verdict {
        let size = self.size.load(Ordering::SeqCst);
        for number in 0..self.words.len() {
            let at = self.place(number);
            if at + 8 > size {
                return Ok(());
            }
            let mut found = [0; 8];
            read(at, &mut found)?;
            self.check_fresh(number, &found)?;
        }
        Ok(())
    }

    /// Zero, or something that was not cut off.
    fn check_fresh(&self, number: usize, found: &[u8; 8]) -> Verdict {
        let at = self.place(number);
        let (low, high) = (
            self.gone[number].load(Ordering::SeqCst) + 1,
            self.words[number].begun(),
        );
        // A store that is seen in part: zeroes beside bytes of the value.
        let partly = (low..=high.min(low + 300)).any(|count| {
            let value = value(at, count);
            let mut pairs = found.iter().zip(value);
            pairs.all(|(found, byte)| *found == 0 || *found == byte)
        });
        if *found == [0; 8] || partly {
            return Ok(());
        }
        Err(format!(
            "end of the file: word at {at} is {found:x?}, cut off before (stores {low}..={high} may be there)"
        ))
    }
}

/// A thread's way to the tail.
#[derive(Debug)]
pub(crate) struct Reach {
    thread: usize,
    threads: usize,
    reader: PipeReader,
    writer: PipeWriter,
    /// Of each of its words: the last store, and how many truncates there were before and after.
    last: Vec<Option<(u64, u64)>>,
}

impl Reach {
    pub(crate) fn new(tail: &Tail, thread: usize, threads: usize) -> Result<Self, String> {
        let (reader, writer) = std::io::pipe().map_err(text)?;
        Ok(Self {
            thread,
            threads,
            reader,
            writer,
            last: vec![None; tail.words.len()],
        })
    }

    /// Looks at a word of its own, and stores to it.
    pub(crate) fn step(
        &mut self,
        tail: &Tail,
        mapping: &Mapping,
        rng: &mut fastrand::Rng,
    ) -> Verdict {
        let own = tail.words.len() / self.threads;
        let number = rng.usize(..own) * self.threads + self.thread;
        self.look(tail, mapping, number)?;
        self.store(tail, mapping, number)
    }

    fn look(&mut self, tail: &Tail, mapping: &Mapping, number: usize) -> Verdict {
        let ended = tail.ended.load(Ordering::SeqCst);
        let size = tail.size.load(Ordering::SeqCst);
        let at = tail.place(number);
        let mut found = [0; 8];
        let there = self.load(mapping, at, &mut found)?;
        let quiet = tail.begun.load(Ordering::SeqCst) == ended;
        if quiet && !there && at < size {
            return Err(format!("a load at {at} in a file of {size} bytes failed"));
        }
        if !there || at + 8 > size {
            return Ok(());
        }
        match self.last[number] {
            Some((count, truncates)) if quiet && truncates == ended => {
                if matches(at, &found, count, count) {
                    return Ok(());
                }
                let wanted = value(at, count);
                Err(format!(
                    "end of the file: word at {at} is {found:x?}, lost {wanted:x?}"
                ))
            }
            // The bound may have moved since the load: it is one for loads from here on only.
            _ if quiet => tail.check_fresh(number, &found),
            _ => Ok(()),
        }
    }

    fn store(&mut self, tail: &Tail, mapping: &Mapping, number: usize) -> Verdict {
        let at = tail.place(number);
        let word = &tail.words[number];
        let ended = tail.ended.load(Ordering::SeqCst);
        let size = tail.size.load(Ordering::SeqCst);
        let count = word.begin();
        self.writer.write_all(&value(at, count)).map_err(text)?;
        let stored = self.take(mapping, at)?;
        word.end(count);
        let quiet = tail.begun.load(Ordering::SeqCst) == ended;
        if quiet && !stored && at < size {
            let again = mapping.prefault(range(at, 8), Access::Store);
            return Err(format!(
                "a store at {at} in a file of {size} bytes failed; again: {again:?}"
            ));
        }
        let inside = quiet && stored && at + 8 <= size;
        self.last[number] = inside.then_some((count, ended));
        Ok(())
    }

    /// Loads a word by a system call. `false`: it is past the end.
    fn load(&mut self, mapping: &Mapping, at: u64, to: &mut [u8; 8]) -> Result<bool, String> {
        let memory = place(mapping, at);
        // SAFETY: the mapping is longer; the slice is only handed to a system call, which copies.
        let bytes = unsafe { std::slice::from_raw_parts(memory, 8) };
        loop {
            return match self.writer.write(bytes) {
                Ok(8) => {
                    self.reader.read_exact(to).map_err(text)?;
                    Ok(true)
                }
                Ok(done) => Err(format!("{done} of 8 bytes went into a pipe")),
                Err(error) if error.raw_os_error() == Some(EFAULT) => {
                    if fault_in(mapping, at, Access::Load)? {
                        continue;
                    }
                    Ok(false)
                }
                Err(error) => Err(format!("load at {at}: {error}")),
            };
        }
    }

    /// Stores what is in the pipe by a system call. `false`: it is past the end.
    fn take(&mut self, mapping: &Mapping, at: u64) -> Result<bool, String> {
        let memory = place(mapping, at);
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts_mut(memory, 8) };
        loop {
            return match self.reader.read(bytes) {
                Ok(8) => Ok(true),
                Ok(done) => Err(format!("{done} of 8 bytes came out of a pipe")),
                Err(error) if error.raw_os_error() == Some(EFAULT) => {
                    if fault_in(mapping, at, Access::Store)? {
                        continue;
                    }
                    let mut rest = [0; 8];
                    self.reader.read_exact(&mut rest).map_err(text)?;
                    Ok(false)
                }
                Err(error) => Err(format!("store at {at}: {error}")),
            };
        }
    }
}

/// Whether the system call is to be made again: its memory was only not there. `false`: it is past
/// the end.
fn fault_in(mapping: &Mapping, at: u64, access: Access) -> Result<bool, String> {
    if !mapping.needs_prefault() {
        return Ok(false);
    }
    match mapping.prefault(range(at, 8), access) {
        Ok(()) => Ok(true),
        Err(FaultError::BeyondEnd { .. }) => Ok(false),
        Err(error) => Err(format!("fault at {at}: {error}")),
    }
}

const EFAULT: i32 = 14;

fn place(mapping: &Mapping, at: u64) -> *mut u8 {
    mapping.as_ptr().wrapping_add(at as usize)
}
