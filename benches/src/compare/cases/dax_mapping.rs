//! A program's own mapping of a DAX file: its faults, and copies when they are over.
//!
//! The device is a file of `/dev/shm`. A fault is of one page: the mapping is one page short of a
//! large entry. The floor of a fault is userfaultfd alone, though it is reported by a signal here:
//! both are one switch to the thread that answers and one back, on one processor. The floor of a copy
//! is plain memory, mapped in small pages as the device is. The kernel's faults are those of a file of
//! the temporary folder, as in `mapping`. Leaves out making stores durable, and in
//! copies the fault by which the kernel brings each page of the device into the page table.

use std::sync::Arc;

use iomap_core::mmap::real::Mapping;
use iomap_core::mmap::{Access, FaultHandler};
use iomap_core::units::{FilePos, FileRange, PageIndex};

use super::mapping::{BOTH, Faults, HostMapping, PAGES, STEP, steps, touch};
use super::{Case, MIB, len, text, timed};
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{BareUffd, DaxBed, Memory, PAGE, Positions, noise};

/// The first page that is mapped, and how many are.
const SHOWN: (u64, u64) = (1, 511);
const SET: u64 = 128 * MIB;

pub(super) fn cases(_: Effort) -> Vec<Case> {
    vec![
        Case::new("dax/read fault", |id| faults(id, Access::Load)),
        Case::new("dax/write fault", |id| faults(id, Access::Store)),
        Case::new("dax/mapped load 4 KiB", |id| copies(id, Access::Load)),
        Case::new("dax/mapped store 4 KiB", |id| copies(id, Access::Store)),
    ]
}

fn faults(id: String, access: Access) -> Group {
    let (operation, excludes) = match access {
        Access::Load => (
            "load from a page of a DAX file that is not mapped",
            "taking pages out of the page table",
        ),
        Access::Store => (
            "store to a mapped page of a DAX file that is clean",
            "making stores durable",
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
            Side::new("testfs", Role::Ours, move || steps(Shown::new, access)),
            Side::new("kernel", Role::Kernel, move || {
                steps(HostMapping::new, access)
            }),
        ],
    }
}

/// A mapping of a few pages.
struct Shown {
    mapping: Mapping,
    handler: Arc<dyn FaultHandler>,
    bed: DaxBed,
}

impl Shown {
    fn new() -> Result<Self, String> {
        let bed = DaxBed::new(len(2 * MIB))?;
        let range = FileRange::at_most(FilePos::saturating(SHOWN.0 * PAGE), SHOWN.1 * PAGE);
        let mapping = bed.file.mmap(range, BOTH, true).map_err(text)?;
        mapping.prefault(range, Access::Store).map_err(text)?;
        let handler = Arc::clone(&bed.file).fault_handler().map_err(text)?;
        Ok(Self {
            mapping,
            handler,
            bed,
        })
    }
}

impl Faults for Shown {
    fn arm(&mut self, access: Access) -> Result<(), String> {
        match access {
            Access::Load => {
                let pages = PageIndex::ZERO..PageIndex::new(SHOWN.0 + SHOWN.1);
                self.handler.cache().mappings().unmap(&pages);
                Ok(())
            }
            // Takes the permission to store away.
            Access::Store => self.bed.file.fsync(true).map_err(text),
        }
    }

    fn touch(&self, page: u64, access: Access) {
        touch(self.mapping.as_ptr().wrapping_add(len(page * PAGE)), access);
    }

    fn count(&self) -> u64 {
        SHOWN.1 / STEP
    }
}

fn copies(id: String, access: Access) -> Group {
    let operation = match access {
        Access::Load => "copy 4 KiB at a random page out of a mapping, after its faults",
        Access::Store => "copy 4 KiB to a random page of a mapping, after its faults",
    };
    Group {
        id,
        operation: operation.into(),
        excludes: "faults, making stores durable",
        bytes: PAGE,
        ops: Ops::Fit,
        plot: None,
        sides: vec![
            Side::new("memcpy", Role::Floor, move || {
                let mut memory = Memory::noise(len(SET), false).map_err(text)?;
                let base = memory.bytes_mut().as_mut_ptr();
                Ok(copy(base, access, memory))
            }),
            Side::new("testfs", Role::Ours, move || {
                let bed = DaxBed::new(len(SET))?;
                let all = FileRange::at_most(FilePos::ZERO, SET);
                let mapping = bed.file.mmap(all, BOTH, true).map_err(text)?;
                mapping.prefault(all, Access::Store).map_err(text)?;
                // The kernel's own, once for each page.
                let pages = (0..SET).step_by(len(PAGE));
                pages.for_each(|at| touch(mapping.as_ptr().wrapping_add(len(at)), Access::Store));
                Ok(copy(mapping.as_ptr(), access, (mapping, bed)))
            }),
        ],
    }
}

/// Copies between a buffer and [`SET`] bytes at `base`, which are there as long as `keep`.
fn copy<K>(
    base: *mut u8,
    access: Access,
    keep: K,
) -> impl FnMut(u64, &mut Clock) -> Result<(), String> {
    let mut buffer = noise(len(PAGE));
    let mut positions = Positions::new(SET, PAGE);
    move |count, clock| {
        let _kept = &keep;
        timed(count, clock, || {
            let at = base.wrapping_add(len(positions.draw()));
            let ours = buffer.as_mut_ptr();
            // SAFETY: a whole page of the memory that `keep` holds, to which no reference exists, and
            // a buffer as long.
            unsafe {
                match access {
                    Access::Load => ours.copy_from_nonoverlapping(at, len(PAGE)),
                    Access::Store => at.copy_from_nonoverlapping(ours, len(PAGE)),
                }
            }
            std::hint::black_box(&mut buffer);
            Ok(())
        })
    }
}
