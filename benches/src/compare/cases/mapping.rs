//! Faults of a program's own memory mapping, and taking permission away from it.
//!
//! The floor is userfaultfd alone: a thread that reads a message and makes a request. The kernel's
//! row is a mapping of a file of the temporary folder, whose faults change no process. Leaves out
//! the device: every page is in the cache. The thread that faults and the one that answers share a
//! processor: how long another one sleeps before it wakes up is the machine's affair, and would be
//! most of the time.

use std::fs::File as HostFile;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use iomap_core::commit::{Committing, protect_journalled};
use iomap_core::device::MemoryDevice;
use iomap_core::file::File;
use iomap_core::mmap::real::Mapping;
use iomap_core::mmap::{Access, Prot};
use iomap_core::ops::MapOps;
use iomap_core::units::{FilePos, FileRange, PageIndex};
use iomap_core::vfs::{IoFlags, OpenFile};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mprotect, munmap};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::{Case, len, text};
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{BareUffd, Flat, Mounted, PAGE, flat, noise};

/// Pages of the file.
pub(super) const PAGES: u64 = 4096;
/// Pages from one fault to the next: more than any side shows at once.
pub(super) const STEP: u64 = 16;
/// 64 KiB folios.
const ORDER: u32 = 4;
pub(super) const BOTH: Prot = Prot::READ.union(Prot::WRITE);

pub(super) fn cases(_: Effort) -> Vec<Case> {
    vec![
        Case::new("mapping/read fault", |id| faults(id, Access::Load)),
        Case::new("mapping/write fault", |id| faults(id, Access::Store)),
        Case::new("mapping/write-protect 4096 pages", protection),
    ]
}

/// Keeps this thread, and those it makes, on one processor.
struct OneProcessor(CpuSet);

impl OneProcessor {
    fn new() -> Result<Self, String> {
        let before = sched_getaffinity(None).map_err(text)?;
        let first = (0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu));
        let mut one = CpuSet::new();
        one.set(first.ok_or("no processor to run on")?);
        sched_setaffinity(None, &one).map_err(text)?;
        Ok(Self(before))
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        // It was allowed before.
        let _restored = sched_setaffinity(None, &self.0);
    }
}

/// A way to fault pages in, again and again.
pub(super) trait Faults {
    /// Makes the next access to each page fault: the page is out of the page table, or in it and
    /// clean for stores.
    fn arm(&mut self, access: Access) -> Result<(), String>;

    fn touch(&self, page: u64, access: Access);

    /// Faults there are after each [`Faults::arm`].
    fn count(&self) -> u64 {
        PAGES / STEP
    }
}

fn faults(id: String, access: Access) -> Group {
    let (operation, excludes) = match access {
        Access::Load => (
            "load from a cached page that is not mapped",
            "the device; taking pages out of the page table",
        ),
        Access::Store => (
            "store to a mapped page that is clean",
            "the device; writeback between two stores to a page",
        ),
    };
    Group {
        id,
        operation: operation.into(),
        excludes,
        bytes: 0,
        ops: Ops::Fit,
        plot: None,
        sides: vec![
            Side::new("userfaultfd", Role::Floor, move || {
                steps(|| BareUffd::new(PAGES), access)
            }),
            Side::new("iomap-core", Role::Ours, move || steps(core, access)),
            Side::new("testfs", Role::Ours, move || steps(Shown::new, access)),
            Side::new("kernel", Role::Kernel, move || {
                steps(HostMapping::new, access)
            }),
        ],
    }
}

pub(super) fn steps<F: Faults>(
    make: impl FnOnce() -> Result<F, String>,
    access: Access,
) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    // Threads that answer are made here, and stay where they were made.
    let mut faults = {
        let _one = OneProcessor::new()?;
        make()?
    };
    Ok(move |count: u64, clock: &mut Clock| {
        let _one = OneProcessor::new()?;
        let mut left = count;
        while left > 0 {
            faults.arm(access)?;
            let now = left.min(faults.count());
            clock.start();
            (0..now).for_each(|n| faults.touch(n * STEP, access));
            clock.stop();
            left -= now;
        }
        Ok(())
    })
}

impl Faults for BareUffd {
    fn arm(&mut self, access: Access) -> Result<(), String> {
        match access {
            Access::Load => self.forget(),
            Access::Store => {
                (0..PAGES / STEP).for_each(|n| self.load(n * STEP));
                self.protect()
            }
        }
    }

    fn touch(&self, page: u64, access: Access) {
        match access {
            Access::Load => self.load(page),
            Access::Store => self.store(page),
        }
    }
}

/// A mapping of ours, and how its file is synced.
struct Shown<S> {
    mapping: Mapping,
    sync: S,
    _bed: Option<Mounted>,
}

impl<S: FnMut() -> Result<(), String>> Faults for Shown<S> {
    fn arm(&mut self, access: Access) -> Result<(), String> {
        let all = FileRange::at_most(FilePos::ZERO, PAGES * PAGE);
        match access {
            Access::Load => {
                self.mapping.forgive(all);
                Ok(())
            }
            Access::Store => {
                (self.sync)()?;
                self.mapping.prefault(all, Access::Load).map_err(text)
            }
        }
    }

    fn touch(&self, page: u64, access: Access) {
        let at = self.mapping.as_ptr().wrapping_add(len(page * PAGE));
        touch(at, access);
    }
}

pub(super) fn touch(at: *mut u8, access: Access) {
    // SAFETY: every caller passes an address inside a mapping that it holds, of pages inside the
    // file.
    unsafe {
        match access {
            Access::Load => drop(at.read_volatile()),
            Access::Store => at.write_volatile(1),
        }
    }
}

fn core() -> Result<Shown<impl FnMut() -> Result<(), String>>, String> {
    let (file, mapping) = mapped()?;
    let sync = move || file.fsync(true).map_err(text);
    Ok(Shown {
        mapping,
        sync,
        _bed: None,
    })
}

/// A file of cached pages without a file system, and a mapping of it.
fn mapped() -> Result<(File<Flat>, Mapping), String> {
    let device = Arc::new(MemoryDevice::new(PAGES * PAGE));
    let file = flat(device, PAGES * PAGE * 4, ORDER).map_err(text)?.open();
    let all = FileRange::at_most(FilePos::ZERO, PAGES * PAGE);
    let bytes = noise(len(PAGES * PAGE));
    file.write_at(FilePos::ZERO, &bytes, IoFlags::empty())
        .map_err(text)?;
    file.fsync(true).map_err(text)?;
    let mapping = file.mmap(all, BOTH, true).map_err(text)?;
    mapping.prefault(all, Access::Store).map_err(text)?;
    Ok((file, mapping))
}

type BoxedSync = Box<dyn FnMut() -> Result<(), String>>;

impl Shown<BoxedSync> {
    /// A file of testfs.
    fn new() -> Result<Self, String> {
        let bed = Mounted::with_cache(PAGES * PAGE * 4);
        let file: Arc<dyn OpenFile> = bed.file_of(PAGES * PAGE);
        let all = FileRange::at_most(FilePos::ZERO, PAGES * PAGE);
        let mapping = file.mmap(all, BOTH, true).map_err(text)?;
        mapping.prefault(all, Access::Store).map_err(text)?;
        Ok(Self {
            mapping,
            sync: Box::new(move || file.fsync(true).map_err(text)),
            _bed: Some(bed),
        })
    }
}

/// A mapping of the kernel's.
pub(super) struct HostMapping {
    base: NonNull<u8>,
    file: HostFile,
}

impl HostMapping {
    pub(super) fn new() -> Result<Self, String> {
        let file = crate::host_file(PAGES * PAGE).map_err(text)?;
        let both = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len(PAGES * PAGE),
                both,
                MapFlags::SHARED | MapFlags::POPULATE,
                &file,
                0,
            )
        };
        let base = NonNull::new(base.map_err(text)?.cast()).ok_or("mapped at address zero")?;
        Ok(Self { base, file })
    }

    fn protect(&self, prot: MprotectFlags) -> Result<(), String> {
        let start = self.base.as_ptr().cast();
        // SAFETY: a mapping of its own, to which no reference exists.
        unsafe { mprotect(start, len(PAGES * PAGE), prot) }.map_err(text)
    }
}

impl Faults for HostMapping {
    fn arm(&mut self, access: Access) -> Result<(), String> {
        match access {
            Access::Load => {
                let start = self.base.as_ptr().cast();
                // SAFETY: a shared mapping of its own: the bytes stay in the file.
                unsafe { madvise(start, len(PAGES * PAGE), Advice::LinuxDontNeed) }.map_err(text)
            }
            Access::Store => {
                self.file.sync_data().map_err(text)?;
                (0..PAGES / STEP).for_each(|n| self.touch(n * STEP, Access::Load));
                Ok(())
            }
        }
    }

    fn touch(&self, page: u64, access: Access) {
        touch(self.base.as_ptr().wrapping_add(len(page * PAGE)), access);
    }
}

impl Drop for HostMapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; every access borrows `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), len(PAGES * PAGE)) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}

// ---- write protection

fn protection(id: String) -> Group {
    Group {
        id,
        operation: "take write permission for 4096 mapped, writable, dirty pages away".into(),
        excludes: "making them writable",
        bytes: 0,
        ops: Ops::Fixed(4),
        plot: None,
        sides: vec![
            Side::new("one ioctl", Role::Floor, || {
                let _one = OneProcessor::new()?;
                let memory = Rc::new(BareUffd::new(PAGES)?);
                (0..PAGES).for_each(|page| memory.store(page));
                let ready = move || memory.unprotect().map(|()| Rc::clone(&memory));
                Ok(passes(ready, |memory: Rc<BareUffd>| memory.protect()))
            }),
            Side::new("reverse map", Role::Ours, || {
                let _one = OneProcessor::new()?;
                let ready = writable()?;
                Ok(passes(ready, |file: Arc<Flat>| {
                    let pages = PageIndex::ZERO..PageIndex::new(PAGES);
                    file.inode().cache().mappings().write_protect(&pages);
                    Ok(())
                }))
            }),
            Side::new("commit", Role::Ours, || {
                let _one = OneProcessor::new()?;
                let ready = writable()?;
                Ok(passes(ready, |file: Arc<Flat>| {
                    protect_journalled(&*file, FileRange::ALL, |_| Committing::KeepDirty);
                    Ok(())
                }))
            }),
            Side::new("kernel mprotect", Role::Kernel, || {
                let mapping = Rc::new(HostMapping::new()?);
                let ready = move || {
                    mapping.protect(MprotectFlags::READ | MprotectFlags::WRITE)?;
                    (0..PAGES).for_each(|page| mapping.touch(page, Access::Store));
                    Ok(Rc::clone(&mapping))
                };
                Ok(passes(ready, |mapping: Rc<HostMapping>| {
                    mapping.protect(MprotectFlags::READ)
                }))
            }),
        ],
    }
}

/// Makes ready, then does, with the clock running for the second.
fn passes<T>(
    mut ready: impl FnMut() -> Result<T, String>,
    mut pass: impl FnMut(T) -> Result<(), String>,
) -> impl FnMut(u64, &mut Clock) -> Result<(), String> {
    // A commit meets page tables and pages that nobody has looked at for a while. What made ready
    // has some of them in the processor's caches, more of them on one side than on the other: with
    // them all out of the caches, each side pays for its own.
    let other = noise(len(64 << 20));
    move |count, clock| {
        // Threads of a mapping that ran elsewhere have to be told of every change of permission.
        let _one = OneProcessor::new()?;
        for _ in 0..count {
            let with = ready()?;
            std::hint::black_box(other.iter().step_by(64).fold(0_u8, |sum, b| sum ^ b));
            clock.start();
            let done = pass(with);
            clock.stop();
            done?;
        }
        Ok(())
    }
}

/// Makes every page of a mapped file writable, and dirty.
fn writable() -> Result<impl FnMut() -> Result<Arc<Flat>, String>, String> {
    let (file, mapping) = mapped()?;
    Ok(move || {
        let all = FileRange::at_most(FilePos::ZERO, PAGES * PAGE);
        mapping.prefault(all, Access::Store).map_err(text)?;
        Ok(Arc::clone(file.backend()))
    })
}
