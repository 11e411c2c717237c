//! The threads that change the file around those that store: its end, its clone, its memory, and
//! when the device answers.

use std::time::Duration;

use iomap_core::device::DeviceBuf;
use iomap_core::units::FilePos;
use iomap_core::vfs::{IoFlags, SetAttr, Vfs};

use super::model::PAGE;
use super::tail;
use super::work::Bench;
use super::{Verdict, range, read, text};

/// Cuts the end of the file off and lets it grow, and clones the shared words.
pub(crate) fn shape(bench: &Bench<'_>, seed: u64) -> Verdict {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x5a);
    while bench.goes_on() {
        match rng.u8(..8) {
            0 => clone(bench, &mut rng)?,
            1 => bench
                .tail
                .check_all(|at, to| read(&*bench.file, at, to, IoFlags::empty()))?,
            _ => truncate(bench, &mut rng)?,
        }
        bench.did();
    }
    Ok(())
}

fn truncate(bench: &Bench<'_>, rng: &mut fastrand::Rng) -> Verdict {
    let size = bench.tail.start + rng.u64(..=tail::LEN);
    let set = SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    bench.tail.resize(size, || {
        let set = bench.fs.setattr(bench.file.ino(), &set);
        set.map(drop)
            .map_err(|error| format!("truncate to {size}: {error}"))
    })
}

/// A clone holds each shared word as it was at a moment of the call.
fn clone(bench: &Bench<'_>, rng: &mut fastrand::Rng) -> Verdict {
    let model = bench.model;
    let len = model.owned();
    let low = model.ended();
    let cloned = bench
        .file
        .clone_range(range(0, len), &*bench.clone, FilePos::ZERO);
    cloned.map_err(|error| format!("clone: {error}"))?;
    let mut bytes = DeviceBuf::zeroed(len as usize, PAGE as usize);
    let flags = [IoFlags::empty(), IoFlags::DIRECT][rng.usize(..2)];
    read(&*bench.clone, 0, &mut bytes, flags)?;
    model.check(0, &bytes, &low, "clone")
}

/// Syncs, writes, and takes memory away.
pub(crate) fn sync(bench: &Bench<'_>, seed: u64) -> Verdict {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x77);
    while bench.goes_on() {
        match rng.u8(..8) {
            0 => bench.sync_with(|| bench.file.fsync(false).map_err(text))?,
            1 => bench.sync_with(|| bench.fs.sync().map_err(text))?,
            2 | 3 => {
                let at = rng.u64(..bench.tail.start);
                bench
                    .file
                    .sync_range(range(at, 30_000), true)
                    .map_err(text)?;
            }
            4 => drop(bench.fs.pool().shrink(u64::MAX)),
            5 => std::thread::sleep(Duration::from_millis(rng.u64(..3))),
            _ => drop(bench.fs.pool().shrink(rng.u64(1..64))),
        }
        bench.did();
    }
    Ok(())
}

/// Completes held requests at random moments, also when nobody waits for them.
pub(crate) fn pump(bench: &Bench<'_>, seed: u64) -> Verdict {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x99);
    let Some(device) = bench.queue else {
        return Ok(());
    };
    while bench.goes_on() {
        for _ in 0..rng.u8(1..8) {
            device.complete_random();
        }
        std::thread::sleep(Duration::from_micros(rng.u64(50..2000)));
    }
    Ok(())
}
