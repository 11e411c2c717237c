//! A file exerciser: random operations on one file through every door, checked against a model.
//!
//! Reads, writes, appends, truncates, `fallocate`, copies inside the file, stores and loads through a
//! shared mapping, direct and buffered, with syncs and reopens between. Everything that is read is
//! compared with a `Vec<u8>`. The seed and the number of operations come from the environment
//! (`IOMAP_EXERCISE_SEED`, `IOMAP_EXERCISE_OPS`), so that a failure can be repeated and a long run
//! asked for.
//!
//! The operations run in a program of their own, not in the one that serves: whoever unmaps a file of
//! a mount waits for its write-back with the memory map of his process locked, and a server that
//! needs that lock, to grow its heap for example, never answers.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use fastrand::Rng;
use rustix::fs::{FallocateFlags, copy_file_range, fallocate};
use tempfile::NamedTempFile;

use crate::Scenario;
use crate::bed::{Bed, CHILD, drop_caches};
use crate::raw::{Aligned, Map};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "one_file_through_every_door_is_what_the_model_says",
        exercise,
    ),
    ("two_files_at_once_are_what_their_models_say", exercise_two),
];

/// The largest size of the file; direct writes, which are whole pages, may end a page behind it.
const MAX: u64 = 600_000;
const PAGE: u64 = 4096;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn exercise(bed: &Bed) {
    let model = run(bed, "exercised", number("IOMAP_EXERCISE_SEED", 1));
    assert!(
        bed.after_crash("exercised").unwrap() == model,
        "after a crash"
    );
}

fn exercise_two(bed: &Bed) {
    let seed = number("IOMAP_EXERCISE_SEED", 2);
    let models = std::thread::scope(|scope| {
        let names = [("first", seed), ("second", seed + 1000)];
        let running = names.map(|(name, seed)| scope.spawn(move || (name, run(bed, name, seed))));
        running.map(|thread| thread.join().unwrap())
    });
    for (name, model) in models {
        assert!(
            bed.after_crash(name).unwrap() == model,
            "{name} after a crash"
        );
    }
}

/// Has a program exercise a file and sync it. Returns what it must hold.
fn run(bed: &Bed, name: &str, seed: u64) -> Vec<u8> {
    let model = NamedTempFile::new().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, "exercise")
        .args([&bed.path(name), model.path()])
        .arg(seed.to_string())
        .status()
        .unwrap();
    assert!(status.success(), "{name}, seed {seed}: see above");
    std::fs::read(model.path()).unwrap()
}

/// The program: exercises the file `path`, syncs it, and leaves in `model` what it must hold.
pub(crate) fn exercise_alone(path: &Path, model: &Path, seed: u64) {
    let mut exerciser = Exerciser::new(path, seed);
    for step in 0..number("IOMAP_EXERCISE_OPS", 1500) {
        let what = exerciser.step();
        exerciser.log.push(format!("{step}: {what}"));
        if step % 64 == 0 {
            exerciser.compare_all("everything");
        }
    }
    exerciser.compare_all("the end");
    exerciser.file.sync_all().unwrap();
    let dir = path.parent().unwrap();
    File::open(dir).unwrap().sync_all().unwrap();
    std::fs::write(model, &exerciser.model).unwrap();
}

struct Exerciser {
    path: PathBuf,
    seed: u64,
    rng: Rng,
    model: Vec<u8>,
    file: File,
    direct: File,
    map: Option<Map>,
    log: Vec<String>,
}

impl Exerciser {
    fn new(path: &Path, seed: u64) -> Self {
        Self {
            path: path.to_path_buf(),
            seed,
            rng: Rng::with_seed(seed),
            model: Vec::new(),
            file: open(path, 0),
            direct: open(path, libc::O_DIRECT),
            map: None,
            log: Vec::new(),
        }
    }

    /// A range that starts in the file or close behind it.
    fn range(&mut self) -> (u64, u64) {
        let size = self.model.len() as u64;
        let at = self.rng.u64(0..=(size + 20_000).min(MAX - 1));
        let len = match self.rng.u8(0..4) {
            0 => self.rng.u64(1..100),
            1 => self.rng.u64(1..=PAGE * 2),
            _ => self.rng.u64(1..100_000),
        };
        (at, len.min(MAX - at))
    }

    fn step(&mut self) -> String {
        let (at, len) = self.range();
        let (page, pages) = (at / PAGE * PAGE, len.div_ceil(PAGE) * PAGE);
        match self.rng.u8(0..20) {
            0..=3 => self.write(at, len),
            4..=5 => self.write_direct(page, pages),
            6..=8 => self.read(at, len),
            9 => self.read_direct(page, pages),
            10..=11 => self.store(at, len),
            12 => self.load(at, len),
            13 => self.truncate(at),
            14 => self.punch(at, len),
            15 => self.zero(at, len),
            16 => self.allocate(at, len),
            17 => self.copy(at, len),
            18 => self.append(len.min(5000)),
            _ => self.pause(),
        }
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let (start, step) = (self.rng.u8(..), self.rng.u8(1..));
        (0..len)
            .map(|i| start.wrapping_add(step.wrapping_mul((i % 257) as u8)))
            .collect()
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let end = at as usize + bytes.len();
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[at as usize..end].copy_from_slice(bytes);
    }

    fn write(&mut self, at: u64, len: u64) -> String {
        let bytes = self.bytes(len);
        self.file.write_all_at(&bytes, at).unwrap();
        self.put(at, &bytes);
        format!("write {at} +{len}")
    }

    fn append(&mut self, len: u64) -> String {
        if self.model.len() as u64 + len > MAX {
            return "append: no room".to_owned();
        }
        let bytes = self.bytes(len);
        let mut file = OpenOptions::new().append(true).open(&self.path).unwrap();
        file.write_all(&bytes).unwrap();
        self.put(self.model.len() as u64, &bytes);
        format!("append +{len}")
    }

    fn write_direct(&mut self, at: u64, len: u64) -> String {
        let bytes = self.bytes(len);
        let mut aligned = Aligned::new(len as usize, 0);
        aligned.bytes_mut().copy_from_slice(&bytes);
        self.direct.write_all_at(aligned.bytes(), at).unwrap();
        self.put(at, &bytes);
        format!("direct write {at} +{len}")
    }

    fn expected(&self, at: u64, len: u64) -> Vec<u8> {
        let size = self.model.len();
        let (at, end) = (
            (at as usize).min(size),
            (at as usize + len as usize).min(size),
        );
        self.model[at..end].to_vec()
    }

    fn read(&mut self, at: u64, len: u64) -> String {
        let mut seen = vec![0; len as usize];
        let done = self.file.read_at(&mut seen, at).unwrap();
        self.compare("read", at, &seen[..done], &self.expected(at, len));
        format!("read {at} +{len}")
    }

    fn read_direct(&mut self, at: u64, len: u64) -> String {
        let mut seen = Aligned::new(len as usize, 0);
        let done = self.direct.read_at(seen.bytes_mut(), at).unwrap();
        self.compare(
            "direct read",
            at,
            &seen.bytes()[..done],
            &self.expected(at, len),
        );
        format!("direct read {at} +{len}")
    }

    /// The mapping of all the file can ever be; only what is in the file is touched.
    fn map(&mut self) -> &Map {
        let file = &self.file;
        self.map
            .get_or_insert_with(|| Map::shared(file, MAX as usize + 100_000))
    }

    fn store(&mut self, at: u64, len: u64) -> String {
        let len = len.min((self.model.len() as u64).saturating_sub(at));
        let bytes = self.bytes(len);
        let map = self.map();
        for (i, byte) in bytes.iter().enumerate() {
            map.set(at as usize + i, *byte);
        }
        if len > 0 {
            self.put(at, &bytes);
        }
        format!("store {at} +{len}")
    }

    fn load(&mut self, at: u64, len: u64) -> String {
        let expected = self.expected(at, len);
        let map = self.map();
        let seen: Vec<u8> = (0..expected.len())
            .map(|i| map.get(at as usize + i))
            .collect();
        self.compare("load", at, &seen, &expected);
        format!("load {at} +{len}")
    }

    fn truncate(&mut self, at: u64) -> String {
        self.file.set_len(at).unwrap();
        self.model.resize(at as usize, 0);
        format!("truncate {at}")
    }

    fn blank(&mut self, at: u64, len: u64) {
        let size = self.model.len();
        let end = ((at + len) as usize).min(size);
        if (at as usize) < end {
            self.model[at as usize..end].fill(0);
        }
    }

    fn punch(&mut self, at: u64, len: u64) -> String {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, mode, at, len).unwrap();
        self.blank(at, len);
        format!("punch {at} +{len}")
    }

    fn zero(&mut self, at: u64, len: u64) -> String {
        let keep = self.rng.bool();
        let mut mode = FallocateFlags::ZERO_RANGE;
        mode.set(FallocateFlags::KEEP_SIZE, keep);
        fallocate(&self.file, mode, at, len).unwrap();
        self.blank(at, len);
        if !keep && self.model.len() < (at + len) as usize {
            self.model.resize((at + len) as usize, 0);
        }
        format!("zero {at} +{len}, keep size: {keep}")
    }

    fn allocate(&mut self, at: u64, len: u64) -> String {
        fallocate(&self.file, FallocateFlags::empty(), at, len).unwrap();
        let end = (at + len) as usize;
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        format!("allocate {at} +{len}")
    }

    /// From the first half of the file to somewhere behind it; aligned ranges are shared.
    fn copy(&mut self, at: u64, len: u64) -> String {
        let size = self.model.len() as u64;
        let aligned = self.rng.bool();
        let unit = if aligned { PAGE } else { 1 };
        let from = at.min(size / 2) / unit * unit;
        let len = len.min(size / 2).min(MAX / 3) / unit * unit;
        let to = (from + len + self.rng.u64(0..=PAGE)).div_ceil(unit) * unit;
        if len == 0 || to + len > MAX {
            return "copy: no room".to_owned();
        }
        let mut done = 0;
        while done < len {
            let (mut a, mut b) = (from + done, to + done);
            let rest = (len - done) as usize;
            let step = copy_file_range(&self.file, Some(&mut a), &self.file, Some(&mut b), rest);
            match step.unwrap() {
                0 => break,
                n => done += n as u64,
            }
        }
        let bytes = self.expected(from, len);
        assert_eq!(done, bytes.len() as u64);
        self.put(to, &bytes);
        format!("copy {from} +{len} to {to}")
    }

    fn pause(&mut self) -> String {
        match self.rng.u8(0..4) {
            0 => {
                self.file.sync_all().unwrap();
                "sync".to_owned()
            }
            1 => {
                self.file = open(&self.path, 0);
                self.direct = open(&self.path, libc::O_DIRECT);
                "reopen".to_owned()
            }
            2 => {
                self.map = None;
                "unmap".to_owned()
            }
            _ => {
                drop_caches();
                "drop caches".to_owned()
            }
        }
    }

    fn compare_all(&mut self, what: &str) {
        let len = self.file.metadata().unwrap().len();
        let mut seen = vec![0; (MAX + PAGE) as usize];
        let done = self.file.read_at(&mut seen, 0).unwrap();
        assert_eq!(len, done as u64, "the size and what can be read");
        self.compare(what, 0, &seen[..done], &self.model);
    }

    fn compare(&self, what: &str, at: u64, seen: &[u8], expected: &[u8]) {
        if seen == expected {
            return;
        }
        let different = seen.iter().zip(expected).position(|(a, b)| a != b);
        let last = self.log.len().saturating_sub(25);
        panic!(
            "seed {}: {what} at {at}: {} bytes of {}, first difference at {:?}\n{}",
            self.seed,
            seen.len(),
            expected.len(),
            different.map(|i| i as u64 + at),
            self.log[last..].join("\n"),
        );
    }
}

fn open(path: &Path, flags: i32) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(path)
        .unwrap()
}
