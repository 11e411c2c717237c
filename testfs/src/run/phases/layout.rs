//! Changing the shape of a file: punch, zero, collapse, insert, unshare, truncate.

use std::time::Instant;

use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{Fallocate, IoFlags, SetAttr, Vfs};

use super::{MIB, Stage, Subject, open, put};
use crate::run::RunError;

/// Bytes of the largest block: what shifting a file has to be aligned to.
const BLOCK: u64 = 65_536;

/// Every mode of fallocate on one file, compared after each.
pub(super) fn layout(stage: &mut Stage) -> Result<(), RunError> {
    let mut subject = open(stage, "layout")?;
    let size = (stage.volume_bytes() / 64).clamp(MIB, 16 * MIB);
    let mut model = stage.bytes(size as usize);
    subject.write(0, &model, IoFlags::empty())?;
    subject.take();
    let modes = [
        Fallocate::PunchHole,
        Fallocate::ZeroRangeKeepSize,
        Fallocate::CollapseRange,
        Fallocate::InsertRange,
        Fallocate::AllocateKeepSize,
        Fallocate::UnshareRange,
    ];
    let meter = stage.meter();
    let mut calls = super::Calls::default();
    for round in 0..48 {
        let mode = modes[round % modes.len()];
        let shifts = matches!(mode, Fallocate::CollapseRange | Fallocate::InsertRange);
        let unit = if shifts { BLOCK } else { 1 };
        let span = model.len() as u64 / 2;
        let pos = stage.rng.u64(..span) / unit * unit;
        let len = (stage.rng.u64(1..=span / 2) / unit * unit).max(unit);
        // Some of it dirty in the cache.
        let dirty = stage.bytes(10_000);
        let at = stage.rng.u64(..span);
        subject.write(at, &dirty, IoFlags::empty())?;
        put(&mut model, at, &dirty);
        let started = Instant::now();
        let range = FileRange::at_most(FilePos::saturating(pos), len);
        let done = subject.file.fallocate(mode, range);
        calls.add(started.elapsed(), len);
        done.map_err(RunError::in_phase("fallocate"))?;
        reshape(&mut model, mode, pos as usize, len as usize);
        verify(&mut subject, &model)?;
    }
    subject.take();
    stage.done("fallocate, all modes", &meter, calls);
    *stage.model("layout") = model;
    Ok(())
}

/// What a mode makes of the bytes.
fn reshape(model: &mut Vec<u8>, mode: Fallocate, pos: usize, len: usize) {
    let end = (pos + len).min(model.len());
    match mode {
        Fallocate::PunchHole | Fallocate::ZeroRangeKeepSize => model[pos..end].fill(0),
        Fallocate::CollapseRange => drop(model.drain(pos..end)),
        Fallocate::InsertRange => drop(model.splice(pos..pos, std::iter::repeat_n(0, len))),
        _ => {}
    }
}

fn verify(subject: &mut Subject<'_>, model: &[u8]) -> Result<(), RunError> {
    let mut buffer = vec![0; MIB as usize];
    for (n, wanted) in model.chunks(MIB as usize).enumerate() {
        subject.read(n as u64 * MIB, wanted, &mut buffer, IoFlags::empty())?;
    }
    Ok(())
}

/// Down and up, across dirty and clean pages: what was cut off never comes back.
pub(super) fn truncate(stage: &mut Stage) -> Result<(), RunError> {
    let mut subject = open(stage, "truncated")?;
    let size = (stage.volume_bytes() / 64).clamp(MIB, 8 * MIB);
    let mut model = stage.bytes(size as usize);
    subject.write(0, &model, IoFlags::empty())?;
    subject.take();
    let meter = stage.meter();
    let mut calls = super::Calls::default();
    for round in 0..40 {
        let new = stage.rng.u64(1..size);
        let set = SetAttr {
            size: Some(new),
            ..SetAttr::default()
        };
        let started = Instant::now();
        let done = stage.fs().setattr(subject.file.ino(), &set);
        calls.add(started.elapsed(), 0);
        done.map_err(RunError::in_phase("truncate"))?;
        model.resize(new as usize, 0);
        if round % 3 == 0 {
            let bytes = stage.bytes(50_000);
            let at = stage.rng.u64(..size);
            subject.write(at, &bytes, IoFlags::empty())?;
            put(&mut model, at, &bytes);
        }
        if round % 5 == 0 {
            subject.fsync()?;
        }
        verify(&mut subject, &model)?;
    }
    stage.done("truncate", &meter, calls);
    *stage.model("truncated") = model;
    Ok(())
}
