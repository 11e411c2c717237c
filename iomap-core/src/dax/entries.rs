//! What a DAX file knows of its pages: where each is, whether it is dirty, who changes it now.
//!
//! Owns the table of entries of one file, their lock, and the wake-ups. An entry covers one page or,
//! where the extents allow, a naturally aligned run of [`HUGE_PAGES`]. It takes the place a folio
//! has in a page cache: who holds its lock decides what page tables show of its pages.
//!
//! # The life of an entry
//!
//! | From | To | When |
//! |---|---|---|
//! | none | locked, empty | somebody locks a page nobody has |
//! | locked, empty | locked, with a place | a fault found where the page is |
//! | locked | unlocked | the guard is dropped; one waiter is woken |
//! | locked | none | it was deleted, or nothing was put into it; every waiter is woken (rule B69) |
//!
//! A waiter that is woken looks the page up again: another entry may have taken the place. One that
//! then does not lock what it had waited for passes the wake-up on.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::mutation::{Rule, off};
use crate::sync::{Condvar, Mutex, MutexGuard, Rank, rank};
use crate::units::{DevAddr, PageIndex};

/// log2 of the pages of a large entry.
pub const HUGE_ORDER: u32 = 9;
/// Pages of a large entry: 2 MiB.
pub const HUGE_PAGES: u64 = 1 << HUGE_ORDER;

/// How many pages an entry covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntrySize {
    /// One.
    Page,
    /// [`HUGE_PAGES`], naturally aligned in the file.
    Huge,
}

impl EntrySize {
    /// Pages.
    #[must_use]
    pub const fn pages(self) -> u64 {
        match self {
            Self::Page => 1,
            Self::Huge => HUGE_PAGES,
        }
    }

    /// The pages of the entry of this size that covers `page`.
    #[must_use]
    pub const fn around(self, page: PageIndex) -> Range<PageIndex> {
        let start = match self {
            Self::Page => page,
            Self::Huge => page.align_down(HUGE_ORDER),
        };
        start..start.plus(self.pages())
    }
}

/// Where the pages of an entry are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A hole: mapped as pages of zeroes, for loads only.
    Zero,
    /// On the device, from this address on.
    Device(DevAddr),
}

/// An entry, as the holder of its lock sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where its pages are.
    pub place: Place,
    /// Tells it from another entry that was put in its place later, even at the same address.
    pub serial: u64,
}

/// The entries of one file.
pub(crate) struct Entries {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By first page. No two cover the same page.
    slots: BTreeMap<PageIndex, Slot>,
    next_serial: u64,
}

#[derive(Debug)]
struct Slot {
    size: EntrySize,
    entry: Option<Entry>,
    locked: bool,
    dirty: bool,
    /// Was dirty when a walk began, and is to be written by it.
    towrite: bool,
    /// Where threads wait for the lock; made by the first.
    waiters: Option<Arc<Condvar>>,
}

impl Slot {
    const fn locked(size: EntrySize) -> Self {
        Self {
            size,
            entry: None,
            locked: true,
            dirty: false,
            towrite: false,
            waiters: None,
        }
    }

    fn wake_one(&self) {
        if let Some(waiters) = &self.waiters {
            waiters.notify_one();
        }
    }

    fn wake_all(&self) {
        if let Some(waiters) = &self.waiters {
            if off(Rule::B69) {
                waiters.notify_one();
            } else {
                waiters.notify_all();
            }
        }
    }
}

impl State {
    /// The entry that covers `page`.
    fn covering(&self, page: PageIndex) -> Option<(PageIndex, &Slot)> {
        let (start, slot) = self.slots.range(..=page).next_back()?;
        (page.since(*start) < slot.size.pages()).then_some((*start, slot))
    }

    /// The first entry that covers a page of `pages`.
    fn first_in(&self, pages: &Range<PageIndex>) -> Option<(PageIndex, &Slot)> {
        if pages.is_empty() {
            return None;
        }
        self.covering(pages.start).or_else(|| {
            let (start, slot) = self.slots.range(pages.clone()).next()?;
            Some((*start, slot))
        })
    }

    /// Wakes another waiter for the entry at `start`, if nobody has its lock.
    fn pass_on(&self, start: Option<PageIndex>) {
        let slot = start.and_then(|start| self.slots.get(&start));
        if let Some(slot) = slot.filter(|slot| !slot.locked) {
            slot.wake_one();
        }
    }
}

impl Entries {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(Rank::PageCacheIndex, State::default()),
        }
    }

    /// Whether there is no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().slots.is_empty()
    }

    /// Locks the entry that covers `page`, or makes one of `size`. A large one that is asked for
    /// where small ones are is refused with `None`; a small one may be answered with the large one
    /// that is there.
    pub(crate) fn lock(&self, page: PageIndex, size: EntrySize) -> Option<EntryGuard<'_>> {
        let pages = size.around(page);
        let held = rank::acquire(Rank::Folio, pages.start.get());
        let mut state = self.state.lock();
        loop {
            let Some((start, slot)) = state.first_in(&pages) else {
                state.slots.insert(pages.start, Slot::locked(size));
                drop(state);
                return Some(self.guard(pages.start, size, held));
            };
            if slot.size < size {
                return None;
            }
            let found = slot.size;
            if !slot.locked {
                self.take(&mut state, start);
                drop(state);
                return Some(self.guard(start, found, held));
            }
            Self::wait(&mut state, start);
        }
    }

    /// Locks the first entry that covers a page of `pages`, waiting for it.
    pub(crate) fn lock_next(&self, pages: &Range<PageIndex>) -> Option<EntryGuard<'_>> {
        self.lock_first(|state| state.first_in(pages).map(|(start, _)| start))
    }

    /// Marks what is dirty in `pages` as to be written.
    pub(crate) fn tag_for_writeback(&self, pages: &Range<PageIndex>) {
        let mut state = self.state.lock();
        let first = state.first_in(pages).map_or(pages.end, |(start, _)| start);
        for (_, slot) in state.slots.range_mut(first..pages.end.max(first)) {
            slot.towrite |= slot.dirty;
        }
    }

    /// Locks the first entry at or after `from` that is to be written.
    pub(crate) fn lock_next_to_write(&self, pages: &Range<PageIndex>) -> Option<EntryGuard<'_>> {
        self.lock_first(|state| {
            let (first, _) = state.first_in(pages)?;
            let mut slots = state.slots.range(first..pages.end);
            let (start, _) = slots.find(|(_, slot)| slot.towrite)?;
            Some(*start)
        })
    }

    /// Whether something in `pages` is dirty.
    pub(crate) fn has_dirty(&self, pages: &Range<PageIndex>) -> bool {
        let state = self.state.lock();
        let Some((first, _)) = state.first_in(pages) else {
            return false;
        };
        let mut slots = state.slots.range(first..pages.end);
        slots.any(|(_, slot)| slot.dirty)
    }

    fn lock_first(&self, find: impl Fn(&State) -> Option<PageIndex>) -> Option<EntryGuard<'_>> {
        let mut waited = None;
        loop {
            let found = {
                let state = self.state.lock();
                let found = find(&state);
                if found != waited {
                    // The wake-up was for one who locks: another waiter gets it.
                    state.pass_on(waited);
                }
                found
            };
            let start = found?;
            // The ladder is checked without the table locked; then what was found may be gone.
            let held = rank::acquire(Rank::Folio, start.get());
            let mut state = self.state.lock();
            waited = None;
            match state.slots.get(&start) {
                Some(slot) if !slot.locked => {
                    let size = slot.size;
                    self.take(&mut state, start);
                    drop(state);
                    return Some(self.guard(start, size, held));
                }
                Some(_) => {
                    Self::wait(&mut state, start);
                    waited = Some(start);
                }
                None => {}
            }
        }
    }

    fn take(&self, state: &mut State, start: PageIndex) {
        if let Some(slot) = state.slots.get_mut(&start) {
            slot.locked = true;
        }
    }

    const fn guard(&self, start: PageIndex, size: EntrySize, held: rank::Held) -> EntryGuard<'_> {
        EntryGuard {
            entries: self,
            start,
            size,
            _held: held,
        }
    }

    /// Waits until the entry at `start` is unlocked or gone. Returns early at times.
    fn wait(state: &mut MutexGuard<'_, State>, start: PageIndex) {
        let Some(slot) = state.slots.get_mut(&start) else {
            return;
        };
        let waiters = slot.waiters.get_or_insert_with(Arc::default);
        let waiters = Arc::clone(waiters);
        waiters.wait(state);
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").finish_non_exhaustive()
    }
}

/// The lock of an entry. Dropping it unlocks; an entry nothing was put into is gone then.
#[derive(Debug)]
#[must_use = "the entry is unlocked when the guard is dropped"]
pub(crate) struct EntryGuard<'a> {
    entries: &'a Entries,
    start: PageIndex,
    size: EntrySize,
    _held: rank::Held,
}

impl EntryGuard<'_> {
    /// The pages it covers.
    pub(crate) const fn pages(&self) -> Range<PageIndex> {
        self.start..self.start.plus(self.size.pages())
    }

    /// How many they are.
    pub(crate) const fn size(&self) -> EntrySize {
        self.size
    }

    /// What is there.
    pub(crate) fn entry(&self) -> Option<Entry> {
        self.with(|slot, _| slot.entry)
    }

    /// Puts a place in, clean, as a new entry; if the same place was there, the entry stays what it
    /// is. Returns it.
    pub(crate) fn set(&self, place: Place) -> Entry {
        self.with(|slot, next_serial| match slot.entry {
            Some(entry) if entry.place == place => entry,
            _ => {
                let serial = *next_serial;
                *next_serial += 1;
                let entry = Entry { place, serial };
                slot.entry = Some(entry);
                slot.dirty = false;
                slot.towrite = false;
                entry
            }
        })
    }

    /// Marks it dirty.
    pub(crate) fn set_dirty(&self) {
        self.with(|slot, _| slot.dirty = true);
    }

    /// Whether it is dirty.
    pub(crate) fn is_dirty(&self) -> bool {
        self.with(|slot, _| slot.dirty)
    }

    /// It is being written: no walk needs to look at it again.
    pub(crate) fn clear_towrite(&self) {
        self.with(|slot, _| slot.towrite = false);
    }

    /// It was written.
    pub(crate) fn clear_dirty(&self) {
        self.with(|slot, _| slot.dirty = false);
    }

    /// Takes it out of the table. Its pages are in no page table any more.
    pub(crate) fn delete(self) {
        self.with(|slot, _| {
            slot.entry = None;
            slot.dirty = false;
            slot.towrite = false;
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut Slot, &mut u64) -> T) -> T {
        let mut state = self.entries.state.lock();
        let State { slots, next_serial } = &mut *state;
        let slot = slots.get_mut(&self.start);
        f(
            slot.expect("a locked entry stays in the table"),
            next_serial,
        )
    }
}

impl Drop for EntryGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.entries.state.lock();
        let Some(slot) = state.slots.get_mut(&self.start) else {
            return;
        };
        slot.locked = false;
        if slot.entry.is_some() {
            slot.wake_one();
        } else if let Some(slot) = state.slots.remove(&self.start) {
            // Nobody will unlock this one again: all must look for another (rule B69).
            slot.wake_all();
        }
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    fn page(n: u64) -> PageIndex {
        PageIndex::new(n)
    }

    fn at(addr: u64) -> Place {
        Place::Device(DevAddr::new(addr))
    }

    fn waiting(entries: &Entries, start: PageIndex) -> usize {
        let state = entries.state.lock();
        let waiters = state.slots.get(&start).and_then(|s| s.waiters.as_ref());
        // One count is the table's, each other one a thread's.
        waiters.map_or(0, |w| Arc::strong_count(w) - 1)
    }

    /// Rule B69: three threads wait for one page; its entry goes; all three get on.
    #[test]
    fn everyone_who_waits_for_a_removed_entry_is_woken() {
        let entries = Arc::new(Entries::new());
        let guard = entries.lock(page(5), EntrySize::Page).unwrap();
        guard.set(at(0));
        let (send, receive) = channel();
        for _ in 0..3 {
            let (entries, send) = (Arc::clone(&entries), send.clone());
            std::thread::spawn(move || {
                // Finds the page gone or taken, and leaves nothing in it.
                drop(entries.lock(page(5), EntrySize::Page));
                let _ = send.send(());
            });
        }
        while waiting(&entries, page(5)) < 3 {
            std::thread::yield_now();
        }
        guard.delete();
        for n in 0..3 {
            let woken = receive.recv_timeout(Duration::from_secs(20));
            assert!(woken.is_ok(), "only {n} of 3 waiters were woken (rule B69)");
        }
        assert!(entries.is_empty());
    }

    /// A flush waits for an entry, is woken, and finds it written already: the next waiter gets the
    /// wake-up.
    #[test]
    fn who_is_woken_and_does_not_lock_wakes_the_next() {
        let entries = Arc::new(Entries::new());
        let guard = entries.lock(page(0), EntrySize::Page).unwrap();
        guard.set(at(0));
        guard.set_dirty();
        let all = page(0)..PageIndex::END;
        entries.tag_for_writeback(&all);
        let (send, receive) = channel();
        for n in 0..2 {
            let (entries, send, all) = (Arc::clone(&entries), send.clone(), all.clone());
            std::thread::spawn(move || {
                if n == 0 {
                    drop(entries.lock_next_to_write(&all));
                } else {
                    drop(entries.lock(page(0), EntrySize::Page));
                }
                let _ = send.send(());
            });
            while waiting(guard.entries, page(0)) <= n {
                std::thread::yield_now();
            }
        }
        guard.clear_towrite();
        drop(guard);
        for _ in 0..2 {
            receive.recv_timeout(Duration::from_secs(20)).unwrap();
        }
    }

    #[test]
    fn a_large_entry_answers_for_each_of_its_pages() {
        let entries = Entries::new();
        let large = entries.lock(page(700), EntrySize::Huge).unwrap();
        large.set(at(1 << 21));
        assert_eq!(large.pages(), page(512)..page(1024));
        drop(large);
        let found = entries.lock(page(1023), EntrySize::Page).unwrap();
        assert_eq!(found.size(), EntrySize::Huge);
        drop(found);
        let other = entries.lock(page(1024), EntrySize::Page).unwrap();
        assert_eq!(other.size(), EntrySize::Page);
    }

    #[test]
    fn an_entry_nothing_was_put_into_leaves_nothing() {
        let entries = Entries::new();
        drop(entries.lock(page(3), EntrySize::Page));
        assert!(entries.is_empty());
    }

    #[test]
    fn a_walk_visits_what_was_dirty_when_it_began() {
        let entries = Entries::new();
        let all = page(0)..PageIndex::END;
        for n in [1, 600, 2000] {
            let guard = entries.lock(page(n), EntrySize::Page).unwrap();
            guard.set(at(n << 12));
            if n != 600 {
                guard.set_dirty();
            }
        }
        assert!(entries.has_dirty(&all) && !entries.has_dirty(&(page(2)..page(2000))));
        entries.tag_for_writeback(&all);
        entries
            .lock(page(600), EntrySize::Page)
            .unwrap()
            .set_dirty();
        let mut seen = Vec::new();
        while let Some(guard) = entries.lock_next_to_write(&all) {
            seen.push(guard.pages().start.get());
            guard.clear_towrite();
            guard.clear_dirty();
        }
        assert_eq!(seen, [1, 2000]);
        assert!(entries.has_dirty(&all));
    }

    #[test]
    fn another_place_is_another_entry() {
        let entries = Entries::new();
        let guard = entries.lock(page(3), EntrySize::Page).unwrap();
        let first = guard.set(at(0));
        guard.set_dirty();
        assert_eq!(guard.set(at(0)), first);
        assert!(guard.is_dirty());
        guard.set(at(4096));
        assert!(!guard.is_dirty());
        assert_ne!(guard.set(at(0)).serial, first.serial);
    }
}
