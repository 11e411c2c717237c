//! Readahead: guessing what a reader wants next.
//!
//! Owns the state of one open file and the decision how much to read, where, in which folio order,
//! and where to leave the marker that starts the next window early. Does no I/O; that is
//! [`read`](crate::read).
//!
//! A window doubles while reads are sequential, up to [`WINDOW_MAX`] pages. The folio that begins
//! the second half of a window carries the marker: a reader that comes by starts the next window
//! while half of this one is still ahead. A read elsewhere gets what it asked for and nothing more,
//! until it turns out to be sequential.

use crate::sync::{Mutex, Rank};
use crate::units::{PAGE_SHIFT, PageIndex};

/// The first window of a sequential reader, pages (64 KiB).
pub const WINDOW_MIN: u64 = 16;
/// The largest window, pages (2 MiB).
pub const WINDOW_MAX: u64 = 512;

/// What one open file has been reading.
#[derive(Debug)]
pub struct Readahead(Mutex<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The last window: first page and pages.
    start: PageIndex,
    size: u64,
    /// One past the last page asked for.
    next: PageIndex,
}

/// What to read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first page.
    pub start: PageIndex,
    /// Pages.
    pub size: u64,
    /// The page whose folio gets the marker; none if the next window is not wanted yet.
    pub marker: Option<PageIndex>,
    /// The largest folio order to use.
    pub order: u32,
}

impl Readahead {
    /// A file nobody has read yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(Rank::InodeState, State::default()))
    }

    /// A page was missing: what to read, at least the `wanted` pages from `index` on.
    pub fn on_miss(&self, index: PageIndex, wanted: u64) -> Window {
        let mut state = self.0.lock();
        let (window, next) = miss(*state, index, wanted);
        *state = next;
        window
    }

    /// A folio with the marker was read: what to read ahead.
    pub fn on_marker(&self, index: PageIndex) -> Window {
        let mut state = self.0.lock();
        let (window, next) = marker(*state, index);
        *state = next;
        window
    }

    /// The reader got to `next` without a miss.
    pub fn on_hit(&self, next: PageIndex) {
        self.0.lock().next = next;
    }
}

impl Default for Readahead {
    fn default() -> Self {
        Self::new()
    }
}

fn miss(state: State, index: PageIndex, wanted: u64) -> (Window, State) {
    let wanted = wanted.clamp(1, WINDOW_MAX);
    let after = index.plus(wanted);
    let in_window = state.size > 0
        && index >= state.start
        && index <= state.start.plus(state.size)
        && state.next <= index.plus(1);
    let sequential = index == PageIndex::ZERO || index == state.next || in_window;
    if !sequential {
        let window = Window {
            start: index,
            size: wanted,
            marker: None,
            order: order_of(wanted),
        };
        return (
            window,
            State {
                start: index,
                size: 0,
                next: after,
            },
        );
    }
    let size = grow(state.size, wanted);
    window_at(index, size, wanted, after)
}

fn marker(state: State, index: PageIndex) -> (Window, State) {
    let known = index >= state.start && index < state.start.plus(state.size);
    let (start, size) = if known {
        (state.start.plus(state.size), grow(state.size, 1))
    } else {
        // Another reader left the marker: start over behind it.
        (index.plus(1), WINDOW_MIN)
    };
    let (window, next) = window_at(start, size, 0, state.next);
    (window, next)
}

/// A window with its marker behind what was asked for.
fn window_at(start: PageIndex, size: u64, wanted: u64, next: PageIndex) -> (Window, State) {
    let marker = (size > wanted).then(|| start.plus(wanted.max(size / 2)));
    let window = Window {
        start,
        size,
        marker,
        order: order_of(size),
    };
    (window, State { start, size, next })
}

/// The next window size.
const fn grow(size: u64, wanted: u64) -> u64 {
    let doubled = if size == 0 { WINDOW_MIN } else { size * 2 };
    let size = if doubled < wanted * 2 {
        wanted * 2
    } else {
        doubled
    };
    if size > WINDOW_MAX { WINDOW_MAX } else { size }
}

/// The folio order for a window: 64 KiB for ordinary ones, the window itself for streams.
fn order_of(pages: u64) -> u32 {
    const ORDINARY: u32 = 16 - PAGE_SHIFT;
    let fits = pages.max(1).ilog2();
    if pages >= WINDOW_MAX {
        fits
    } else {
        fits.min(ORDINARY)
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests {
    use super::*;

    #[test]
    fn a_sequential_reader_gets_doubling_windows() {
        let readahead = Readahead::new();
        let first = readahead.on_miss(PageIndex::ZERO, 1);
        assert_eq!((first.size, first.order), (WINDOW_MIN, 4));
        let mut window = first;
        let mut sizes = vec![first.size];
        while window.size < WINDOW_MAX {
            let marker = window.marker.expect("a sequential window has a marker");
            assert!(marker >= window.start && marker < window.start.plus(window.size));
            let next = readahead.on_marker(marker);
            assert_eq!(next.start, window.start.plus(window.size), "windows touch");
            window = next;
            sizes.push(window.size);
        }
        assert_eq!(sizes, [16, 32, 64, 128, 256, 512]);
        assert_eq!(window.order, 9);
    }

    #[test]
    fn a_random_reader_gets_what_it_asked_for() {
        let readahead = Readahead::new();
        for page in [1000, 77, 5000, 3] {
            let window = readahead.on_miss(PageIndex::new(page), 1);
            assert_eq!(
                (window.start.get(), window.size, window.marker),
                (page, 1, None)
            );
        }
    }

    #[test]
    fn a_strided_reader_backs_off_after_its_first_window() {
        let readahead = Readahead::new();
        let pages: u64 = (0..100)
            .map(|n| readahead.on_miss(PageIndex::new(n * 1000), 1).size)
            .sum();
        assert!(
            pages < WINDOW_MIN + 100,
            "{pages} pages for 100 single reads"
        );
    }

    #[test]
    fn a_random_reader_that_turns_sequential_is_noticed_at_its_second_read() {
        let readahead = Readahead::new();
        readahead.on_miss(PageIndex::new(5000), 1);
        assert_eq!(readahead.on_miss(PageIndex::new(5001), 1).size, WINDOW_MIN);
    }
}
