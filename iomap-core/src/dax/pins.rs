//! Pages of a device that somebody accesses by address, around every page table.
//!
//! Owns the counts, by device page, and the wait for one to become zero. A pin stands for a device
//! that does DMA, or for a thread that passes an address of a memory mapping to a device: neither
//! asks a page table again. Who has to wait before blocks move is
//! [`dax_io::layout`](crate::dax_io::layout).
//!
//! # The order
//!
//! ```text
//! who pins                               who moves blocks
//!   page table locked:                     take the page out of every page table
//!     the page is shown, so count          look at the counts: zero, or wait
//! ```
//!
//! Either the pin found the page shown, and its count was raised before it was taken out; or it did
//! not, and the pinner has to fault, which waits for the invalidate lock (rule D2).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, Rank};
use crate::units::{DevAddr, PAGE_SHIFT, PAGE_SIZE};

/// The pinned pages of a device.
#[derive(Clone)]
pub struct Pins(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    /// Pins by device page; no zeroes.
    counts: BTreeMap<u64, u64>,
    /// Rises when waits are to be interrupted: a wait remembers what it was at its start.
    interrupts: u64,
    /// Threads that wait for a page to be released.
    waiting: usize,
}

/// Why a wait for pins ended without them being gone. Nothing was freed or moved (rule D5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinWaitError {
    /// [`Pins::interrupt`] was called.
    Interrupted,
    /// The time given was over.
    TimedOut,
}

impl Pins {
    /// Nothing is pinned.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            // The innermost rank but the wait queues': pins are taken with a page table locked.
            state: Mutex::new(Rank::DeviceQueue, State::default()),
            released: Condvar::new(),
        }))
    }

    /// Pins the page at `addr`, until the guard is dropped.
    pub fn pin(&self, addr: DevAddr) -> PinGuard {
        let page = addr.bytes() >> PAGE_SHIFT;
        *self.0.state.lock().counts.entry(page).or_default() += 1;
        PinGuard {
            pins: self.clone(),
            page,
        }
    }

    /// Whether nothing at all is pinned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.state.lock().counts.is_empty()
    }

    /// The first pinned page of `len` bytes at `addr`.
    #[must_use]
    pub fn first_in(&self, addr: DevAddr, len: u64) -> Option<DevAddr> {
        let start = addr.bytes() >> PAGE_SHIFT;
        let end = addr.bytes().saturating_add(len).div_ceil(PAGE_SIZE as u64);
        let state = self.0.state.lock();
        let (page, _) = state.counts.range(start..end.max(start)).next()?;
        Some(DevAddr::new(page << PAGE_SHIFT))
    }

    /// Begins a wait: what [`Pins::interrupt`] ends from now on.
    #[must_use]
    pub fn start_waiting(&self, timeout: Option<Duration>) -> PinWait {
        PinWait {
            interrupts: self.0.state.lock().interrupts,
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        }
    }

    /// Waits until the page at `addr` is not pinned. It may be again when this returns.
    ///
    /// # Errors
    ///
    /// The wait was interrupted, or took too long.
    pub fn wait_for(&self, addr: DevAddr, wait: &PinWait) -> Result<(), PinWaitError> {
        let page = addr.bytes() >> PAGE_SHIFT;
        let mut state = self.0.state.lock();
        state.waiting += 1;
        let result = loop {
            if state.interrupts != wait.interrupts {
                break Err(PinWaitError::Interrupted);
            }
            if !state.counts.contains_key(&page) {
                break Ok(());
            }
            match wait.deadline {
                None => self.0.released.wait(&mut state),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break Err(PinWaitError::TimedOut);
                    }
                    self.0.released.wait_for(&mut state, left);
                }
            }
        };
        state.waiting -= 1;
        result
    }

    /// Ends every wait that has begun.
    pub fn interrupt(&self) {
        self.0.state.lock().interrupts += 1;
        self.0.released.notify_all();
    }

    /// Threads that wait for a page to be released.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.state.lock().waiting
    }
}

impl Default for Pins {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pins").finish_non_exhaustive()
    }
}

/// A wait for pins, over several pages: one limit for all of them.
#[derive(Clone, Copy, Debug)]
pub struct PinWait {
    interrupts: u64,
    deadline: Option<Instant>,
}

/// Keeps a page pinned.
#[derive(Debug)]
#[must_use = "the page is released when the guard is dropped"]
pub struct PinGuard {
    pins: Pins,
    page: u64,
}

impl PinGuard {
    /// Where the page is on the device.
    #[must_use]
    pub const fn addr(&self) -> DevAddr {
        DevAddr::new(self.page << PAGE_SHIFT)
    }
}

impl Drop for PinGuard {
    fn drop(&mut self) {
        let mut state = self.pins.0.state.lock();
        if let Some(count) = state.counts.get_mut(&self.page) {
            *count -= 1;
            if *count == 0 {
                state.counts.remove(&self.page);
                self.pins.0.released.notify_all();
            }
        }
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_pinned_as_long_as_one_of_its_pins_lives() {
        let pins = Pins::new();
        let (one, two) = (pins.pin(DevAddr::new(8192)), pins.pin(DevAddr::new(9000)));
        assert_eq!(pins.first_in(DevAddr::new(0), 8192), None);
        assert_eq!(
            pins.first_in(DevAddr::new(0), 8193),
            Some(DevAddr::new(8192))
        );
        drop(one);
        assert!(!pins.is_empty());
        drop(two);
        assert!(pins.is_empty());
    }

    #[test]
    fn a_wait_ends_by_release_by_interrupt_and_by_time() {
        let pins = Pins::new();
        let guard = pins.pin(DevAddr::new(0));
        let late = pins.start_waiting(Some(Duration::ZERO));
        assert_eq!(
            pins.wait_for(DevAddr::new(0), &late),
            Err(PinWaitError::TimedOut)
        );
        let wait = pins.start_waiting(None);
        pins.interrupt();
        assert_eq!(
            pins.wait_for(DevAddr::new(0), &wait),
            Err(PinWaitError::Interrupted)
        );
        let wait = pins.start_waiting(None);
        let waiter = {
            let pins = pins.clone();
            std::thread::spawn(move || pins.wait_for(DevAddr::new(0), &wait))
        };
        drop(guard);
        assert_eq!(waiter.join().expect("no panic"), Ok(()));
    }
}
