//! What a power cut can leave of recorded writes, by the fault model of [`device`](super).
//!
//! Owns [`Recording`]: crash points, which changes are durable at each, and the images that are
//! possible there. Filled by [`RecordingDevice`](super::RecordingDevice).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fastrand::Rng;

/// Bytes that are written whole or not at all.
pub const SECTOR: usize = 512;

/// A change of the device: a write, or zeroes.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) addr: u64,
    pub(super) len: u64,
    /// Absent for zeroes.
    pub(super) data: Option<Arc<[u8]>>,
    pub(super) fua: bool,
    pub(super) atomic: bool,
}

/// Something that happened, in order.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A change was submitted.
    Change(usize, Change),
    /// A flush was submitted.
    Flush(usize),
    /// A change or flush completed without error.
    Done(usize),
    /// The program's own mark.
    Mark(u64),
}

/// What became of a change that was not durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// None of it arrived.
    Lost,
    /// All of it arrived.
    Arrived,
    /// These of its sectors arrived. Atomic writes arrive whole if the first did, else not at all.
    Torn(Vec<bool>),
}

/// The changes to a device, in order, and the image they started from.
///
/// A *crash point* is a number of events: the power goes after that many of them.
#[derive(Clone, Debug)]
pub struct Recording {
    base: Arc<[u8]>,
    events: Vec<Event>,
}

/// Which changes of a crash point are durable and which are not; indices of events, in order.
struct Split {
    durable: BTreeSet<usize>,
    volatile: Vec<usize>,
}

impl Recording {
    pub(super) const fn new(base: Arc<[u8]>, events: Vec<Event>) -> Self {
        Self { base, events }
    }

    /// What happened, in order.
    pub(super) fn events(&self) -> &[Event] {
        &self.events
    }

    /// The last crash point: after everything.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.events.len()
    }

    /// Crash points at which something became durable that was not before: after each completed
    /// flush and FUA write; and the two ends.
    #[must_use]
    pub fn flush_points(&self) -> Vec<usize> {
        let mut durable = BTreeSet::new();
        let mut points = vec![0];
        for (n, event) in self.events.iter().enumerate() {
            match event {
                Event::Flush(id) => drop(durable.insert(*id)),
                Event::Change(id, change) if change.fua => drop(durable.insert(*id)),
                Event::Done(id) if durable.contains(id) => points.push(n + 1),
                _ => {}
            }
        }
        points.push(self.end());
        points.dedup();
        points
    }

    /// The marks before a crash point, in order.
    #[must_use]
    pub fn marks(&self, point: usize) -> Vec<u64> {
        let mark = |event: &Event| match event {
            Event::Mark(mark) => Some(*mark),
            _ => None,
        };
        self.events[..point].iter().filter_map(mark).collect()
    }

    /// How many changes are not durable at a crash point: each has a [`Fate`].
    #[must_use]
    pub fn volatile(&self, point: usize) -> usize {
        self.split(point).volatile.len()
    }

    /// The sectors of each change that is not durable at a crash point.
    #[must_use]
    pub fn volatile_sectors(&self, point: usize) -> Vec<usize> {
        let split = self.split(point);
        let sectors = |&n: &usize| match &self.events[n] {
            Event::Change(_, change) => change.sectors(),
            _ => 0,
        };
        split.volatile.iter().map(sectors).collect()
    }

    /// The image if everything submitted before the crash point arrived: no power cut at all.
    #[must_use]
    pub fn image(&self, point: usize) -> Vec<u8> {
        let all = vec![Fate::Arrived; self.volatile(point)];
        self.image_with(point, &all)
    }

    /// The image if nothing arrived but what is durable.
    #[must_use]
    pub fn durable_image(&self, point: usize) -> Vec<u8> {
        self.image_with(point, &[])
    }

    /// The image if these are the fates of the changes that are not durable, in order of
    /// submission. Changes without a fate are lost.
    #[must_use]
    pub fn image_with(&self, point: usize, fates: &[Fate]) -> Vec<u8> {
        let split = self.split(point);
        let fates: BTreeMap<_, _> = split.volatile.iter().zip(fates).collect();
        let mut image = self.base.to_vec();
        for (n, event) in self.events[..point].iter().enumerate() {
            let Event::Change(_, change) = event else {
                continue;
            };
            if split.durable.contains(&n) {
                change.apply(&mut image, &Fate::Arrived);
            } else if let Some(fate) = fates.get(&n) {
                change.apply(&mut image, fate);
            }
        }
        image
    }

    /// Fates of a crash point drawn from `seed`: some changes lost, some arrived, some torn.
    #[must_use]
    pub fn fates(&self, point: usize, seed: u64) -> Vec<Fate> {
        let mut rng = Rng::with_seed(seed);
        let lost = rng.f64();
        let draw = |sectors: usize| {
            if rng.f64() < lost {
                Fate::Lost
            } else if sectors > 1 && rng.u8(..4) == 0 {
                Fate::Torn((0..sectors).map(|_| rng.bool()).collect())
            } else {
                Fate::Arrived
            }
        };
        self.volatile_sectors(point).into_iter().map(draw).collect()
    }

    /// Every combination of lost and arrived at a crash point, if there are at most `max` changes
    /// that are not durable; `None` if there are more.
    #[must_use]
    pub fn subsets(
        &self,
        point: usize,
        max: u32,
    ) -> Option<impl Iterator<Item = Vec<Fate>> + use<>> {
        let count = u32::try_from(self.volatile(point)).ok()?;
        let fates = move |bits: u64| {
            let fate = |n| match bits >> n & 1 {
                0 => Fate::Lost,
                _ => Fate::Arrived,
            };
            (0..count).map(fate).collect()
        };
        (count <= max.min(63)).then(|| (0..1u64 << count).map(fates))
    }

    /// For each change that is not durable at a crash point: all before it arrived, all after it
    /// are lost, and of itself the first k sectors arrived, for every k.
    pub fn torn_prefixes(&self, point: usize) -> impl Iterator<Item = Vec<Fate>> + use<> {
        let sectors = self.volatile_sectors(point);
        sectors.into_iter().enumerate().flat_map(|(n, sectors)| {
            (0..=sectors).map(move |arrived| {
                let mut fates = vec![Fate::Arrived; n];
                fates.push(Fate::Torn((0..sectors).map(|s| s < arrived).collect()));
                fates
            })
        })
    }

    fn split(&self, point: usize) -> Split {
        // Submitted changes by number; completed ones not covered by a flush; what each flush covers.
        let mut open = BTreeMap::new();
        let mut cached = BTreeSet::new();
        let mut flushes = BTreeMap::new();
        let mut split = Split {
            durable: BTreeSet::new(),
            volatile: Vec::new(),
        };
        for (n, event) in self.events[..point].iter().enumerate() {
            match event {
                Event::Change(id, change) => drop(open.insert(*id, (n, change.fua))),
                Event::Flush(id) => drop(flushes.insert(*id, cached.clone())),
                Event::Done(id) => match (open.remove(id), flushes.remove(id)) {
                    (Some((n, true)), _) => drop(split.durable.insert(n)),
                    (Some((n, false)), _) => drop(cached.insert(n)),
                    (None, Some(covered)) => {
                        cached.retain(|n| !covered.contains(n));
                        split.durable.extend(covered);
                    }
                    (None, None) => {}
                },
                Event::Mark(_) => {}
            }
        }
        split.volatile = cached
            .into_iter()
            .chain(open.into_values().map(|o| o.0))
            .collect();
        split.volatile.sort_unstable();
        split
    }
}

impl Change {
    pub(super) const fn sectors(&self) -> usize {
        (self.len as usize).div_ceil(SECTOR)
    }

    /// Whether sector `n` of the change arrives.
    pub(super) fn arrives(&self, fate: &Fate, n: usize) -> bool {
        match fate {
            Fate::Lost => false,
            Fate::Arrived => true,
            Fate::Torn(sectors) if self.atomic => sectors.first() == Some(&true),
            Fate::Torn(sectors) => sectors.get(n) == Some(&true),
        }
    }

    fn apply(&self, image: &mut [u8], fate: &Fate) {
        let image = &mut image[self.addr as usize..][..self.len as usize];
        for (n, sector) in image.chunks_mut(SECTOR).enumerate() {
            match (&self.data, self.arrives(fate, n)) {
                (_, false) => {}
                (Some(data), true) => {
                    sector.copy_from_slice(&data[n * SECTOR..][..sector.len()]);
                }
                (None, true) => sector.fill(0),
            }
        }
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::{DeferredDevice, RecordingDevice};
    use super::*;
    use iomap_core::device::{Bio, BioOp, BlockDevice, DeviceBuf, MemoryDevice};
    use iomap_core::units::DevAddr;

    fn recorder() -> RecordingDevice<MemoryDevice> {
        RecordingDevice::new(MemoryDevice::from_image(&[9; 4096])).unwrap()
    }

    fn write(device: &dyn BlockDevice, sector: u64, sectors: usize, byte: u8) {
        let data = vec![byte; sectors * SECTOR];
        device.write_at(DevAddr::new(sector * 512), &data).unwrap();
    }

    fn first_bytes(image: &[u8]) -> Vec<u8> {
        image.chunks(SECTOR).map(|sector| sector[0]).collect()
    }

    #[test]
    fn a_flush_makes_durable_what_had_completed() {
        let device = recorder();
        write(&device, 0, 1, 1);
        device.flush().unwrap();
        let point = device.point();
        device.mark(77);
        write(&device, 1, 1, 2);
        let recording = device.recording();
        assert_eq!(recording.volatile(point), 0);
        assert_eq!(recording.volatile(recording.end()), 1);
        assert_eq!(recording.volatile(1), 1);
        assert_eq!(recording.marks(point), Vec::<u64>::new());
        assert_eq!(recording.marks(recording.end()), [77]);
        let lost = first_bytes(&recording.durable_image(recording.end()));
        assert_eq!(lost[..3], [1, 9, 9]);
        assert_eq!(recording.image(recording.end()), device.inner().image());
        assert_eq!(recording.flush_points(), [0, point, recording.end()]);
    }

    #[test]
    fn a_flush_covers_nothing_that_completes_after_its_submission() {
        let device = RecordingDevice::new(
            DeferredDevice::manual(MemoryDevice::new(4096)).holding(|held| held.op != BioOp::Read),
        )
        .unwrap();
        let submit = |op, addr, len| {
            let buf = DeviceBuf::from_slice(&vec![1; len], 1);
            device.submit(Bio::owned(op, DevAddr::new(addr), buf, |_, _| {}));
        };
        submit(BioOp::WRITE, 0, 512);
        submit(BioOp::Flush, 0, 0);
        submit(BioOp::WRITE, 512, 512);
        // The write completes first, but after the flush was submitted.
        assert!(device.inner().complete(0));
        assert!(device.inner().complete(1));
        let recording = device.recording();
        assert_eq!(recording.volatile(recording.end()), 2);
        assert_eq!(recording.durable_image(recording.end()), vec![0; 4096]);
    }

    #[test]
    fn fua_is_durable_when_it_completes_and_covers_only_itself() {
        let device = recorder();
        write(&device, 0, 1, 1);
        let buf = DeviceBuf::from_slice(&[2; 512], 1);
        let op = BioOp::Write {
            fua: true,
            atomic: false,
        };
        device.submit(Bio::owned(op, DevAddr::new(512), buf, |result, _| {
            result.unwrap()
        }));
        let recording = device.recording();
        let durable = first_bytes(&recording.durable_image(recording.end()));
        assert_eq!(durable[..3], [9, 2, 9]);
        assert_eq!(recording.flush_points(), [0, recording.end()]);
    }

    #[test]
    fn subsets_are_all_combinations() {
        let device = recorder();
        write(&device, 0, 1, 1);
        write(&device, 0, 1, 2);
        device
            .transfer(BioOp::Discard, DevAddr::new(512), 512, &[])
            .unwrap();
        let recording = device.recording();
        let point = recording.end();
        let images: BTreeSet<_> = recording
            .subsets(point, 8)
            .unwrap()
            .map(|fates| first_bytes(&recording.image_with(point, &fates))[..2].to_vec())
            .collect();
        let expected = [[9, 9], [9, 0], [1, 9], [1, 0], [2, 9], [2, 0]];
        assert_eq!(images, expected.iter().map(|i| i.to_vec()).collect());
        assert!(recording.subsets(point, 2).is_none());
    }

    #[test]
    fn writes_tear_at_sectors_atomic_ones_do_not() {
        let device = recorder();
        write(&device, 0, 3, 1);
        let recording = device.recording();
        let point = recording.end();
        let images: Vec<_> = recording
            .torn_prefixes(point)
            .map(|fates| first_bytes(&recording.image_with(point, &fates))[..3].to_vec())
            .collect();
        assert_eq!(images, [[9, 9, 9], [1, 9, 9], [1, 1, 9], [1, 1, 1]]);

        let device = recorder();
        let op = BioOp::Write {
            fua: false,
            atomic: true,
        };
        let buf = DeviceBuf::from_slice(&[1; 1024], 1);
        device.submit(Bio::owned(op, DevAddr::new(0), buf, |result, _| {
            result.unwrap()
        }));
        let recording = device.recording();
        for fates in recording.torn_prefixes(recording.end()) {
            let image = first_bytes(&recording.image_with(recording.end(), &fates));
            assert_eq!(image[0], image[1]);
        }
    }

    #[test]
    fn a_seed_draws_the_same_fates_again() {
        let device = recorder();
        for n in 0..4 {
            write(&device, n, 2, n as u8);
        }
        let recording = device.recording();
        let point = recording.end();
        assert_eq!(recording.fates(point, 3), recording.fates(point, 3));
        let kinds: BTreeSet<_> = (0..50)
            .flat_map(|seed| recording.fates(point, seed))
            .map(|fate| matches!(fate, Fate::Torn(_)))
            .collect();
        assert_eq!(kinds.len(), 2);
    }

    #[test]
    fn a_write_that_failed_may_still_have_arrived() {
        let faulty = super::super::FaultyDevice::new(MemoryDevice::new(4096), 0);
        let device = RecordingDevice::new(faulty).unwrap();
        let fault = super::super::Fault::new(iomap_core::error::Errno::IO);
        device
            .inner()
            .plan(fault.on(iomap_core::error::DeviceOp::Write));
        assert!(device.write_at(DevAddr::new(0), &[1; 512]).is_err());
        device.flush().unwrap();
        let recording = device.recording();
        assert_eq!(recording.volatile(recording.end()), 1);
    }
}
