//! Random operations on three files against bytes in memory, with remounts and memory pressure.

use iomap_core::mmap::MapOptions;
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::vfs::{Fallocate, IoFlags, OpenFile, SetAttr, Vfs};
use std::sync::Arc;

use super::util::*;

const SPAN: u64 = 600_000;

struct World {
    bed: Bed,
    files: Vec<Arc<dyn OpenFile>>,
    /// A memory mapping of each.
    mappings: Vec<SoftMapping>,
    models: Vec<Vec<u8>>,
    block: u64,
    rng: fastrand::Rng,
}

impl World {
    fn new(seed: u64, block_size: u32, dax: bool) -> Self {
        let bed = if dax {
            Bed::dax(64 << 20, block_size)
        } else {
            Bed::with_blocks(64 << 20, block_size)
        };
        let files: Vec<_> = (0..3).map(|n| bed.create(&n.to_string())).collect();
        Self {
            bed,
            mappings: files.iter().map(|f| map(f, MapOptions::empty())).collect(),
            files,
            models: vec![Vec::new(); 3],
            block: block_size.into(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Positions around the borders of blocks, pages and files.
    fn pos(&mut self) -> u64 {
        let any = match self.rng.u8(..6) {
            0 => self.rng.u64(..2000),
            1 => self.rng.u64(..SPAN),
            2 => self.rng.u64(..SPAN / self.block) * self.block,
            3 => self.rng.u64(..SPAN / 512) * 512,
            4 => self.models[0].len() as u64,
            _ => self.rng.u64(..40) * 4096,
        };
        any.min(SPAN)
    }

    fn step(&mut self) -> String {
        let n = self.rng.usize(..3);
        let (pos, other) = (self.pos(), self.pos());
        let len = (other.max(pos) - other.min(pos)).max(1);
        let len = if self.rng.bool() { len } else { len.min(9000) };
        let op = self.rng.u8(..28);
        let flags = if self.rng.bool() {
            IoFlags::DIRECT
        } else {
            IoFlags::empty()
        };
        match op {
            0..=5 => self.write(n, pos, len, flags),
            6 | 7 => self.truncate(n, pos),
            8 => self.fallocate(n, Fallocate::PunchHole, pos, len),
            9 => self.fallocate(n, Fallocate::ZeroRange, pos, len),
            10 => self.fallocate(n, Fallocate::ZeroRangeKeepSize, pos, len),
            11 => self.fallocate(n, Fallocate::Allocate, pos, len),
            12 => self.fallocate(n, Fallocate::AllocateKeepSize, pos, len),
            13 => self.fallocate(n, Fallocate::CollapseRange, pos, len),
            14 => self.fallocate(n, Fallocate::InsertRange, pos, len),
            15 => self.fallocate(n, Fallocate::UnshareRange, pos, len),
            16..=18 => {
                let to = self.rng.usize(..3);
                let at = self.pos();
                self.clone(n, pos, len, to, at);
            }
            19 => self.files[n].fsync(self.rng.bool()).unwrap(),
            20 => drop(self.bed.fs.pool().shrink(self.rng.u64(..100))),
            22 if self.rng.u8(..8) == 0 => self.crash(),
            21 if self.rng.u8(..8) == 0 => self.remount(),
            24 | 25 => self.store(n, pos, len.min(9000)),
            26 => self.load(n, pos, len.min(20_000)),
            _ => self.compare(n, flags),
        }
        format!("op {op} on {n}, {pos}+{len}, {flags:?}")
    }

    fn write(&mut self, n: usize, pos: u64, len: u64, flags: IoFlags) {
        let bytes = pattern(self.rng.u64(..), len as usize);
        write_with(&*self.files[n], pos, &bytes, flags);
        let model = &mut self.models[n];
        let end = (pos + len) as usize;
        if model.len() < end {
            model.resize(end, 0);
        }
        model[pos as usize..end].copy_from_slice(&bytes);
    }

    /// Through the mapping, inside the file.
    fn store(&mut self, n: usize, pos: u64, len: u64) {
        let end = (pos + len).min(self.models[n].len() as u64);
        if pos < end {
            let bytes = pattern(self.rng.u64(..), (end - pos) as usize);
            self.mappings[n].store(at(pos), &bytes).unwrap();
            self.models[n][pos as usize..end as usize].copy_from_slice(&bytes);
        }
    }

    fn load(&self, n: usize, pos: u64, len: u64) {
        let end = (pos + len).min(self.models[n].len() as u64);
        if pos < end {
            let mut bytes = vec![0xee; (end - pos) as usize];
            self.mappings[n].load(at(pos), &mut bytes).unwrap();
            assert!(bytes == self.models[n][pos as usize..end as usize]);
        }
    }

    fn truncate(&mut self, n: usize, size: u64) {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        self.bed.fs.setattr(self.files[n].ino(), &set).unwrap();
        self.models[n].resize(size as usize, 0);
    }

    fn fallocate(&mut self, n: usize, mode: Fallocate, pos: u64, len: u64) {
        let shifts = matches!(mode, Fallocate::CollapseRange | Fallocate::InsertRange);
        let (pos, len) = if shifts {
            (
                pos / self.block * self.block,
                len.min(100_000).next_multiple_of(self.block),
            )
        } else {
            (pos, len)
        };
        let model = &mut self.models[n];
        let (start, end, size) = (pos as usize, (pos + len) as usize, model.len());
        let valid = match mode {
            Fallocate::CollapseRange => end < size,
            Fallocate::InsertRange => start < size && size < 1 << 20,
            _ => true,
        };
        let result = self.files[n].fallocate(mode, range(pos, len));
        if mode == Fallocate::InsertRange && size >= 1 << 20 {
            // Done, but unwanted: keep the file small.
            if result.is_ok() {
                model.splice(start..start, vec![0; end - start]);
                self.truncate(n, 1 << 19);
            }
            return;
        }
        assert_eq!(result.is_ok(), valid, "{result:?}");
        if !valid {
            return;
        }
        match mode {
            Fallocate::PunchHole | Fallocate::ZeroRangeKeepSize => {
                model[start.min(size)..end.min(size)].fill(0);
            }
            Fallocate::ZeroRange => {
                model.resize(size.max(end), 0);
                model[start..end].fill(0);
            }
            Fallocate::Allocate => model.resize(size.max(end), 0),
            Fallocate::CollapseRange => drop(model.drain(start..end)),
            Fallocate::InsertRange => drop(model.splice(start..start, vec![0; end - start])),
            Fallocate::AllocateKeepSize | Fallocate::UnshareRange => {}
        }
    }

    fn clone(&mut self, n: usize, pos: u64, len: u64, to: usize, at_pos: u64) {
        let (pos, at_pos) = (
            pos / self.block * self.block,
            at_pos / self.block * self.block,
        );
        let size = self.models[n].len() as u64;
        let end = (pos + len.next_multiple_of(self.block)).min(size);
        if end <= pos {
            return;
        }
        let len = end - pos;
        let target_end = at_pos + len;
        let overlaps = n == to && pos < target_end && at_pos < end;
        let whole = end.is_multiple_of(self.block) || target_end >= self.models[to].len() as u64;
        let result = self.files[n].clone_range(range(pos, len), &*self.files[to], at(at_pos));
        assert_eq!(result.is_ok(), !overlaps && whole, "{result:?}");
        if result.is_ok() {
            let bytes = self.models[n][pos as usize..end as usize].to_vec();
            let model = &mut self.models[to];
            model.resize(model.len().max(target_end as usize), 0);
            model[at_pos as usize..target_end as usize].copy_from_slice(&bytes);
        }
    }

    fn compare(&self, n: usize, flags: IoFlags) {
        let found = read_with(&*self.files[n], 0, self.models[n].len() + 1000, flags);
        let model = &self.models[n];
        assert_eq!(found.len(), model.len());
        let wrong = found.iter().zip(model).position(|(a, b)| a != b);
        assert_eq!(wrong, None, "first wrong byte of file {n}, {flags:?}");
    }

    /// What was synced is there after a power cut.
    fn crash(&mut self) {
        self.bed.fs.sync().unwrap();
        self.mappings.clear();
        self.files.clear();
        self.bed.crash();
        self.open();
        (0..3).for_each(|n| self.compare(n, IoFlags::empty()));
    }

    fn open(&mut self) {
        self.files = (0..3).map(|n| self.bed.open(&n.to_string())).collect();
        let map = |file| map(file, MapOptions::empty());
        self.mappings = self.files.iter().map(map).collect();
    }

    fn remount(&mut self) {
        self.mappings.clear();
        self.files.clear();
        self.bed.remount();
        self.open();
    }
}

#[test]
fn random_operations_do_what_the_model_does() {
    run(false, &[1024, 4096, 16384]);
}

#[test]
fn random_operations_on_dax_files_do_what_the_model_does() {
    run(true, &[4096, 16384]);
}

fn run(dax: bool, block_sizes: &[u32]) {
    let rounds: u64 = std::env::var("TESTFS_MODEL_ROUNDS").map_or(12, |n| n.parse().unwrap());
    for seed in 0..rounds {
        for &block_size in block_sizes {
            let mut world = World::new(seed, block_size, dax);
            let mut log = Vec::new();
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for _ in 0..150 {
                    log.push(world.step());
                }
                world.remount();
                (0..3).for_each(|n| world.compare(n, IoFlags::empty()));
            }));
            if let Err(panic) = outcome {
                eprintln!("seed {seed}, blocks of {block_size}:\n{}", log.join("\n"));
                std::panic::resume_unwind(panic);
            }
        }
    }
}
