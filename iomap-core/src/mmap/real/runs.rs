//! What a real mapping of a DAX file shows: runs of pages, as few as there are areas in the kernel.
//!
//! Owns the list and its merging, and no memory: [`device`](super::device) keeps the two alike.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::units::{DevAddr, PAGE_SIZE, PageIndex};

/// What is shown in the pages of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Pages of zeroes, for loads.
    Zero,
    /// The device's own bytes, from this address on.
    Device {
        /// Of the first page.
        addr: DevAddr,
        /// For stores too.
        writable: bool,
    },
    /// Nothing: an access raises the signal.
    Refused,
}

impl Shown {
    /// The same `pages` later.
    const fn after(self, pages: u64) -> Self {
        match self {
            Self::Device { addr, writable } => Self::Device {
                addr: addr.plus(pages * PAGE_SIZE as u64),
                writable,
            },
            other => other,
        }
    }

    /// Without write permission.
    const fn protected(self) -> Self {
        match self {
            Self::Device { addr, .. } => Self::Device {
                addr,
                writable: false,
            },
            other => other,
        }
    }

    /// Whether stores do not fault.
    pub(super) const fn is_writable(self) -> bool {
        matches!(self, Self::Device { writable: true, .. })
    }
}

/// Pages in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) pages: Range<PageIndex>,
    pub(super) shown: Shown,
}

impl Run {
    const fn len(&self) -> u64 {
        self.pages.end.since(self.pages.start)
    }

    /// The part of it in `pages`, which it meets.
    fn part(&self, pages: &Range<PageIndex>) -> Self {
        let start = self.pages.start.max(pages.start);
        Self {
            shown: self.shown.after(start.since(self.pages.start)),
            pages: start..self.pages.end.min(pages.end),
        }
    }
}

/// The runs of a mapping. No two meet; neighbours that could be one are one.
#[derive(Debug, Default)]
pub(super) struct Runs(BTreeMap<PageIndex, Run>);

impl Runs {
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The run that covers `page`.
    pub(super) fn covering(&self, page: PageIndex) -> Option<&Run> {
        let (_, run) = self.0.range(..=page).next_back()?;
        run.pages.contains(&page).then_some(run)
    }

    /// What is shown in `page`.
    pub(super) fn shown(&self, page: PageIndex) -> Option<Shown> {
        let run = self.covering(page)?;
        Some(run.shown.after(page.since(run.pages.start)))
    }

    /// The runs that meet `pages`, whole.
    pub(super) fn meeting(&self, pages: &Range<PageIndex>) -> Vec<Run> {
        if pages.is_empty() {
            return Vec::new();
        }
        let first = self.covering(pages.start).map(|run| run.pages.start);
        let from = first.unwrap_or(pages.start);
        let met = self.0.range(from..pages.end);
        met.map(|(_, run)| run.clone()).collect()
    }

    /// The parts of runs in `pages`.
    pub(super) fn parts(&self, pages: &Range<PageIndex>) -> Vec<Run> {
        let mut met = self.meeting(pages);
        for run in &mut met {
            *run = run.part(pages);
        }
        met
    }

    /// The first run that begins at or after `page`.
    pub(super) fn next(&self, page: PageIndex) -> Option<&Run> {
        self.0.range(page..).next().map(|(_, run)| run)
    }

    /// Whether all of `pages` is one run that shows `shown`, but perhaps for its permission.
    pub(super) fn shows(&self, pages: &Range<PageIndex>, shown: Shown) -> bool {
        let parts = self.parts(pages);
        let mut at = pages.start;
        for part in &parts {
            let wanted = shown.after(part.pages.start.since(pages.start));
            if part.pages.start != at || part.shown.protected() != wanted.protected() {
                return false;
            }
            at = part.pages.end;
        }
        at == pages.end
    }

    /// Takes `pages` out.
    pub(super) fn cut(&mut self, pages: &Range<PageIndex>) {
        for run in self.meeting(pages) {
            self.0.remove(&run.pages.start);
            for rest in [
                run.pages.start..pages.start.max(run.pages.start),
                pages.end.min(run.pages.end)..run.pages.end,
            ] {
                if !rest.is_empty() {
                    let rest = run.part(&rest);
                    self.0.insert(rest.pages.start, rest);
                }
            }
        }
    }

    /// Shows something in `pages`, in the place of what was there.
    pub(super) fn show(&mut self, pages: Range<PageIndex>, shown: Shown) {
        self.cut(&pages);
        let mut run = Run { pages, shown };
        if let Some((_, before)) = self.0.range(..run.pages.start).next_back()
            && before.pages.end == run.pages.start
            && before.shown.after(before.len()) == run.shown
            && run.shown != Shown::Refused
        {
            let before = before.clone();
            self.0.remove(&before.pages.start);
            run.pages.start = before.pages.start;
            run.shown = before.shown;
        }
        if let Some(after) = self.0.get(&run.pages.end)
            && after.shown == run.shown.after(run.len())
            && run.shown != Shown::Refused
        {
            let end = after.pages.end;
            self.0.remove(&run.pages.end);
            run.pages.end = end;
        }
        self.0.insert(run.pages.start, run);
    }

    /// Takes write permission for `pages` away.
    pub(super) fn protect(&mut self, pages: &Range<PageIndex>) {
        for part in self.parts(pages) {
            if part.shown.is_writable() {
                self.show(part.pages, part.shown.protected());
            }
        }
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGES: u64 = 24;

    fn page(n: u64) -> PageIndex {
        PageIndex::new(n)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Cut(u64, u64),
        Protect(u64, u64),
        Show(u64, u64, Shown),
    }

    fn shown() -> impl Strategy<Value = Shown> {
        prop_oneof![
            Just(Shown::Zero),
            Just(Shown::Refused),
            (0..3_u64, any::<bool>()).prop_map(|(at, writable)| Shown::Device {
                addr: DevAddr::new(at * 4 * PAGE_SIZE as u64),
                writable,
            }),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = || (0..PAGES, 1..9_u64);
        prop_oneof![
            range().prop_map(|(at, len)| Step::Cut(at, len)),
            range().prop_map(|(at, len)| Step::Protect(at, len)),
            (range(), shown()).prop_map(|((at, len), shown)| Step::Show(at, len, shown)),
        ]
    }

    proptest! {
        #[test]
        fn runs_are_what_a_list_of_pages_is_and_as_few_as_can_be(
            steps in proptest::collection::vec(step(), 1..40)
        ) {
            let (mut runs, mut model) = (Runs::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Cut(at, len) => {
                        runs.cut(&(page(at)..page(at + len)));
                        model.retain(|n, _| !(at..at + len).contains(n));
                    }
                    Step::Protect(at, len) => {
                        runs.protect(&(page(at)..page(at + len)));
                        for (_, shown) in model.range_mut(at..at + len) {
                            *shown = Shown::protected(*shown);
                        }
                    }
                    Step::Show(at, len, shown) => {
                        runs.show(page(at)..page(at + len), shown);
                        model.extend((0..len).map(|n| (at + n, shown.after(n))));
                        prop_assert!(runs.shows(&(page(at)..page(at + len)), shown));
                    }
                }
                for n in 0..PAGES + 9 {
                    prop_assert_eq!(runs.shown(page(n)), model.get(&n).copied(), "page {}", n);
                }
                let all = runs.meeting(&(page(0)..PageIndex::END));
                for pair in all.windows(2) {
                    let joins = pair[0].pages.end == pair[1].pages.start
                        && pair[0].shown.after(pair[0].len()) == pair[1].shown
                        && pair[0].shown != Shown::Refused;
                    prop_assert!(!joins, "{:?}", pair);
                }
            }
        }
    }
}
