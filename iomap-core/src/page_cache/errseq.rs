//! The error sequence of a page cache: a writeback error is recorded once and reported once to
//! every open file.
//!
//! Owns one word: the last error, a count, and whether somebody has seen it. Who samples when is
//! the file's business: at open ([`ErrorSequence::sample`]), at fsync
//! ([`ErrorSequence::check_and_advance`]).
//!
//! An error that nobody has seen yet is reported to files opened afterwards as well: their sample
//! is the beginning of the sequence, so that an error between the last fsync and the next open is
//! not lost.

use crate::error::Errno;
use crate::sync::atomic::{AtomicU32, Ordering};

/// Bits of the errno.
const ERRNO: u32 = 0xfff;
/// Somebody has looked at this value: the next error must make it a new one.
const SEEN: u32 = 0x1000;
/// One step of the count.
const STEP: u32 = 0x2000;

/// A position in an [`ErrorSequence`]: what an open file has seen of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrSeq(u32);

/// The errors of one page cache.
#[derive(Debug)]
pub struct ErrorSequence {
    /// Stored with release: who is told of an error also sees what was done about it.
    value: AtomicU32,
}

impl ErrorSequence {
    /// No error so far.
    #[must_use]
    pub fn new() -> Self {
        Self {
            value: AtomicU32::new(0),
        }
    }

    /// Records an error. Two errors that nobody looked at in between count as one, the later.
    pub fn record(&self, errno: Errno) {
        let code = errno.raw_os_error().unsigned_abs() & ERRNO;
        let mut old = self.value.load(Ordering::Relaxed);
        loop {
            let count = old & !(ERRNO | SEEN);
            let new = if old & SEEN != 0 {
                count.wrapping_add(STEP) | code
            } else {
                count | code
            };
            match self
                .value
                .compare_exchange_weak(old, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }

    /// Where a file that is opened now begins: here, or at the beginning if the last error has not
    /// been seen by anybody.
    #[must_use]
    pub fn sample(&self) -> ErrSeq {
        let value = self.value.load(Ordering::Acquire);
        if value & SEEN == 0 {
            ErrSeq(0)
        } else {
            ErrSeq(value)
        }
    }

    /// Answers as [`ErrorSequence::check_and_advance`], and nobody counts as told.
    ///
    /// # Errors
    ///
    /// The error recorded last, if `since` has not seen it.
    pub fn check(&self, since: ErrSeq) -> Result<(), Errno> {
        let value = self.value.load(Ordering::Acquire);
        if value & !SEEN == since.0 & !SEEN {
            return Ok(());
        }
        Err(Errno::from_raw_os_error((value & ERRNO).cast_signed()))
    }

    /// Whether there is an error nobody was told of.
    #[must_use]
    pub fn is_unseen(&self) -> bool {
        let value = self.value.load(Ordering::Acquire);
        value & ERRNO != 0 && value & SEEN == 0
    }

    /// Reports the last error if it came after `since`, and moves `since` behind it.
    ///
    /// # Errors
    ///
    /// The error recorded last.
    pub fn check_and_advance(&self, since: &mut ErrSeq) -> Result<(), Errno> {
        let mut old = self.value.load(Ordering::Acquire);
        loop {
            if old & !SEEN == since.0 & !SEEN {
                return Ok(());
            }
            let new = old | SEEN;
            match self
                .value
                .compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => {
                    since.0 = new;
                    return Err(Errno::from_raw_os_error((new & ERRNO).cast_signed()));
                }
                Err(now) => old = now,
            }
        }
    }
}

impl Default for ErrorSequence {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_open_file_sees_an_error_once() {
        let errors = ErrorSequence::new();
        let (mut a, mut b) = (errors.sample(), errors.sample());
        errors.record(Errno::IO);
        assert_eq!(errors.check_and_advance(&mut a), Err(Errno::IO));
        assert_eq!(errors.check_and_advance(&mut a), Ok(()));
        assert_eq!(errors.check_and_advance(&mut b), Err(Errno::IO));
        assert_eq!(errors.check_and_advance(&mut b), Ok(()));
    }

    #[test]
    fn an_error_nobody_has_seen_is_reported_to_a_file_opened_afterwards() {
        let errors = ErrorSequence::new();
        errors.record(Errno::NOSPC);
        let mut late = errors.sample();
        assert_eq!(errors.check_and_advance(&mut late), Err(Errno::NOSPC));
        let mut later = errors.sample();
        assert_eq!(errors.check_and_advance(&mut later), Ok(()));
    }

    #[test]
    fn the_same_error_again_is_a_new_one_once_the_first_was_seen() {
        let errors = ErrorSequence::new();
        let mut file = errors.sample();
        for _ in 0..3 {
            errors.record(Errno::IO);
            errors.record(Errno::IO);
            assert!(errors.is_unseen());
            assert_eq!(errors.check(file), Err(Errno::IO));
            assert_eq!(errors.check_and_advance(&mut file), Err(Errno::IO));
            assert_eq!(errors.check(file), Ok(()));
            assert!(!errors.is_unseen());
        }
    }

    #[test]
    fn unseen_errors_report_the_last() {
        let errors = ErrorSequence::new();
        let mut file = errors.sample();
        errors.record(Errno::IO);
        errors.record(Errno::NOSPC);
        assert_eq!(errors.check_and_advance(&mut file), Err(Errno::NOSPC));
        assert_eq!(errors.check_and_advance(&mut file), Ok(()));
    }
}
