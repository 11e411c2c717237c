//! The units of the file that one thread alone changes: it knows every byte of them.
//!
//! Owns the model of those bytes, and the operations that need a unit of one's own: direct writes,
//! which write whole blocks, holes and zeroes. Its neighbours in a folio belong to others.

use iomap_core::device::DeviceBuf;
use iomap_core::mmap::real::Mapping;
use iomap_core::units::FilePos;
use iomap_core::vfs::{Fallocate, IoFlags, OpenFile};

use super::model::{Model, PAGE};
use super::{Verdict, range, read, text};

/// The bytes of a thread.
#[derive(Debug)]
pub(crate) struct Owned {
    thread: usize,
    threads: usize,
    start: u64,
    unit: u64,
    block: u64,
    /// By unit of its own.
    bytes: Vec<Vec<u8>>,
    serial: u64,
}

impl Owned {
    pub(crate) fn new(model: &Model, thread: usize, block: u64) -> Self {
        let own = model.units as usize / model.threads;
        Self {
            thread,
            threads: model.threads,
            start: model.owned(),
            unit: model.unit,
            block,
            bytes: vec![vec![0; model.unit as usize]; own],
            serial: 0,
        }
    }

    /// Where a unit lies. The units of the threads take turns.
    fn place(&self, unit: usize) -> u64 {
        self.start + (unit * self.threads + self.thread) as u64 * self.unit
    }

    /// A place in a unit, multiples of `step` both.
    fn draw(&self, step: u64, rng: &mut fastrand::Rng) -> (usize, u64, u64) {
        let steps = self.unit / step;
        let first = rng.u64(..steps);
        let count = rng.u64(1..=(steps - first).min(1 + 6000 / step));
        (rng.usize(..self.bytes.len()), first * step, count * step)
    }

    fn fresh(&mut self, len: u64) -> Vec<u8> {
        self.serial += 1;
        let seed = self.serial << 8 | self.thread as u64;
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bytes = vec![0; len as usize];
        rng.fill(&mut bytes);
        let mark = mark(self.thread);
        for byte in &mut bytes {
            *byte = *byte >> 3 | mark;
        }
        bytes
    }

    fn put(&mut self, unit: usize, at: u64, bytes: &[u8]) {
        self.bytes[unit][at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// Looks at a unit of anybody: what is in the cache then may be older than what its owner is
    /// about to write around it. Whatever is found is zero or its owner's.
    pub(crate) fn peek(
        &self,
        file: &dyn OpenFile,
        mapping: &Mapping,
        rng: &mut fastrand::Rng,
    ) -> Verdict {
        let owner = rng.usize(..self.threads);
        let unit = rng.usize(..self.bytes.len());
        let place = self.start + (unit * self.threads + owner) as u64 * self.unit;
        let mut bytes = DeviceBuf::zeroed(self.unit as usize, PAGE as usize);
        match rng.u8(..4) {
            0 => read(file, place, &mut bytes, IoFlags::DIRECT)?,
            1 => read(file, place, &mut bytes, IoFlags::empty())?,
            _ => mapping
                .load(FilePos::saturating(place), &mut bytes)
                .map_err(text)?,
        }
        let foreign = |byte: &u8| *byte != 0 && *byte & 0xe0 != mark(owner);
        match bytes.iter().position(foreign) {
            None => Ok(()),
            Some(at) => Err(format!(
                "byte {} of thread {owner} is {:02x}: somebody else's",
                place + at as u64,
                bytes[at]
            )),
        }
    }

    /// One operation that changes, or looks.
    pub(crate) fn step(
        &mut self,
        file: &dyn OpenFile,
        mapping: &Mapping,
        rng: &mut fastrand::Rng,
    ) -> Verdict {
        match rng.u8(..16) {
            0..=3 => self.store(mapping, rng),
            4 => self.write(file, 1, IoFlags::empty(), rng),
            5 | 6 => self.write(file, self.block, IoFlags::DIRECT, rng),
            7 => self.change(file, Fallocate::PunchHole, rng),
            8 => self.change(file, Fallocate::ZeroRangeKeepSize, rng),
            9 => self.look(file, IoFlags::empty(), rng),
            10 => self.look(file, IoFlags::DIRECT, rng),
            11 | 12 => self.peek(file, mapping, rng),
            _ => self.load(mapping, rng),
        }
    }

    fn store(&mut self, mapping: &Mapping, rng: &mut fastrand::Rng) -> Verdict {
        let (unit, at, len) = self.draw(1, rng);
        let bytes = self.fresh(len);
        let pos = FilePos::saturating(self.place(unit) + at);
        mapping.store(pos, &bytes).map_err(text)?;
        self.put(unit, at, &bytes);
        Ok(())
    }

    fn write(
        &mut self,
        file: &dyn OpenFile,
        step: u64,
        flags: IoFlags,
        rng: &mut fastrand::Rng,
    ) -> Verdict {
        let (unit, at, len) = self.draw(step, rng);
        let bytes = self.fresh(len);
        let pos = FilePos::saturating(self.place(unit) + at);
        let aligned = DeviceBuf::from_slice(&bytes, PAGE as usize);
        let written = file.write_at(pos, &aligned, flags).map_err(text)?;
        if written as u64 != len {
            return Err(format!("wrote {written} of {len} bytes at {pos}"));
        }
        self.put(unit, at, &bytes);
        Ok(())
    }

    fn change(&mut self, file: &dyn OpenFile, mode: Fallocate, rng: &mut fastrand::Rng) -> Verdict {
        let step = [1, 512, self.unit][rng.usize(..3)];
        let (unit, at, len) = self.draw(step, rng);
        let place = self.place(unit) + at;
        file.fallocate(mode, range(place, len)).map_err(text)?;
        self.put(unit, at, &vec![0; len as usize]);
        Ok(())
    }

    fn look(&self, file: &dyn OpenFile, flags: IoFlags, rng: &mut fastrand::Rng) -> Verdict {
        let unit = rng.usize(..self.bytes.len());
        let mut bytes = DeviceBuf::zeroed(self.unit as usize, PAGE as usize);
        read(file, self.place(unit), &mut bytes, flags)?;
        let how = if flags.contains(IoFlags::DIRECT) {
            "direct read"
        } else {
            "read"
        };
        self.compare(unit, &bytes, how)
    }

    fn load(&self, mapping: &Mapping, rng: &mut fastrand::Rng) -> Verdict {
        let unit = rng.usize(..self.bytes.len());
        let mut bytes = vec![0; self.unit as usize];
        let pos = FilePos::saturating(self.place(unit));
        mapping.load(pos, &mut bytes).map_err(text)?;
        self.compare(unit, &bytes, "load")
    }

    fn compare(&self, unit: usize, found: &[u8], how: &str) -> Verdict {
        let wanted = &self.bytes[unit];
        match wanted.iter().zip(found).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(at) => {
                let end = wanted.len()
                    - wanted
                        .iter()
                        .zip(found)
                        .rev()
                        .take_while(|(a, b)| a == b)
                        .count();
                Err(format!(
                    "{how}: bytes {}..{} (unit of thread {} at {}): {:02x} instead of {:02x}",
                    self.place(unit) + at as u64,
                    self.place(unit) + end as u64,
                    self.thread,
                    self.place(unit),
                    found[at],
                    wanted[at],
                ))
            }
        }
    }

    /// Checks the whole file as it was after the mount.
    pub(crate) fn verify(&self, content: &[u8]) -> Verdict {
        for unit in 0..self.bytes.len() {
            let at = self.place(unit) as usize;
            let found = &content[at..at + self.unit as usize];
            self.compare(unit, found, "after the mount")?;
        }
        Ok(())
    }
}

/// The upper bits of every byte a thread writes. Not zero.
const fn mark(thread: usize) -> u8 {
    ((thread % 7) as u8 + 1) << 5
}
