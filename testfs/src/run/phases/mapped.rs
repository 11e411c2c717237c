//! Loads and stores through a memory mapping: this program's own, or, of a DAX file, those of a page
//! table in software.

use std::sync::Arc;
use std::time::Instant;

use iomap_core::error::{FaultError, FsError};
use iomap_core::mmap::real::Mapping;
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::mmap::{MapOptions, Prot};
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{IoFlags, OpenFile};

use super::{Calls, MIB, PAGE, Stage, calls_for, open, put};
use crate::run::RunError;
use crate::run::stage::compare;

/// A mapping of a whole file.
enum Shown {
    Real(Mapping),
    Soft(SoftMapping),
}

impl Shown {
    fn new(stage: &Stage, file: &Arc<dyn OpenFile>, len: u64) -> Result<Self, FsError> {
        let (range, both) = (
            FileRange::at_most(FilePos::ZERO, len),
            Prot::READ | Prot::WRITE,
        );
        match file.mmap(range, both, true) {
            Ok(mapping) => Ok(Self::Real(mapping)),
            Err(FsError::Unsupported(_)) if stage.is_dax() => {
                let (first, end) = range.pages();
                let handler = Arc::clone(file).fault_handler()?;
                let options = MapOptions::empty();
                Ok(Self::Soft(SoftMapping::new(
                    handler,
                    first..end,
                    both,
                    options,
                )))
            }
            Err(error) => Err(error),
        }
    }

    fn store(&self, pos: u64, bytes: &[u8]) -> Result<(), FaultError> {
        let pos = FilePos::saturating(pos);
        match self {
            Self::Real(mapping) => mapping.store(pos, bytes),
            Self::Soft(mapping) => mapping.store(pos, bytes),
        }
    }

    fn load(&self, pos: u64, to: &mut [u8]) -> Result<(), FaultError> {
        let pos = FilePos::saturating(pos);
        match self {
            Self::Real(mapping) => mapping.load(pos, to),
            Self::Soft(mapping) => mapping.load(pos, to),
        }
    }
}

/// Stores at random places, syncs, and loads of what is cold.
pub(super) fn mapped(stage: &mut Stage) -> Result<(), RunError> {
    let mut subject = open(stage, "mapped")?;
    let pages = (stage.volume_bytes() / 32 / PAGE).min(4096);
    let mut model = stage.bytes((pages * PAGE) as usize);
    for (n, part) in model.chunks(MIB as usize).enumerate() {
        subject.write(n as u64 * MIB, part, IoFlags::empty())?;
    }
    subject.fsync()?;
    subject.take();
    match Shown::new(stage, &subject.file, pages * PAGE) {
        Ok(shown) => {
            store(stage, &shown, &mut model)?;
            let meter = stage.meter();
            subject.fsync()?;
            let calls = subject.take();
            stage.done("msync", &meter, calls);
            load(stage, &shown, &model)?;
        }
        Err(FsError::Unsupported(why)) => stage.skip("memory mapping", &why),
        Err(error) => return Err(RunError::in_phase("mmap")(error)),
    }
    *stage.model("mapped") = model;
    Ok(())
}

/// Pages, not aligned, and every other one aligned.
fn store(stage: &mut Stage, shown: &Shown, model: &mut Vec<u8>) -> Result<(), RunError> {
    let room = model.len() as u64 - PAGE;
    let meter = stage.meter();
    let mut calls = Calls::default();
    for n in 0..calls_for(stage, 4_000) {
        let mut pos = stage.rng.u64(..=room);
        if n % 2 == 0 {
            pos = pos / PAGE * PAGE;
        }
        let bytes = stage.bytes(PAGE as usize);
        let started = Instant::now();
        let stored = shown.store(pos, &bytes);
        calls.add(started.elapsed(), PAGE);
        stored.map_err(failed("store"))?;
        put(model, pos, &bytes);
    }
    stage.done("mapped store 4K", &meter, calls);
    Ok(())
}

fn load(stage: &mut Stage, shown: &Shown, model: &[u8]) -> Result<(), RunError> {
    stage.drop_cache();
    let mut page = vec![0; PAGE as usize];
    let meter = stage.meter();
    let mut calls = Calls::default();
    for (pos, wanted) in (0..)
        .step_by(PAGE as usize)
        .zip(model.chunks(PAGE as usize))
    {
        let started = Instant::now();
        let loaded = shown.load(pos, &mut page);
        calls.add(started.elapsed(), PAGE);
        loaded.map_err(failed("load"))?;
        compare("mapped", pos, wanted, &page)?;
    }
    stage.done("mapped load 4K, cold", &meter, calls);
    Ok(())
}

fn failed(phase: &'static str) -> impl Fn(FaultError) -> RunError {
    move |error| match error {
        FaultError::Fs(error) => RunError::Failed { phase, error },
        error => RunError::Mismatch(format!("{phase} through the mapping: {error}")),
    }
}
