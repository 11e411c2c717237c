//! What the threads of each race do, and what must hold when they have ended.
//!
//! Owns no order: that is the script's, or the search's.

use std::sync::Arc;

use iomap_core::sync::thread::JoinHandle;

use super::Race;
use super::disk::SECRET;
use super::engine::{bad, look_at, note, start};
use super::file::{PAGE, RaceFile, pos};

/// Plays a race once.
///
/// # Panics
///
/// If it ends badly.
pub(super) fn play(race: &'static Race) {
    match race.name {
        "stale-mapping" => stale_mapping(race),
        "done-hook" => done_hook(race),
        "direct-read-delalloc" => direct_read(race, true),
        "write-fault-gap" | "direct-read-nodelalloc" => direct_read(race, false),
        name => bad(&format!("nothing is known of the race {name}")),
    }
}

/// A file under watch with a disk that runs, and the threads beside it.
struct Scene {
    race: &'static Race,
    file: Arc<RaceFile>,
    threads: Vec<JoinHandle<()>>,
    disk: Vec<JoinHandle<()>>,
}

impl Scene {
    fn new(race: &'static Race, file: Arc<RaceFile>) -> Self {
        look_at(&file);
        let disk = [("disk-reads", false), ("disk-writes", true)]
            .map(|(name, writes)| {
                let disk = Arc::clone(&file.disk);
                start(race, name, move || disk.run(writes))
            })
            .into();
        Self {
            race,
            file,
            threads: Vec::new(),
            disk,
        }
    }

    fn thread(&mut self, name: &'static str, body: impl FnOnce(&Arc<RaceFile>) + Send + 'static) {
        let file = Arc::clone(&self.file);
        self.threads
            .push(start(self.race, name, move || body(&file)));
    }

    /// Waits for everybody, then looks at what is left. The disk goes on until nobody needs it.
    fn end(self, look: impl FnOnce(&RaceFile)) {
        join(self.threads);
        look(&self.file);
        self.file.disk.stop();
        join(self.disk);
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            bad("a thread panicked");
        }
    }
}

fn stale_mapping(race: &'static Race) {
    let file = RaceFile::new(2, true, 1);
    file.preallocate(0..2);
    // Another writer's bytes, dirty in page 1.
    if file.write(PAGE, &[3; PAGE]).is_err() {
        bad("the first write failed");
    }
    let mut scene = Scene::new(race, file);
    scene.thread("writer", |file| {
        let bytes = vec![1; PAGE + PAGE / 2];
        if file.write(0, &bytes) != Ok(bytes.len() as u64) {
            bad("the write was cut short");
        }
    });
    scene.thread("flusher", |file| {
        file.write_back(1..2);
        if file.reclaim(1) {
            note("page 1 is not cached any more");
        }
    });
    scene.end(|file| {
        let bytes = file.read(PAGE, PAGE);
        if bytes[PAGE / 2..] != [3; PAGE / 2] {
            bad("the other writer's bytes, which were on the disk, became zeroes");
        }
    });
}

fn done_hook(race: &'static Race) {
    let mut scene = Scene::new(race, RaceFile::new(1, true, 0));
    scene.thread("writer", |file| {
        if file.write(0, &[1; PAGE]) != Ok(PAGE as u64) {
            bad("the write was cut short");
        }
        note("write ends");
    });
    scene.thread("flusher", |file| {
        file.write_back(0..1);
        note("writeback ends");
    });
    scene.end(|file| {
        file.write_back(0..1);
        if file.stored(0) != [1; PAGE] {
            bad("the write is not on the disk");
        }
    });
}

/// Races A and B.
fn direct_read(race: &'static Race, delalloc: bool) {
    let mut scene = Scene::new(race, RaceFile::new(1, delalloc, 0));
    scene.thread("reader", |file| {
        let bytes = file.read_direct(0, PAGE);
        note(&format!("has read {:#04x}", bytes[0]));
        if bytes.contains(&SECRET) {
            bad("the direct read returned what the block held for its previous owner");
        }
        if bytes != [0; PAGE] && bytes != [7; PAGE] {
            bad("the direct read returned parts of a store");
        }
    });
    scene.thread("storer", |file| {
        if file.map().store(pos(0), &[7; PAGE]).is_err() {
            bad("the store faulted for good");
        }
        note("has stored 0x07");
    });
    if delalloc {
        scene.thread("flusher", |file| file.write_back(0..1));
    }
    scene.end(|file| {
        file.write_back(0..1);
        if file.stored(0) != [7; PAGE] {
            bad("the store is not on the disk");
        }
    });
}
