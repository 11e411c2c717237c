//! The memory of a direct I/O: the only place where a caller's buffer becomes a device segment.
//!
//! Owns [`Flight`], the memory of one request (borrowed, or a [`DeviceBuf`] that was moved in and is
//! handed back with the result) with the number of device requests that use it, and the proof that no device uses memory after its owner has it back. Knows nothing of files.
//!
//! The bytes of a flight are handed out once, as disjoint [`Part`]s, by one [`Cursor`]; a part is
//! consumed by filling it or by giving it to a device. So no two parties ever touch the same byte.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use crate::device::{Bio, BioOp, BlockDevice, Completion, DeviceBuf, Segment};
use crate::error::{DeviceError, FsError};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, Rank};
use crate::units::{DevAddr, FilePos, PAGE_SIZE};

/// The first failure of a request, and from where on its bytes are lost.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// The first error told (rule B55).
    pub(super) error: FsError,
    /// The lowest position lost, over all errors.
    pub(super) lost_from: FilePos,
}

/// What runs when the submitter and the last device request have ended. Told whether that is in the
/// context of a completion.
type Last = Box<dyn FnOnce(bool) + Send>;

struct State {
    failure: Option<Failure>,
    last: Option<Last>,
    owned: Option<DeviceBuf>,
}

/// The memory of one direct I/O and the device requests that use it.
pub(super) struct Flight {
    ptr: NonNull<u8>,
    len: usize,
    /// Whether bytes may be changed: for reads only.
    writable: bool,
    /// One for the submitter and one for each device request. `Release` going down, partner: the
    /// `Acquire` load of [`Flight::is_landed`] and the `Acquire` half of the last decrement; who
    /// sees only the submitter's one, or none, sees every byte the device moved and every failure.
    pending: AtomicU32,
    state: Mutex<State>,
}

// SAFETY: the address is used only through parts, which are disjoint; the memory is usable from any
// thread while the flight lives (owned), or while `lend`/`lend_mut` run (borrowed).
unsafe impl Send for Flight {}
// SAFETY: as above.
unsafe impl Sync for Flight {}

impl Flight {
    fn new(ptr: NonNull<u8>, len: usize, writable: bool, owned: Option<DeviceBuf>) -> Arc<Self> {
        let state = State {
            failure: None,
            last: None,
            owned,
        };
        Arc::new(Self {
            ptr,
            len,
            writable,
            pending: AtomicU32::new(1),
            state: Mutex::new(Rank::Wait, state),
        })
    }

    /// A flight that owns its memory, and the cursor over it.
    pub(super) fn owned(mut buffer: DeviceBuf, writable: bool) -> (Arc<Self>, Cursor<'static>) {
        // The bytes stay where they are when the buffer is moved.
        let (ptr, len) = (NonNull::from(&mut buffer[..]).cast(), buffer.len());
        let flight = Self::new(ptr, len, writable, Some(buffer));
        let cursor = Cursor::new(Arc::clone(&flight));
        (flight, cursor)
    }

    /// Whether no device request is on its way. Before the submitter is
    /// [done](Flight::submitted) only.
    pub(super) fn is_landed(&self) -> bool {
        self.pending.load(Ordering::Acquire) <= 1
    }

    /// The first failure so far.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.state.lock().failure.clone()
    }

    /// Whether anything failed so far.
    pub(super) fn has_failed(&self) -> bool {
        self.state.lock().failure.is_some()
    }

    /// Records that the bytes from `lost_from` on are lost.
    pub(super) fn fail(&self, error: FsError, lost_from: FilePos) {
        let mut state = self.state.lock();
        match &mut state.failure {
            None => state.failure = Some(Failure { error, lost_from }),
            Some(failure) => failure.lost_from = failure.lost_from.min(lost_from),
        }
    }

    /// The submitter is done: whoever ends last runs `last`. If that is the submitter itself,
    /// `last` comes back, to be run by it.
    #[must_use]
    pub(super) fn submitted(self: &Arc<Self>, last: Last) -> Option<Last> {
        self.state.lock().last = Some(last);
        self.lower()
    }

    fn lower(&self) -> Option<Last> {
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.state.lock().last.take()
        } else {
            None
        }
    }

    /// Hands the owned memory back, once the last device request has ended.
    pub(super) fn take_buffer(&self) -> Option<DeviceBuf> {
        if self.pending.load(Ordering::Acquire) != 0 {
            return None;
        }
        self.state.lock().owned.take()
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Hands out the bytes of a flight, from the first to the last, each once.
pub(super) struct Cursor<'m> {
    flight: Arc<Flight>,
    at: usize,
    only: Option<Only<'m>>,
    memory: PhantomData<&'m mut [u8]>,
}

/// The only request of a flight, kept back until its submitter is done.
struct Only<'m> {
    part: Part<'m>,
    op: BioOp,
    addr: DevAddr,
    lost_from: FilePos,
}

/// Whether the submitter waits for its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// In the call.
    Yes,
    /// Somebody else does.
    No,
}

impl<'m> Cursor<'m> {
    fn new(flight: Arc<Flight>) -> Self {
        Self {
            flight,
            at: 0,
            only: None,
            memory: PhantomData,
        }
    }

    /// The flight.
    pub(super) const fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// The next `len` bytes.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub(super) fn take(&mut self, len: usize) -> Part<'m> {
        assert!(
            len <= self.flight.len - self.at,
            "part outside of the caller's memory"
        );
        let part = Part {
            flight: Arc::clone(&self.flight),
            from: self.at,
            len,
            memory: PhantomData,
        };
        self.at += len;
        part
    }

    /// Keeps the only request of the flight back for [`Cursor::end`]. As [`Part::submit`].
    pub(super) fn keep_only(
        &mut self,
        part: Part<'m>,
        op: BioOp,
        addr: DevAddr,
        lost_from: FilePos,
    ) {
        self.only = Some(Only {
            part,
            op,
            addr,
            lost_from,
        });
    }

    /// Does the request kept back: in the shortest way if the submitter waits anyway.
    pub(super) fn end(self, device: &dyn BlockDevice, waits: Waits) {
        let Some(only) = self.only else { return };
        let Only {
            part,
            op,
            addr,
            lost_from,
        } = only;
        match waits {
            Waits::Yes => part.transfer(device, op, addr, lost_from),
            Waits::No => {
                part.submit(device, op, addr, lost_from);
            }
        }
    }
}

/// Some bytes of a flight, that nobody else has.
pub(super) struct Part<'m> {
    flight: Arc<Flight>,
    from: usize,
    len: usize,
    memory: PhantomData<&'m mut [u8]>,
}

impl<'m> Part<'m> {
    /// Splits off the first `len` bytes.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub(super) fn split(self, len: usize) -> (Self, Self) {
        assert!(len <= self.len, "split outside of a part");
        let flight = Arc::clone(&self.flight);
        let rest = Part {
            from: self.from + len,
            len: self.len - len,
            ..self
        };
        (
            Part {
                flight,
                from: rest.from - len,
                len,
                memory: PhantomData,
            },
            rest,
        )
    }

    /// Lets `fill` write the bytes; they hold what they held before.
    ///
    /// # Panics
    ///
    /// If this is the memory of a write.
    pub(super) fn fill(self, fill: impl FnOnce(&mut [u8])) {
        assert!(self.flight.writable, "the memory of a write is not changed");
        // SAFETY: inside the memory of the flight (checked by `take` and `split`), which is
        // borrowed exclusively or owned (`writable`); the bytes belong to this part alone, and it
        // is consumed.
        fill(unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), self.len) });
    }

    /// Lets `read` look at the bytes.
    pub(super) fn read(self, read: impl FnOnce(&[u8])) {
        // SAFETY: as in `fill`; the memory of a write is borrowed shared at least, or owned.
        read(unsafe { std::slice::from_raw_parts(self.start().as_ptr(), self.len) });
    }

    /// Has `device` read into the bytes, or write them. A failure is recorded in the flight: lost
    /// from `lost_from` on. Returns whether anything of the flight has failed so far.
    ///
    /// # Panics
    ///
    /// If this is the memory of a write, and `op` reads.
    pub(super) fn submit(
        self,
        device: &dyn BlockDevice,
        op: BioOp,
        addr: DevAddr,
        lost_from: FilePos,
    ) -> bool {
        let segment = self.segment(op);
        request(&self.flight, device, op, addr, segment, lost_from);
        self.flight.has_failed()
    }

    /// As [`Part::submit`], and waits.
    fn transfer(self, device: &dyn BlockDevice, op: BioOp, addr: DevAddr, lost_from: FilePos) {
        let segment = self.segment(op);
        // Counted like a request: should the device panic, the memory is not given back.
        self.flight.pending.fetch_add(1, Ordering::Relaxed);
        let result = device.transfer(op, addr, self.len as u64, &[segment]);
        if let Err(error) = result {
            self.flight.fail(error.into(), lost_from);
        }
        self.flight.pending.fetch_sub(1, Ordering::Release);
    }

    /// The bytes as memory of a device request, which its maker counts in `pending`.
    fn segment(&self, op: BioOp) -> Segment {
        assert!(
            self.flight.writable || op != BioOp::Read,
            "reading into the memory of a write"
        );
        // SAFETY: the memory stays mapped until the request has completed: `request` and
        // `transfer`, which consume the part, count it in `pending` until then, and neither an
        // owned buffer is handed back (`take_buffer`) nor borrowed memory (`Loan`) while it is
        // counted. Nobody has a reference to these bytes: the part is theirs alone, and the borrow
        // it comes from is not used meanwhile.
        unsafe { Segment::from_raw(self.start(), self.len) }
    }

    fn start(&self) -> NonNull<u8> {
        // SAFETY: `from` is at most the length of the flight's memory.
        unsafe { self.flight.ptr.add(self.from) }
    }
}

/// Submits one request that `flight` waits for.
fn request(
    flight: &Arc<Flight>,
    device: &dyn BlockDevice,
    op: BioOp,
    addr: DevAddr,
    segment: Segment,
    lost_from: FilePos,
) {
    // The submitter still counts as one: this cannot revive a flight that has ended.
    flight.pending.fetch_add(1, Ordering::Relaxed);
    let landing = Arc::clone(flight);
    let done = Completion::call(move |result: Result<(), DeviceError>| {
        if let Err(error) = result {
            landing.fail(error.into(), lost_from);
        }
        if let Some(last) = landing.lower() {
            last(true);
        }
    });
    device.submit(Bio::new(op, addr, segment.len() as u64, &[segment], done));
}

/// Bytes of zeroes that every request writes from: larger ranges take several turns (rule B57).
pub(super) const ZEROES_LEN: usize = 16 * PAGE_SIZE;

#[repr(align(4096))]
struct Zeroes([u8; ZEROES_LEN]);

/// Has `device` write `len` zeroes from `addr` on, in requests of at most `max` bytes.
pub(super) fn submit_zeroes(
    flight: &Arc<Flight>,
    device: &dyn BlockDevice,
    addr: DevAddr,
    len: u64,
    max: u64,
    lost_from: FilePos,
) {
    static ZEROES: OnceLock<Box<Zeroes>> = OnceLock::new();
    let zeroes = ZEROES.get_or_init(|| Box::new(Zeroes([0; ZEROES_LEN])));
    let mut done = 0;
    while done < len {
        let now = (len - done).min(max).min(ZEROES_LEN as u64);
        // SAFETY: a static that is never changed nor freed, read by a device write.
        let segment =
            unsafe { Segment::from_raw(NonNull::from(&zeroes.0).cast::<u8>(), now as usize) };
        request(
            flight,
            device,
            BioOp::WRITE,
            addr.plus(done),
            segment,
            lost_from,
        );
        done += now;
    }
}

/// Waits, when dropped, until no device request uses the borrowed memory any more.
struct Loan<'a> {
    flight: &'a Flight,
    device: &'a dyn BlockDevice,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if !self.flight.is_landed() {
            self.device.wait(&mut || self.flight.is_landed());
        }
        // A device that returns early must not cost memory safety.
        while !self.flight.is_landed() {
            self.device.poll();
            crate::sync::thread::yield_now();
        }
    }
}

/// Runs `submit` with the bytes to read into. Returns when no device request uses them any more,
/// also if `submit` panics.
pub(super) fn lend_mut<R>(
    bytes: &mut [u8],
    device: &dyn BlockDevice,
    submit: impl for<'m> FnOnce(Cursor<'m>) -> R,
) -> (R, Option<Failure>) {
    let len = bytes.len();
    lend_raw(NonNull::from(bytes).cast(), len, true, device, submit)
}

/// Runs `submit` with the bytes to write. As [`lend_mut`].
pub(super) fn lend<R>(
    bytes: &[u8],
    device: &dyn BlockDevice,
    submit: impl for<'m> FnOnce(Cursor<'m>) -> R,
) -> (R, Option<Failure>) {
    lend_raw(
        NonNull::from(bytes).cast(),
        bytes.len(),
        false,
        device,
        submit,
    )
}

/// The borrow of the callers lasts until this returns; the lifetime of the cursor keeps parts from
/// leaving `submit`, and `Loan` waits for the requests made of them.
fn lend_raw<R>(
    ptr: NonNull<u8>,
    len: usize,
    writable: bool,
    device: &dyn BlockDevice,
    submit: impl for<'m> FnOnce(Cursor<'m>) -> R,
) -> (R, Option<Failure>) {
    let flight = Flight::new(ptr, len, writable, None);
    let loan = Loan {
        flight: &flight,
        device,
    };
    let result = submit(Cursor::new(Arc::clone(&flight)));
    drop(loan);
    (result, flight.failure())
}
