//! Costs that must not grow with the file: lookup, the walk over dirty folios, their writeback.
//!
//! The sides of a group differ in the size of the file only; the first is the base. The number of
//! folios is the same, spread evenly.

use std::hint::black_box;
use std::sync::Arc;

use iomap_core::device::MemoryDevice;
use iomap_core::folio::{Pool, PoolConfig};
use iomap_core::page_cache::{GetFolio, Mark, PageCache};
use iomap_core::units::{BlockBits, FilePos, FileRange, PageIndex};
use iomap_core::vfs::IoFlags;

use super::{Case, MIB, len, text, timed};
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{Mounted, PAGE, Positions, noise};

const FOLIOS: u64 = 1024;
const DIRTY: u64 = 64;
const SIZES: [(&str, u64); 5] = [
    ("4 MiB", 4 * MIB),
    ("64 MiB", 64 * MIB),
    ("1 GiB", 1 << 30),
    ("32 GiB", 1 << 35),
    ("1 TiB", 1 << 40),
];

pub(super) fn cases(_: Effort) -> Vec<Case> {
    vec![
        Case::new("growth/lookup", |id| {
            group(id, "find a cached folio", |s| Ok(lookup(s)))
        }),
        Case::new("growth/walk 64 dirty", |id| {
            group(id, "find 64 dirty folios among 1024", |s| Ok(walk(s)))
        }),
        Case::new("growth/writeback 64 pages", |id| {
            group(id, "write back 64 dirty pages of a sparse file", writeback)
        }),
    ]
}

fn group<W>(id: String, operation: &str, make: fn(u64) -> Result<W, String>) -> Group
where
    W: FnMut(u64, &mut Clock) -> Result<(), String> + 'static,
{
    Group {
        id,
        operation: operation.into(),
        excludes: "making the folios",
        bytes: 0,
        ops: Ops::Fit,
        plot: None,
        sides: SIZES
            .map(|(name, size)| Side::new(name, Role::Ours, move || make(size)))
            .into(),
    }
}

/// A cache with [`FOLIOS`] single pages spread over `size` bytes; every 16th is dirty.
fn sparse_cache(size: u64) -> Result<PageCache, String> {
    let pool = Pool::new(PoolConfig::with_budget(64 << 20)).map_err(text)?;
    let cache = PageCache::new(&pool, BlockBits::PAGE, Arc::new(MemoryDevice::new(MIB)), 1);
    for n in 0..FOLIOS {
        let index = PageIndex::new(n * (size / FOLIOS) / PAGE);
        let mut folio = cache
            .get_or_create(index, GetFolio::default())
            .map_err(text)?;
        folio.set_uptodate();
        if n % (FOLIOS / DIRTY) == 0 {
            folio.set_dirty();
        }
    }
    Ok(cache)
}

type Made = Box<dyn FnMut(u64, &mut Clock) -> Result<(), String>>;

fn lookup(size: u64) -> Made {
    let cache = match sparse_cache(size) {
        Ok(cache) => cache,
        Err(why) => return Box::new(move |_, _| Err(why.clone())),
    };
    let mut positions = Positions::new(size, size / FOLIOS);
    Box::new(move |count, clock| {
        timed(count, clock, || {
            let found = cache.find(PageIndex::new(positions.draw() / PAGE));
            black_box(found).map(drop).ok_or("not found".to_owned())
        })
    })
}

fn walk(size: u64) -> Made {
    let cache = match sparse_cache(size) {
        Ok(cache) => cache,
        Err(why) => return Box::new(move |_, _| Err(why.clone())),
    };
    let end = PageIndex::new(size / PAGE);
    Box::new(move |count, clock| {
        timed(count, clock, || {
            let (mut at, mut found) = (PageIndex::new(0), 0);
            loop {
                let batch = cache.batch(at, end, Some(Mark::Dirty), 32);
                let Some(last) = batch.last() else { break };
                found += batch.len() as u64;
                at = last.end_index();
            }
            if found == DIRTY {
                Ok(())
            } else {
                Err(format!("{found} dirty folios found"))
            }
        })
    })
}

fn writeback(size: u64) -> Result<Made, String> {
    let mounted = Mounted::with_cache(64 * MIB);
    let file = mounted.file_of(0);
    let page = noise(len(PAGE));
    Ok(Box::new(move |count, clock| {
        let _mounted = &mounted;
        for _ in 0..count {
            for n in 0..DIRTY {
                let at = FilePos::saturating(n * (size / DIRTY));
                file.write_at(at, &page, IoFlags::empty()).map_err(text)?;
            }
            timed(1, clock, || {
                file.sync_range(FileRange::ALL, true).map_err(text)
            })?;
        }
        Ok(())
    }))
}
