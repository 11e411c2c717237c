//! What the threads of each race do, and what must hold when they have ended.
//!
//! Owns no order: that is the script's, or the search's.

use std::sync::Arc;

use iomap_core::commit::{finish_ordered, submit_ordered};
use iomap_core::mmap::{Access, MapOptions};
use iomap_core::sync::atomic::{AtomicBool, Ordering};
use iomap_core::sync::thread::{self, JoinHandle};
use iomap_core::units::{FileRange, PageIndex};

use super::Race;
use super::dax::{DaxFile, Medium};
use super::disk::SECRET;
use super::engine::{Watched, bad, look_at, note, start};
use super::file::{PAGE, RaceFile, pos};
use super::journal::JournalFile;

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
        "pinned-page" => pinned_page(race),
        "pin-after-scan" => pin_after_scan(race),
        "pin-owner-faults" => pin_owner_faults(race),
        "sync-fault-crash" => sync_fault_crash(race),
        "sync-fault-fsync" => sync_fault_fsync(race),
        "sync-fault-handle" => sync_fault_handle(race),
        "sync-fault-punch" => sync_fault_punch(race),
        "commit-store" => commit_store(race),
        "ordered-commit" => ordered_commit(race),
        name => bad(&format!("nothing is known of the race {name}")),
    }
}

/// A file under watch, and the threads beside it.
struct Scene<F> {
    race: &'static Race,
    file: Arc<F>,
    threads: Vec<JoinHandle<()>>,
    disk: Vec<JoinHandle<()>>,
}

impl<F: Watched + Send + Sync + 'static> Scene<F> {
    fn new(race: &'static Race, file: Arc<F>) -> Self {
        look_at(&file);
        Self {
            race,
            file,
            threads: Vec::new(),
            disk: Vec::new(),
        }
    }

    fn thread(&mut self, name: &'static str, body: impl FnOnce(&Arc<F>) + Send + 'static) {
        let file = Arc::clone(&self.file);
        self.threads
            .push(start(self.race, name, move || body(&file)));
    }

    /// Waits for everybody, then looks at what is left.
    fn all(self, look: impl FnOnce(&F)) {
        join(self.threads);
        look(&self.file);
    }
}

impl Scene<RaceFile> {
    /// With a disk that runs.
    fn on_disk(race: &'static Race, file: Arc<RaceFile>) -> Self {
        let mut scene = Self::new(race, file);
        scene.disk = [("disk-reads", false), ("disk-writes", true)]
            .map(|(name, writes)| {
                let disk = Arc::clone(&scene.file.disk);
                start(race, name, move || disk.run(writes))
            })
            .into();
        scene
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
    let mut scene = Scene::on_disk(race, file);
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
    let mut scene = Scene::on_disk(race, RaceFile::new(1, true, 0));
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
    let mut scene = Scene::on_disk(race, RaceFile::new(1, delalloc, 0));
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

const PAGE_0: PageIndex = PageIndex::ZERO;

/// A file with two pages of its own on persistent memory, and another one that has nothing yet.
fn two_files() -> (Arc<DaxFile>, Arc<DaxFile>) {
    let medium = Medium::new();
    let (file, other) = (medium.file(7, 2), medium.file(8, 1));
    file.write_and_sync(0, &[1; 2 * PAGE]);
    (file, other)
}

/// Takes the block that was freed last.
fn write_all_of(other: &DaxFile) {
    other.write_and_sync(0, &[5; PAGE]);
    let block = other.block(0).unwrap_or_default();
    note(&format!("another file has written b{block}"));
}

fn other_is_whole(other: &DaxFile, who: &str) {
    if other.read(0, PAGE) != [5; PAGE] {
        bad(&format!(
            "{who} changed a block that belongs to another file"
        ));
    }
}

/// Who has mapped page 0 and pins it for a device.
fn pinner(scene: &mut Scene<DaxFile>) {
    scene.thread("pinner", |file| {
        let map = file.map(MapOptions::empty());
        // With no pin at all nobody would look for this one.
        let Ok(_elsewhere) = map.pin(PageIndex::new(1), Access::Store) else {
            bad("the page could not be pinned");
        };
        if map.store(pos(0), &[2]).is_err() {
            bad("the store faulted for good");
        }
        note("has mapped page 0");
        let Ok(pin) = map.pin(PAGE_0, Access::Store) else {
            bad("the page could not be pinned");
        };
        note("pins page 0 for a device");
        // The device takes its time.
        thread::yield_now();
        pin.write(0, &[9; PAGE]);
        note("the device writes to the page");
        drop(pin);
        note("releases page 0");
    });
}

fn pinned_page(race: &'static Race) {
    let (file, other) = two_files();
    let mut scene = Scene::new(race, file);
    pinner(&mut scene);
    scene.thread("puncher", |file| file.punch(0));
    let writer = Arc::clone(&other);
    scene.thread("other", move |_| write_all_of(&writer));
    scene.all(|_| other_is_whole(&other, "the device"));
}

fn pin_after_scan(race: &'static Race) {
    let (file, other) = two_files();
    let mut scene = Scene::new(race, file);
    pinner(&mut scene);
    let writer = Arc::clone(&other);
    scene.thread("puncher", move |file| {
        file.punch(0);
        write_all_of(&writer);
    });
    scene.all(|_| other_is_whole(&other, "the device"));
}

fn pin_owner_faults(race: &'static Race) {
    let (file, _) = two_files();
    let mut scene = Scene::new(race, file);
    scene.thread("pinner", |file| {
        let map = file.map(MapOptions::empty());
        let Ok(pin) = map.pin(PAGE_0, Access::Store) else {
            bad("the page could not be pinned");
        };
        note("pins page 0 for a device");
        if map.store(pos(PAGE), &[3]).is_err() {
            bad("the store faulted for good");
        }
        note("has stored to page 1");
        drop(pin);
        note("releases page 0");
    });
    scene.thread("puncher", |file| file.punch(0));
    scene.all(|_| ());
}

fn store(file: &Arc<DaxFile>) {
    let map = file.map(MapOptions::SYNC);
    if map.store(pos(0), &[7; 8]).is_err() {
        bad("the store faulted for good");
    }
    note("has stored 0x07");
}

/// The power goes at any time; what was promised before has to be there.
fn power_cut(scene: &mut Scene<DaxFile>, promised: &Arc<AtomicBool>, harm: &'static str) {
    let promised = Arc::clone(promised);
    scene.thread("power", move |file| {
        let promised = promised.load(Ordering::Acquire);
        let left = file.after_power_cut(0);
        note(&format!(
            "the power goes; page 0 is left with {:#04x}",
            left[0]
        ));
        if promised && left[..8] != [7; 8] {
            bad(harm);
        }
    });
}

fn sync_fault_crash(race: &'static Race) {
    let mut scene = Scene::new(race, Medium::new().file(7, 1));
    let promised = Arc::new(AtomicBool::new(false));
    let promises = Arc::clone(&promised);
    scene.thread("storer", move |file| {
        store(file);
        file.flush_lines(0, 8);
        promises.store(true, Ordering::Release);
        note("relies on its store: it has flushed the lines");
    });
    scene.thread("journal", |file| file.sync());
    let harm = "the power cut left a hole where the program had stored and flushed";
    power_cut(&mut scene, &promised, harm);
    scene.all(|_| ());
}

fn sync_fault_fsync(race: &'static Race) {
    let mut scene = Scene::new(race, Medium::new().file(7, 1));
    let promised = Arc::new(AtomicBool::new(false));
    let promises = Arc::clone(&promised);
    scene.thread("storer", move |file| {
        store(file);
        file.sync();
        promises.store(true, Ordering::Release);
        note("fdatasync is done");
    });
    scene.thread("syncer", |file| file.sync());
    let harm = "fdatasync left the store in the caches, and the power cut lost it";
    power_cut(&mut scene, &promised, harm);
    scene.all(|_| ());
}

fn sync_fault_handle(race: &'static Race) {
    let mut scene = Scene::new(race, Medium::new().file(7, 1));
    scene.thread("storer", store);
    scene.thread("journal", |file| file.sync());
    scene.all(|_| ());
}

fn sync_fault_punch(race: &'static Race) {
    let medium = Medium::new();
    let (file, other) = (medium.file(7, 1), medium.file(8, 1));
    let mut scene = Scene::new(race, file);
    scene.thread("storer", store);
    scene.thread("puncher", |file| file.punch(0));
    let writer = Arc::clone(&other);
    scene.thread("other", move |_| write_all_of(&writer));
    scene.all(|_| other_is_whole(&other, "the store"));
}

fn commit_store(race: &'static Race) {
    let mut scene = Scene::new(race, JournalFile::new());
    scene.thread("storer", |file| {
        let map = file.map();
        for byte in [b'a', b'X'] {
            if map.store(pos(0), &[byte; 8]).is_err() {
                bad("the store faulted for good");
            }
            note(&format!("has stored {}", char::from(byte)));
        }
    });
    scene.thread("journal", |file| {
        for (sum, data) in file.commit() {
            if crc32c::crc32c(&data) != sum {
                bad("the log holds a page that its checksum does not match");
            }
        }
    });
    scene.all(|_| ());
}

fn ordered_commit(race: &'static Race) {
    let mut scene = Scene::on_disk(race, RaceFile::new(1, false, 0));
    scene.thread("storer", |file| {
        if file.map().store(pos(0), &[7; PAGE]).is_err() {
            bad("the store faulted for good");
        }
        note("has stored 0x07");
    });
    scene.thread("journal", |file| {
        // The block may have been given to the file before this: then the commit exposes it.
        let exposed = file.is_allocated(0);
        let ordered = submit_ordered(&**file, FileRange::ALL)
            .and_then(|since| finish_ordered(&**file, FileRange::ALL, since));
        if ordered.is_err() {
            bad("the commit failed");
        }
        note("commit record");
        if exposed && file.stored(0).contains(&SECRET) {
            bad("after a power cut the file shows what its block held for its previous owner");
        }
    });
    scene.end(|file| file.write_back(0..1));
}
