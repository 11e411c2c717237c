//! Requests that may be given up before their end.
//!
//! Owns which of them are under way, and which of those a signal has met: the kernel says so with
//! `INTERRUPT` and waits for the answer all the same. A request that is not entered here ends by itself,
//! soon.

use std::collections::HashMap;

use parking_lot::Mutex;

/// The requests that look for interruptions, by their numbers, and whether each was interrupted.
#[derive(Debug, Default)]
pub(super) struct Interrupts {
    under_way: Mutex<HashMap<u64, bool>>,
}

/// A request that looks for interruptions as long as this is there.
#[derive(Debug)]
pub(super) struct Interruptible<'a> {
    all: &'a Interrupts,
    unique: u64,
}

impl Interrupts {
    /// The request begins.
    pub(super) fn begin(&self, unique: u64) -> Interruptible<'_> {
        self.under_way.lock().insert(unique, false);
        Interruptible { all: self, unique }
    }

    /// A signal has met who waits for the request. One that is not under way here ends by itself.
    pub(super) fn interrupt(&self, unique: u64) {
        if let Some(interrupted) = self.under_way.lock().get_mut(&unique) {
            *interrupted = true;
        }
    }
}

impl Interruptible<'_> {
    /// Whether a signal has met who waits.
    pub(super) fn is_interrupted(&self) -> bool {
        self.all.under_way.lock().get(&self.unique) == Some(&true)
    }
}

impl Drop for Interruptible<'_> {
    fn drop(&mut self) {
        self.all.under_way.lock().remove(&self.unique);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_meets_the_request_it_names_while_that_is_under_way() {
        let all = Interrupts::default();
        let (one, other) = (all.begin(2), all.begin(4));
        all.interrupt(4);
        all.interrupt(6);
        assert!(!one.is_interrupted() && other.is_interrupted());
        drop(other);
        assert!(!all.begin(4).is_interrupted() && !all.begin(6).is_interrupted());
    }
}
