//! The page table of a program's own mapping of a DAX file: its loads and stores reach the device's
//! memory, with nothing between.
//!
//! Owns the addresses of the mapping and what the kernel has there ([`DeviceMmu`]). All of them are
//! reserved, without permission; a page that is shown is the device's backing file mapped over the
//! reservation, at the offset of the page's block, for loads or for stores too. An access that is
//! not permitted is a signal, which [`segv`](super::segv) turns into a fault.
//!
//! # How a page is replaced
//!
//! In one step each, which the kernel does with the address space locked: a thread that accesses
//! the page meanwhile waits for it and sees what was there before, or what is there afterwards.
//!
//! | To | by |
//! |---|---|
//! | show bytes of the device | mapping them elsewhere, away from children, then moving that here |
//! | show zeroes, take away | mapping nameless memory over it: readable, or not |
//! | give or take write permission | a change of permission |
//! | refuse | mapping an empty file over it: the access is a `SIGBUS` of the kernel's own |
//!
//! # Areas
//!
//! The kernel bounds the areas of an address space (`vm.max_map_count`). Each run of pages takes one,
//! and the reservation between two runs another. All mappings together use half of what there is;
//! one that has more than its share drops the runs that come next in turn: they fault again.

use std::fmt;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mmap, mmap_anonymous,
    mprotect, mremap_fixed, munmap,
};

use super::Span;
use super::runs::{Run, Runs, Shown};
use crate::error::{Errno, FsError, Result};
use crate::mmap::{Access, FrameMemory, Frames, Mmu};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, Rank};
use crate::units::{DevAddr, PAGE_SIZE, PageIndex};

/// Runs a mapping may have, however many there are: an instruction needs several pages at once.
const RUNS_MIN: usize = 64;
/// What a kernel allows that does not say.
const AREAS_DEFAULT: usize = 65_530;
/// `hugetlbfs`: its pages cannot be mapped in parts.
const HUGETLBFS: i64 = 0x958_458f6;

/// The runs of all mappings of the process.
#[derive(Debug)]
pub(super) struct Areas {
    /// How many may be used.
    limit: usize,
    /// How many are. `Relaxed`, no partner: a bound that is kept roughly.
    used: AtomicUsize,
}

impl Areas {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
        }
    }

    /// Those of the process: half of what the kernel allows, with two areas for each run.
    pub(super) fn of_process() -> &'static Self {
        static AREAS: OnceLock<Areas> = OnceLock::new();
        AREAS.get_or_init(|| {
            let text = std::fs::read_to_string("/proc/sys/vm/max_map_count");
            let max = text.ok().and_then(|text| text.trim().parse().ok());
            Self::new(max.unwrap_or(AREAS_DEFAULT) / 4)
        })
    }
}

/// The page table of a real mapping of a DAX file.
pub struct DeviceMmu {
    memory: Arc<dyn FrameMemory>,
    base: usize,
    first: PageIndex,
    areas: &'static Areas,
    /// A file without a byte.
    nothing: OwnedFd,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// What the kernel has over the reservation.
    runs: Runs,
    /// Where the next run is dropped, when there are too many.
    hand: PageIndex,
}

impl DeviceMmu {
    /// Reserves addresses for `len` bytes, of a file from page `first` on.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a device that cannot be mapped in pages; no address space or descriptors
    /// left.
    pub(super) fn reserve(
        memory: Arc<dyn FrameMemory>,
        first: PageIndex,
        len: usize,
    ) -> Result<Self> {
        Self::with_areas(memory, first, len, Areas::of_process())
    }

    fn with_areas(
        memory: Arc<dyn FrameMemory>,
        first: PageIndex,
        len: usize,
        areas: &'static Areas,
    ) -> Result<Self> {
        let Some(backing) = memory.backing() else {
            return Err(FsError::Unsupported(
                "a real mapping of a DAX device without a file behind it",
            ));
        };
        if rustix::fs::fstatfs(backing.fd)?.f_type == HUGETLBFS {
            return Err(FsError::Unsupported(
                "a real mapping of a DAX device on hugetlbfs",
            ));
        }
        let nothing = rustix::fs::memfd_create("nothing", rustix::fs::MemfdFlags::CLOEXEC)?;
        // SAFETY: new addresses of the kernel's choice, which nobody can access.
        let base =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), RESERVED) }?;
        Ok(Self {
            memory,
            base: base.expose_provenance(),
            first,
            areas,
            nothing,
            table: Mutex::new(Rank::PageTable, Table::default()),
        })
    }

    /// The first address.
    pub(super) const fn base(&self) -> usize {
        self.base
    }

    /// Keeps the memory of `page` what it is, if it is shown for this access.
    pub(super) fn pin(&self, page: PageIndex, access: Access) -> Option<Box<dyn Send + Sync>> {
        let table = self.table.lock();
        match table.runs.shown(page)? {
            Shown::Device { addr, writable } if writable || !access.is_store() => {
                Some(self.memory.pin(addr))
            }
            _ => None,
        }
    }

    /// Gives addresses back, all of which are reserved only: nothing shows them any more.
    pub(super) fn release(span: &Span) {
        // SAFETY: addresses of this mapping that were not unmapped before; no page table operation
        // reaches them any more, for they are out of the reverse map.
        let _gone = unsafe { munmap(pointer(span), span.len()) };
    }

    /// The addresses of pages of the mapping.
    fn span(&self, pages: &Range<PageIndex>) -> Span {
        // Pages of the mapping: they fit the address space.
        let at = |page: PageIndex| self.base + page.since(self.first) as usize * PAGE_SIZE;
        at(pages.start)..at(pages.end)
    }

    /// Changes the runs, and their number.
    fn change<T>(&self, table: &mut Table, f: impl FnOnce(&mut Runs) -> T) -> T {
        let before = table.runs.len();
        let result = f(&mut table.runs);
        let after = table.runs.len();
        self.areas.used.fetch_add(after, Ordering::Relaxed);
        self.areas.used.fetch_sub(before, Ordering::Relaxed);
        result
    }

    /// Drops some runs if there are too many.
    fn make_room(&self, table: &mut Table) {
        let used = self.areas.used.load(Ordering::Relaxed);
        let own = table.runs.len();
        if used < self.areas.limit || own < RUNS_MIN {
            return;
        }
        for _ in 0..own / 8 {
            let next = table.runs.next(table.hand);
            let Some(run) = next.or_else(|| table.runs.next(PageIndex::ZERO)) else {
                return;
            };
            let pages = run.pages.clone();
            table.hand = pages.end;
            self.take_away(table, &pages);
        }
    }

    /// Puts bytes of the device in the place of what is in `span`.
    fn place(&self, span: &Span, addr: DevAddr, writable: bool) -> Result<(), Errno> {
        let backing = self.memory.backing().ok_or(Errno::NODEV)?;
        let share = if backing.is_synchronous {
            MapFlags::SHARED_VALIDATE | MapFlags::SYNC
        } else {
            MapFlags::SHARED
        };
        let (len, flags) = (span.len(), share | MapFlags::NORESERVE);
        // SAFETY: new addresses of the kernel's choice.
        let there = unsafe {
            let nowhere = std::ptr::null_mut();
            mmap(
                nowhere,
                len,
                prot(writable),
                flags,
                backing.fd,
                addr.bytes(),
            )
        }?;
        // SAFETY: the addresses just mapped, which nobody else knows. A child does not get what is
        // moved from there either. The target is our own: a run or a part of the reservation, in
        // the reverse map and so not given back; no reference to its bytes is ever made. Should the
        // kernel refuse, it does so before it takes anything away.
        let moved = unsafe {
            madvise(there, len, Advice::LinuxDontFork)
                .and_then(|()| mremap_fixed(there, len, len, MremapFlags::MAYMOVE, pointer(span)))
        };
        if moved.is_err() {
            // SAFETY: not moved, so still the addresses just mapped.
            let _gone = unsafe { munmap(there, len) };
        }
        moved.map(|_| ())
    }

    /// Puts nameless memory in the place of what is in `span`: zeroes for loads, or nothing.
    fn blank(span: &Span, readable: bool) -> Result<(), Errno> {
        let prot = if readable {
            ProtFlags::READ
        } else {
            ProtFlags::empty()
        };
        // SAFETY: our own addresses, as for `place`.
        unsafe { mmap_anonymous(pointer(span), span.len(), prot, RESERVED | MapFlags::FIXED) }?;
        Ok(())
    }

    fn permit(span: &Span, writable: bool) -> Result<(), Errno> {
        let flags = MprotectFlags::from_bits_retain(prot(writable).bits());
        // SAFETY: our own addresses, as for `place`; all of them show the device.
        unsafe { mprotect(pointer(span), span.len(), flags) }
    }

    /// Takes `pages` away. That must not fail: somebody frees their blocks next.
    fn take_away(&self, table: &mut Table, pages: &Range<PageIndex>) {
        let met = table.runs.meeting(pages);
        let (Some(first), Some(last)) = (met.first(), met.last()) else {
            return;
        };
        let start = first.pages.start.max(pages.start);
        let hull = start..last.pages.end.min(pages.end);
        if Self::blank(&self.span(&hull), false).is_ok() {
            self.change(table, |runs| runs.cut(&hull));
            return;
        }
        // No area left to cut a run into two: whole ones need none.
        for Run { pages, .. } in met {
            if Self::blank(&self.span(&pages), false).is_err() {
                tracing::error!(target: "iomap::fault", "a page cannot be unmapped: ending");
                // Going on would let stores reach blocks that are somebody else's.
                std::process::abort();
            }
            self.change(table, |runs| runs.cut(&pages));
        }
    }
}

const RESERVED: MapFlags = MapFlags::PRIVATE.union(MapFlags::NORESERVE);

fn prot(writable: bool) -> ProtFlags {
    if writable {
        ProtFlags::READ | ProtFlags::WRITE
    } else {
        ProtFlags::READ
    }
}

fn pointer(span: &Span) -> *mut std::ffi::c_void {
    std::ptr::with_exposed_provenance_mut(span.start)
}

impl Mmu for DeviceMmu {
    fn map(&self, at: PageIndex, frames: &Frames, writable: bool) -> Result<()> {
        let pages = at..at.plus(frames.pages());
        let shown = match frames.device_addr() {
            Some(addr) => Shown::Device { addr, writable },
            None if !frames.can_be_written() => Shown::Zero,
            None => return Err(FsError::Invalid("a folio in a mapping of a DAX file")),
        };
        let span = self.span(&pages);
        let mut table = self.table.lock();
        if table.runs.shows(&pages, shown) {
            let other = |part: &Run| part.shown.is_writable() != shown.is_writable();
            if table.runs.parts(&pages).iter().any(other) {
                Self::permit(&span, writable)?;
            }
        } else {
            self.make_room(&mut table);
            match shown {
                Shown::Device { addr, .. } => self.place(&span, addr, writable)?,
                Shown::Zero | Shown::Refused => Self::blank(&span, true)?,
            }
        }
        self.change(&mut table, |runs| runs.show(pages, shown));
        Ok(())
    }

    fn write_protect(&self, pages: Range<PageIndex>) {
        let mut table = self.table.lock();
        for part in table.runs.parts(&pages) {
            if !part.shown.is_writable() {
                continue;
            }
            if Self::permit(&self.span(&part.pages), false).is_ok() {
                self.change(&mut table, |runs| runs.protect(&part.pages));
            } else {
                self.take_away(&mut table, &part.pages);
            }
        }
    }

    fn unmap(&self, pages: Range<PageIndex>) {
        self.take_away(&mut self.table.lock(), &pages);
    }

    fn forgive(&self, pages: Range<PageIndex>) {
        let mut table = self.table.lock();
        for part in table.runs.parts(&pages) {
            if part.shown == Shown::Refused {
                self.take_away(&mut table, &part.pages);
            }
        }
    }

    fn refuse(&self, page: PageIndex) {
        let pages = page..page.plus(1);
        let mut table = self.table.lock();
        self.make_room(&mut table);
        let span = self.span(&pages);
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: our own addresses, as for `place`.
        let placed = unsafe {
            mmap(
                pointer(&span),
                PAGE_SIZE,
                prot(true),
                flags,
                &self.nothing,
                0,
            )
        };
        // Else the access faults again, and is refused again.
        if placed.is_ok() {
            self.change(&mut table, |runs| runs.show(pages, Shown::Refused));
        }
    }
}

impl fmt::Debug for DeviceMmu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceMmu")
            .field("first", &self.first)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::mmap::Backing;
    use std::os::fd::AsFd;

    /// Pages of a file in memory.
    #[derive(Debug)]
    struct Pages(OwnedFd);

    impl FrameMemory for Pages {
        fn load(&self, addr: DevAddr, to: &mut [u8]) {
            rustix::io::pread(&self.0, to, addr.bytes()).unwrap();
        }

        fn store(&self, addr: DevAddr, from: &[u8]) {
            rustix::io::pwrite(&self.0, from, addr.bytes()).unwrap();
        }

        fn pin(&self, _addr: DevAddr) -> Box<dyn Send + Sync> {
            Box::new(())
        }

        fn backing(&self) -> Option<Backing<'_>> {
            Some(Backing {
                fd: self.0.as_fd(),
                is_synchronous: false,
            })
        }
    }

    const PAGES: u64 = 600;

    fn memory() -> Arc<Pages> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let fd = rustix::fs::memfd_create("pages", flags).unwrap();
        rustix::fs::ftruncate(&fd, PAGES * PAGE_SIZE as u64).unwrap();
        Arc::new(Pages(fd))
    }

    fn mmu(memory: &Arc<Pages>, limit: usize) -> (DeviceMmu, &'static Areas) {
        let areas: &'static Areas = Box::leak(Box::new(Areas::new(limit)));
        let len = PAGES as usize * PAGE_SIZE;
        let memory = Arc::clone(memory) as Arc<dyn FrameMemory>;
        let mmu = DeviceMmu::with_areas(memory, PageIndex::ZERO, len, areas).unwrap();
        (mmu, areas)
    }

    fn frames(memory: &Arc<Pages>, page: u64, count: u64) -> Frames {
        let memory = Arc::clone(memory) as Arc<dyn FrameMemory>;
        Frames::of_device(memory, DevAddr::new(page * PAGE_SIZE as u64), count)
    }

    fn page(n: u64) -> PageIndex {
        PageIndex::new(n)
    }

    /// The areas the kernel has in the reservation, with their permissions and offsets.
    fn kernel_areas(mmu: &DeviceMmu) -> Vec<(Span, String, u64)> {
        let all = mmu.span(&(page(0)..page(PAGES)));
        let text = std::fs::read_to_string("/proc/self/maps").unwrap();
        let area = |line: &str| {
            let mut words = line.split_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let span =
                usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
            let (prot, offset) = (words.next()?.to_owned(), words.next()?);
            Some((span, prot, u64::from_str_radix(offset, 16).ok()?))
        };
        let areas = text.lines().filter_map(area);
        areas
            .filter(|(span, ..)| span.start < all.end && span.end > all.start)
            .collect()
    }

    fn release(mmu: &DeviceMmu) {
        let all = page(0)..page(PAGES);
        mmu.unmap(all.clone());
        DeviceMmu::release(&mmu.span(&all));
    }

    #[test]
    fn the_kernel_has_what_the_runs_say_and_joins_what_they_join() {
        let memory = memory();
        let (mmu, areas) = mmu(&memory, 10_000);
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..400 {
            let at = rng.u64(..PAGES - 20);
            let count = rng.u64(1..20);
            let pages = page(at)..page(at + count);
            match rng.u8(..8) {
                0..=3 => {
                    // Often where it would be in the order of the file.
                    let from = if rng.bool() {
                        at
                    } else {
                        rng.u64(..PAGES - 20)
                    };
                    let frames = frames(&memory, from, count);
                    mmu.map(page(at), &frames, rng.bool()).unwrap();
                }
                4 => mmu.map(page(at), &Frames::zero(count), false).unwrap(),
                5 => mmu.write_protect(pages),
                6 => mmu.unmap(pages),
                _ => mmu.refuse(page(at)),
            }
        }
        let kernel = kernel_areas(&mmu);
        let table = mmu.table.lock();
        for n in 0..PAGES {
            let at = mmu.base + n as usize * PAGE_SIZE;
            let (span, prot, offset) = kernel.iter().find(|(s, ..)| s.contains(&at)).unwrap();
            let shown = table.runs.shown(page(n));
            let wanted = match shown {
                None => "---p",
                Some(Shown::Zero) => "r--p",
                Some(Shown::Device {
                    writable: false, ..
                }) => "r--s",
                Some(Shown::Device { .. } | Shown::Refused) => "rw-s",
            };
            assert_eq!(prot, wanted, "page {n}: {shown:?}");
            if let Some(Shown::Device { addr, .. }) = shown {
                assert_eq!(offset + (at - span.start) as u64, addr.bytes(), "page {n}");
            }
        }
        assert_eq!(areas.used.load(Ordering::Relaxed), table.runs.len());
        assert!(kernel.len() <= 2 * table.runs.len() + 1);
        drop(table);
        release(&mmu);
        assert_eq!(areas.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_mapping_with_too_many_runs_drops_some_and_never_the_newest() {
        let memory = memory();
        let (mmu, areas) = mmu(&memory, 100);
        for round in 0..3 {
            for n in (0..PAGES).step_by(2) {
                mmu.map(page(n), &frames(&memory, n, 1), round % 2 == 0)
                    .unwrap();
                let table = mmu.table.lock();
                assert!(table.runs.shown(page(n)).is_some());
                assert!(n < 2 || round > 0 || table.runs.shown(page(n - 2)).is_some());
                assert!(table.runs.len() <= 101);
            }
        }
        assert!(areas.used.load(Ordering::Relaxed) >= RUNS_MIN);
        release(&mmu);
    }

    #[test]
    fn a_mapping_keeps_its_share_when_others_have_used_everything() {
        let memory = memory();
        let (mmu, areas) = mmu(&memory, 100);
        areas.used.fetch_add(100, Ordering::Relaxed);
        for n in (0..PAGES).step_by(2) {
            mmu.map(page(n), &frames(&memory, n, 1), true).unwrap();
            let table = mmu.table.lock();
            assert!(table.runs.len() <= RUNS_MIN);
            // An instruction that needs two pages gets them.
            let newest = (0..=n).rev().step_by(2).take(2);
            assert!(
                newest
                    .into_iter()
                    .all(|n| table.runs.shown(page(n)).is_some())
            );
        }
        release(&mmu);
    }
}
