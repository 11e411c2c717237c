//! Faults of mappings of DAX files: the signal of an access that is not permitted, turned into a
//! question to a thread that may answer it.
//!
//! Owns the handler of `SIGSEGV`, the table of questions, and the threads that answer. Which
//! addresses are asked about is told by [`watch`]; what is done about them is
//! [`live::resolve`](super::live::resolve)'s.
//!
//! ```text
//! thread of the program                      thread of the library
//!   access, not permitted: the signal
//!     not watched: the handler before ours
//!     a slot, the question into it, wake  →    takes it, resolves the fault
//!     waits for the slot                  ←    the answer into it, wake
//!   returns: the access is tried again
//! ```
//!
//! # What the handler may do
//!
//! It interrupts any code, so it calls nothing but system calls, reads the list of watched addresses
//! without a lock, and allocates nothing: a slot of a fixed table is all it needs. If all are in
//! use it waits for one. It may itself be interrupted, and by a handler that faults here again.
//!
//! # What a program must leave alone
//!
//! - The handler is installed with the first mapping of a DAX file. A program that installs its own
//!   afterwards has to call the one it replaces.
//! - A thread that has blocked `SIGSEGV` is killed by its first fault: the kernel does that.
//! - A debugger is told of each fault: `handle SIGSEGV nostop noprint pass`.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use rustix::thread::futex;

use super::Span;
use super::live::{Resolved, resolve};
use crate::error::{Errno, FsError, Result};
use crate::mmap::Access;
use crate::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

/// Threads that answer: a fault that waits for a device must not hold up one that need not.
const THREADS: usize = 4;
/// Questions at a time.
const SLOTS: usize = 64;

/// States of a slot. The handler moves it from [`FREE`] over [`CLAIMED`] to [`ASKED`], a thread of
/// the library over [`TAKEN`] to an answer, the handler back to [`FREE`].
const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const ASKED: u32 = 2;
const TAKEN: u32 = 3;
const TRY_AGAIN: u32 = 4;
const NOT_PERMITTED: u32 = 5;

/// One question.
struct Slot {
    /// See [`FREE`]. Stored `Release` by who has written the rest, or done what was asked; loaded
    /// `Acquire` by the other side.
    state: AtomicU32,
    /// Whether the access is a store. Guarded by `state`.
    store: AtomicU32,
    /// The address. Guarded by `state`.
    address: AtomicUsize,
}

impl Slot {
    const fn new() -> Self {
        Self {
            state: AtomicU32::new(FREE),
            store: AtomicU32::new(0),
            address: AtomicUsize::new(0),
        }
    }
}

static SLOT: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];
/// Questions that were ever asked: raised `Release` after a slot says so, for the threads that wait
/// for one and load it `Acquire` before they look.
static ASKED_EVER: AtomicU32 = AtomicU32::new(0);
/// Slots that were ever given back, for handlers that wait for one: the same way.
static FREED_EVER: AtomicU32 = AtomicU32::new(0);

/// Watched addresses. A member is never freed, and used again when it has no addresses.
struct Watched {
    /// Stored `Release`, zero while it changes; loaded `Acquire` by the handler. Whoever finds the
    /// end of other addresses than the start asks, and is told that nothing is there.
    end: AtomicUsize,
    start: AtomicUsize,
    next: AtomicPtr<Self>,
}

/// The first of the list. Stored `Release` by [`watch`], loaded `Acquire` by the handler.
static WATCHED: AtomicPtr<Watched> = AtomicPtr::new(ptr::null_mut());

/// What was done about the signal before; set before the handler is installed.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
/// The process with the threads that answer. A child has none of them.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Addresses whose faults are resolved, until it is dropped.
#[derive(Debug)]
pub(super) struct Watch(usize);

/// Resolves the faults of `span` from here on.
///
/// # Errors
///
/// The handler or the threads cannot be had.
pub(super) fn watch(span: &Span) -> Result<Watch> {
    static STARTED: OnceLock<Result<(), Errno>> = OnceLock::new();
    (*STARTED.get_or_init(start)).map_err(FsError::from)?;
    for member in members() {
        let (empty, ours) = (0, usize::MAX);
        let (done, failed) = (Ordering::AcqRel, Ordering::Relaxed);
        // Its end is zero, and stays so until the start is the new one.
        if member
            .start
            .compare_exchange(empty, ours, done, failed)
            .is_ok()
        {
            member.start.store(span.start, Ordering::Release);
            member.end.store(span.end, Ordering::Release);
            return Ok(Watch(span.start));
        }
    }
    let member = Box::leak(Box::new(Watched {
        start: AtomicUsize::new(span.start),
        end: AtomicUsize::new(span.end),
        next: AtomicPtr::new(ptr::null_mut()),
    }));
    let mut first = WATCHED.load(Ordering::Acquire);
    loop {
        member.next.store(first, Ordering::Relaxed);
        let (done, failed) = (Ordering::AcqRel, Ordering::Acquire);
        match WATCHED.compare_exchange(first, member, done, failed) {
            Ok(_) => return Ok(Watch(span.start)),
            Err(other) => first = other,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Its addresses are nobody else's before this returns.
        let ours = |member: &&Watched| member.start.load(Ordering::Acquire) == self.0;
        if let Some(member) = members().find(ours) {
            member.end.store(0, Ordering::Release);
            member.start.store(0, Ordering::Release);
        }
    }
}

fn members() -> impl Iterator<Item = &'static Watched> {
    let mut at = WATCHED.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: null, or a member: those are leaked, and never changed but through atomics.
        let member: &'static Watched = unsafe { at.as_ref() }?;
        at = member.next.load(Ordering::Acquire);
        Some(member)
    })
}

fn is_watched(address: usize) -> bool {
    members().any(|member| {
        let start = member.start.load(Ordering::Acquire);
        start <= address && address < member.end.load(Ordering::Acquire)
    })
}

/// The threads, then the handler.
fn start() -> Result<(), Errno> {
    for _ in 0..THREADS {
        let thread = crate::sync::thread::Builder::new().name("iomap-dax-fault".into());
        thread.spawn(answer_for_ever).map_err(|_| Errno::AGAIN)?;
    }
    OWNER.store(std::process::id(), Ordering::Release);
    // SAFETY: all zeroes are a valid value of this structure of the C library.
    let (mut old, mut new): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    let asked = {
        // SAFETY: only asks; `old` lives for the call.
        unsafe { libc::sigaction(libc::SIGSEGV, ptr::null(), &raw mut old) }
    };
    BEFORE.get_or_init(|| old);
    new.sa_sigaction =
        on_signal as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
    // On the stack for signals, where the thread has one; and not blocked while the handler runs,
    // for what interrupts it may fault as well.
    new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART;
    // SAFETY: the handler does only what a handler may (see the module), and has the signature that
    // SA_SIGINFO asks for; the structure lives for the call.
    let installed = unsafe { libc::sigaction(libc::SIGSEGV, &raw const new, ptr::null_mut()) };
    if asked != 0 || installed != 0 {
        return Err(Errno::INVAL);
    }
    Ok(())
}

extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the place of the thread's own `errno`, which lives as long as the thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above. The interrupted code may be about to read it.
    let kept = unsafe { *errno };
    // SAFETY: the kernel passes both to a handler with SA_SIGINFO, and they live until it returns.
    let resolved = unsafe { is_fault(info).is_some_and(|address| ask(address, is_store(context))) };
    if !resolved {
        // SAFETY: as above.
        unsafe { pass_on(signal, info, context) };
    }
    // SAFETY: as above.
    unsafe { *errno = kept };
}

/// The address of the access, if that is what the signal is about and somebody can resolve it.
///
/// # Safety
///
/// `info` is what the kernel passed to the handler.
unsafe fn is_fault(info: *const libc::siginfo_t) -> Option<usize> {
    const NOT_MAPPED: c_int = 1;
    const NOT_PERMITTED: c_int = 2;
    // SAFETY: as the caller says.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let fault = code == NOT_MAPPED || code == NOT_PERMITTED;
    let ours = fault && is_watched(address);
    (ours && OWNER.load(Ordering::Acquire) == std::process::id()).then_some(address)
}

/// Whether the access is a store, by the bit of the processor's error code.
///
/// # Safety
///
/// `context` is what the kernel passed to the handler.
unsafe fn is_store(context: *const c_void) -> bool {
    const STORE: i64 = 2;
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: as the caller says.
    let code = unsafe { (*context).uc_mcontext.gregs[libc::REG_ERR as usize] };
    code & STORE != 0
}

/// Asks, and waits for the answer: whether the access is to be tried again.
fn ask(address: usize, store: bool) -> bool {
    let slot = claim();
    slot.address.store(address, Ordering::Relaxed);
    slot.store.store(u32::from(store), Ordering::Relaxed);
    slot.state.store(ASKED, Ordering::Release);
    ASKED_EVER.fetch_add(1, Ordering::Release);
    wake(&ASKED_EVER);
    loop {
        match slot.state.load(Ordering::Acquire) {
            state @ (ASKED | TAKEN) => wait(&slot.state, state),
            answer => {
                slot.state.store(FREE, Ordering::Release);
                FREED_EVER.fetch_add(1, Ordering::Release);
                wake(&FREED_EVER);
                return answer == TRY_AGAIN;
            }
        }
    }
}

fn claim() -> &'static Slot {
    loop {
        let freed = FREED_EVER.load(Ordering::Acquire);
        if let Some(slot) = SLOT.iter().find(|slot| change(slot, FREE, CLAIMED)) {
            return slot;
        }
        wait(&FREED_EVER, freed);
    }
}

fn change(slot: &Slot, from: u32, to: u32) -> bool {
    let (done, failed) = (Ordering::AcqRel, Ordering::Relaxed);
    slot.state.load(failed) == from && slot.state.compare_exchange(from, to, done, failed).is_ok()
}

/// A thread of the library.
fn answer_for_ever() {
    loop {
        let asked = ASKED_EVER.load(Ordering::Acquire);
        match SLOT.iter().find(|slot| change(slot, ASKED, TAKEN)) {
            Some(slot) => answer(slot),
            None => wait(&ASKED_EVER, asked),
        }
    }
}

fn answer(slot: &Slot) {
    let access = match slot.store.load(Ordering::Relaxed) {
        0 => Access::Load,
        _ => Access::Store,
    };
    let answer = match resolve(slot.address.load(Ordering::Relaxed), access) {
        Resolved::TryAgain => TRY_AGAIN,
        Resolved::NotPermitted => NOT_PERMITTED,
    };
    slot.state.store(answer, Ordering::Release);
    wake(&slot.state);
}

/// Waits until `word` is not `value`, or not even so long.
fn wait(word: &AtomicU32, value: u32) {
    let _tried_again_anyway = futex::wait(word, futex::Flags::PRIVATE, value, None);
}

/// Wakes one that waits for `word`.
fn wake(word: &AtomicU32) {
    let _nobody_there = futex::wake(word, futex::Flags::PRIVATE, 1);
}

/// Leaves the signal to who had it before.
///
/// # Safety
///
/// The arguments are what the kernel passed to the handler.
unsafe fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    type Simple = extern "C" fn(c_int);
    type Full = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
    let before = BEFORE.get();
    let handler = before.map_or(libc::SIG_DFL, |before| before.sa_sigaction);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // SAFETY: gives the signal its default meaning, in the one way a handler may; zeroes are a
        // valid value. The access is tried again and ends the program; what was sent is sent again.
        unsafe {
            let mut default: libc::sigaction = std::mem::zeroed();
            default.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &raw const default, ptr::null_mut());
            if (*info).si_code <= 0 {
                libc::raise(signal);
            }
        }
    } else if before.is_some_and(|before| before.sa_flags & libc::SA_SIGINFO != 0) {
        // SAFETY: installed by somebody as a handler with this signature.
        let handler = unsafe { std::mem::transmute::<usize, Full>(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: as above, with the other signature.
        let handler = unsafe { std::mem::transmute::<usize, Simple>(handler) };
        handler(signal);
    }
}
