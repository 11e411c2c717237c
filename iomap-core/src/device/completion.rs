//! The end of a request: told exactly once.
//!
//! Owns [`Completion`], which a device consumes, and [`Ticket`], which a caller waits for: as a
//! future, or by driving the device itself.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::BlockDevice;
use crate::error::{DeviceError, DeviceOp, Errno};
use crate::sync::{Mutex, Rank};
use crate::units::DevAddr;

/// Tells somebody that a request has ended. Consumed by [`Completion::complete`].
///
/// Dropped instead, it reports `ECANCELED`, so that no waiter hangs; in debug builds it panics as
/// well, because a device must not lose a request.
#[must_use = "a completion must be completed"]
pub struct Completion(Option<Target>);

enum Target {
    Ticket(Arc<Cell>),
    Call(Box<dyn FnOnce(Result<(), DeviceError>) + Send>),
}

impl Completion {
    /// Calls `f` with the result.
    ///
    /// `f` runs in the context the module documentation of [`device`](super) describes: like an
    /// interrupt handler.
    pub fn call(f: impl FnOnce(Result<(), DeviceError>) + Send + 'static) -> Self {
        Self(Some(Target::Call(Box::new(f))))
    }

    /// Tells the result.
    pub fn complete(mut self, result: Result<(), DeviceError>) {
        if let Some(target) = self.0.take() {
            target.complete(result);
        }
    }
}

impl Target {
    fn complete(self, result: Result<(), DeviceError>) {
        match self {
            Self::Ticket(cell) => cell.complete(result),
            Self::Call(f) => f(result),
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(target) = self.0.take() {
            target.complete(Err(DeviceError::new(
                DeviceOp::Open,
                DevAddr::default(),
                0,
                Errno::CANCELED,
            )));
            if cfg!(debug_assertions) && !std::thread::panicking() {
                panic!("a device dropped a request without completing it");
            }
        }
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Completion")
    }
}

struct Cell {
    state: Mutex<State>,
}

struct State {
    result: Option<Result<(), DeviceError>>,
    waker: Option<Waker>,
}

impl Cell {
    fn complete(&self, result: Result<(), DeviceError>) {
        let waker = {
            let mut state = self.state.lock();
            debug_assert!(state.result.is_none(), "a request completed twice");
            state.result = Some(result);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Waits for one request: a future, or [`Ticket::wait`].
///
/// Dropping it does not cancel the request; the memory of the request must stay usable until it has
/// completed.
#[must_use = "the request may still be running"]
pub struct Ticket(Arc<Cell>);

/// A completion and the ticket that waits for it.
pub fn ticket() -> (Completion, Ticket) {
    let cell = Arc::new(Cell {
        state: Mutex::new(
            Rank::Wait,
            State {
                result: None,
                waker: None,
            },
        ),
    });
    (
        Completion(Some(Target::Ticket(Arc::clone(&cell)))),
        Ticket(cell),
    )
}

impl Ticket {
    /// The result, if the request has ended.
    #[must_use]
    pub fn try_result(&self) -> Option<Result<(), DeviceError>> {
        self.0.state.lock().result.clone()
    }

    /// Waits for the request, driving `device`, to which it was submitted.
    ///
    /// # Errors
    ///
    /// What the device answered.
    pub fn wait<D: BlockDevice + ?Sized>(self, device: &D) -> Result<(), DeviceError> {
        let mut result = self.try_result();
        if result.is_none() {
            device.wait(&mut || {
                result = self.try_result();
                result.is_some()
            });
        }
        result.unwrap_or_else(|| {
            Err(DeviceError::new(
                DeviceOp::Open,
                DevAddr::default(),
                0,
                Errno::CANCELED,
            ))
        })
    }
}

impl Future for Ticket {
    type Output = Result<(), DeviceError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state.lock();
        match state.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket")
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    #[test]
    fn a_dropped_completion_reports_and_is_a_bug() {
        let (done, ticket) = ticket();
        let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(done)));
        assert_eq!(dropped.is_err(), cfg!(debug_assertions));
        let error = ticket.wait(&MemoryDevice::new(512)).unwrap_err();
        assert_eq!(error.errno, Errno::CANCELED);
    }

    #[test]
    fn a_call_gets_the_result_once() {
        let (send, receive) = std::sync::mpsc::channel();
        Completion::call(move |result| send.send(result).unwrap()).complete(Ok(()));
        assert_eq!(receive.iter().collect::<Vec<_>>(), [Ok(())]);
    }

    #[test]
    fn a_future_is_woken_by_the_completion() {
        struct Flag(crate::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, crate::sync::atomic::Ordering::Release);
            }
        }
        let flag = Arc::new(Flag(crate::sync::atomic::AtomicBool::new(false)));
        let waker = Arc::clone(&flag).into();
        let mut context = Context::from_waker(&waker);
        let (done, mut ticket) = ticket();
        assert!(Pin::new(&mut ticket).poll(&mut context).is_pending());
        done.complete(Ok(()));
        assert!(flag.0.load(crate::sync::atomic::Ordering::Acquire));
        assert_eq!(
            Pin::new(&mut ticket).poll(&mut context),
            Poll::Ready(Ok(()))
        );
    }
}
