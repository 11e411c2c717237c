//! Going through the crash points of a recording, one after the other.
//!
//! Owns [`Walk`]: what is durable at a point and what is not, kept up as it goes, so that an image
//! costs the sectors in doubt and not the whole device. The rules of the fault model are those of
//! [`device`](super); [`Recording`] applies the same ones to a single point.

use std::collections::{BTreeMap, HashMap};

use fastrand::Rng;

use super::image::Image;
use super::replay::{Change, Event, Fate, Recording, SECTOR};

/// Every crash point of a recording that differs from the one before, in order.
#[derive(Debug)]
pub struct Walk<'a> {
    events: &'a [Event],
    at: usize,
    durable: Image,
    /// What is not in `durable`, by the event of its submission: what may be lost, and what may not
    /// but lies over an older change that may.
    pending: BTreeMap<usize, Pending<'a>>,
    /// Submitted and not completed, by number: the event, or what a flush covers.
    open: HashMap<usize, usize>,
    completed: Vec<usize>,
    flushes: HashMap<usize, Vec<usize>>,
    mark: Option<u64>,
}

#[derive(Debug)]
struct Pending<'a> {
    change: &'a Change,
    safe: bool,
}

impl Recording {
    /// Goes through the crash points after the event `start`. What happened before is durable as
    /// far as it was flushed.
    #[must_use]
    pub fn walk(&self, base: Image) -> Walk<'_> {
        Walk {
            events: self.events(),
            at: 0,
            durable: base,
            pending: BTreeMap::new(),
            open: HashMap::new(),
            completed: Vec::new(),
            flushes: HashMap::new(),
            mark: None,
        }
    }
}

impl<'a> Walk<'a> {
    /// Goes to the next point at which something may be lost that could not before, is durable that
    /// was not, or a mark was made. Returns whether there is one.
    pub fn step(&mut self) -> bool {
        while let Some(event) = self.events.get(self.at) {
            self.at += 1;
            if self.apply(event) {
                return true;
            }
        }
        false
    }

    /// The crash point: a number of events.
    #[must_use]
    pub const fn point(&self) -> usize {
        self.at
    }

    /// The last mark before the point.
    #[must_use]
    pub const fn mark(&self) -> Option<u64> {
        self.mark
    }

    /// The sectors of each change that may be lost.
    #[must_use]
    pub fn sectors(&self) -> Vec<usize> {
        let volatile = self.pending.values().filter(|p| !p.safe);
        volatile.map(|p| p.change.sectors()).collect()
    }

    /// The image if these are the fates of the changes that may be lost, in order of submission.
    /// Changes without a fate are lost.
    #[must_use]
    pub fn image(&self, fates: &[Fate]) -> Image {
        let mut image = self.durable.clone();
        let mut fates = fates.iter();
        for Pending { change, safe } in self.pending.values() {
            let fate = if *safe {
                &Fate::Arrived
            } else {
                fates.next().unwrap_or(&Fate::Lost)
            };
            change.apply_to(&mut image, fate);
        }
        image
    }

    /// Returns whether the set of possible images, or the promises made, changed.
    fn apply(&mut self, event: &'a Event) -> bool {
        match event {
            Event::Change(id, change) => {
                let pending = Pending {
                    change,
                    safe: false,
                };
                self.pending.insert(self.at, pending);
                self.open.insert(*id, self.at);
                true
            }
            Event::Flush(id) => {
                self.flushes.insert(*id, self.completed.clone());
                false
            }
            Event::Done(id) => self.done(*id),
            Event::Mark(mark) => {
                self.mark = Some(*mark);
                true
            }
        }
    }

    fn done(&mut self, id: usize) -> bool {
        if let Some(at) = self.open.remove(&id) {
            if self.pending.get(&at).is_some_and(|p| p.change.fua) {
                self.keep(&[at]);
                return true;
            }
            self.completed.push(at);
            return false;
        }
        let covered = self.flushes.remove(&id).unwrap_or_default();
        self.completed.retain(|at| !covered.contains(at));
        self.keep(&covered);
        !covered.is_empty()
    }

    /// These changes are durable from here on.
    fn keep(&mut self, changes: &[usize]) {
        for at in changes {
            if let Some(pending) = self.pending.get_mut(at) {
                pending.safe = true;
            }
        }
        let safe = self.pending.iter().filter(|(_, p)| p.safe);
        for at in safe.map(|(at, _)| *at).collect::<Vec<_>>() {
            let change = self.pending[&at].change;
            let mut older = self.pending.range(..at);
            if older.any(|(_, older)| older.change.overlaps(change)) {
                continue;
            }
            change.apply_to(&mut self.durable, &Fate::Arrived);
            self.pending.remove(&at);
        }
    }
}

/// Combinations of fates for changes of so many sectors: all of them while there are at most `max`,
/// otherwise the extreme ones and as many as that drawn from `rng`.
#[must_use]
pub fn combinations(sectors: &[usize], max: usize, rng: &mut Rng) -> Vec<Vec<Fate>> {
    let writes = sectors.len();
    let mut all = vec![vec![Fate::Lost; writes]];
    if writes == 0 {
        return all;
    }
    all.push(vec![Fate::Arrived; writes]);
    let total: usize = sectors.iter().sum();
    if total < usize::BITS as usize - 1 && 1 << total <= max {
        // Every subset of the sectors.
        return (0..1_usize << total)
            .map(|bits| torn(sectors, bits))
            .collect();
    }
    if writes < usize::BITS as usize - 1 && 1 << writes <= max {
        let subset = |bits: usize| {
            let fate = |n| match bits >> n & 1 {
                0 => Fate::Lost,
                _ => Fate::Arrived,
            };
            (0..writes).map(fate).collect::<Vec<_>>()
        };
        // The first and the last one are there already.
        all.extend((1..(1 << writes) - 1).map(subset));
    }
    while all.len() < max {
        all.push(drawn(sectors, rng));
    }
    all
}

/// The sectors whose bits are set arrived.
fn torn(sectors: &[usize], mut bits: usize) -> Vec<Fate> {
    let fate = |&sectors: &usize| {
        let arrived = (0..sectors).map(|n| bits >> n & 1 != 0).collect();
        bits >>= sectors;
        Fate::Torn(arrived)
    };
    sectors.iter().map(fate).collect()
}

/// Each change lost, arrived or torn, with a chance of loss that is drawn first.
fn drawn(sectors: &[usize], rng: &mut Rng) -> Vec<Fate> {
    let lost = rng.f64();
    let fate = |&sectors: &usize| match rng.f64() < lost {
        _ if sectors > 1 && rng.u8(..4) == 0 => {
            Fate::Torn((0..sectors).map(|_| rng.bool()).collect())
        }
        true => Fate::Lost,
        false => Fate::Arrived,
    };
    sectors.iter().map(fate).collect()
}

impl Change {
    const fn overlaps(&self, other: &Self) -> bool {
        self.addr < other.addr + other.len && other.addr < self.addr + self.len
    }

    fn apply_to(&self, image: &mut Image, fate: &Fate) {
        const ZEROES: [u8; SECTOR] = [0; SECTOR];
        for n in 0..self.sectors() {
            if !self.arrives(fate, n) {
                continue;
            }
            let at = self.addr as usize + n * SECTOR;
            let len = SECTOR.min(self.len as usize - n * SECTOR);
            match &self.data {
                Some(data) => image.set(at, &data[n * SECTOR..][..len]),
                None => image.set(at, &ZEROES[..len]),
            }
        }
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use iomap_core::device::{Bio, BioOp, BlockDevice, DeviceBuf, MemoryDevice};
    use iomap_core::units::DevAddr;

    use super::super::{DeferredDevice, RecordingDevice};
    use super::*;

    fn submit(device: &dyn BlockDevice, op: BioOp, sector: u64, byte: u8) {
        let len = if op == BioOp::Flush { 0 } else { 1024 };
        let buf = DeviceBuf::from_slice(&vec![byte; len], 1);
        let addr = DevAddr::new(if len == 0 { 0 } else { sector * 512 });
        device.submit(Bio::owned(op, addr, buf, |result, _| result.unwrap()));
    }

    /// Requests in flight together that complete in any order: at every point the walk and the
    /// recording say the same.
    #[test]
    fn a_walk_and_a_single_point_agree() {
        for seed in 0..20 {
            let inner = DeferredDevice::auto(MemoryDevice::new(8192), seed);
            let device = RecordingDevice::new(inner).unwrap();
            let mut rng = Rng::with_seed(seed);
            for n in 0..40 {
                match rng.u8(..6) {
                    0 => submit(&device, BioOp::Flush, 0, 0),
                    1 => device.poll(),
                    2 => device.mark(n),
                    3 => {
                        let (fua, atomic) = (true, rng.bool());
                        submit(&device, BioOp::Write { fua, atomic }, n % 8 * 2, n as u8);
                    }
                    // Never two at one place in flight: their order would be nobody's.
                    _ => submit(&device, BioOp::WRITE, n % 8 * 2, n as u8),
                }
                if n % 8 == 7 {
                    device.wait(&mut || device.in_flight() == 0);
                }
            }
            let recording = device.recording();
            let mut walk = recording.walk(Image::new(&[0; 8192]));
            while walk.step() {
                let point = walk.point();
                assert_eq!(walk.sectors(), recording.volatile_sectors(point));
                assert_eq!(walk.mark(), recording.marks(point).last().copied());
                for fates in [recording.fates(point, seed), Vec::new()] {
                    let expected = recording.image_with(point, &fates);
                    assert!(
                        walk.image(&fates).bytes() == expected,
                        "seed {seed}, {point}"
                    );
                }
            }
        }
    }

    #[test]
    fn few_sectors_are_combined_exhaustively_and_many_are_drawn() {
        let mut rng = Rng::with_seed(1);
        let combine = |sectors: &[usize], rng: &mut Rng| {
            let all = combinations(sectors, 32, rng);
            all.iter()
                .map(|c| format!("{c:?}"))
                .collect::<BTreeSet<_>>()
                .len()
        };
        assert_eq!(combine(&[], &mut rng), 1);
        assert_eq!(combine(&[2, 1], &mut rng), 8);
        let whole = combinations(&[8, 8, 8], 32, &mut rng);
        let untorn = |fates: &&Vec<Fate>| !fates.iter().any(|f| matches!(f, Fate::Torn(_)));
        assert!(whole.iter().filter(untorn).count() >= 8);
        assert_eq!(whole.len(), 32);
        assert!(combine(&[8; 20], &mut rng) > 20);
    }
}
