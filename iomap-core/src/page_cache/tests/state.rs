//! The state of a folio's blocks against one boolean for each block.

use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::folio::LockedFolio;

#[derive(Clone, Debug)]
enum Step {
    SetUptodate(Range<usize>),
    SetDirty(Range<usize>),
    ClearDirty(Range<usize>),
    Cancel,
    /// Take for writing; whether the writing begins; whether the folio is dirtied again while it
    /// is being written.
    Write(bool, Option<Range<usize>>),
    Private(bool),
}

fn range(len: usize) -> impl Strategy<Value = Range<usize>> {
    prop_oneof![
        3 => (0..=len, 0..=len).prop_map(|(a, b)| a.min(b)..a.max(b)),
        1 => Just(0..len),
        1 => (0..=len).prop_map(|at| at..at),
    ]
}

fn step(len: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => range(len).prop_map(Step::SetUptodate),
        3 => range(len).prop_map(Step::SetDirty),
        2 => range(len).prop_map(Step::ClearDirty),
        1 => Just(Step::Cancel),
        2 => (any::<bool>(), prop::option::of(range(len))).prop_map(|(go, again)| Step::Write(go, again)),
        1 => any::<bool>().prop_map(Step::Private),
    ]
}

struct Model {
    block: usize,
    uptodate: Vec<bool>,
    dirty: Vec<bool>,
    folio_dirty: bool,
}

impl Model {
    fn new(len: usize, block: usize) -> Self {
        Self {
            block,
            uptodate: vec![false; len / block],
            dirty: vec![false; len / block],
            folio_dirty: false,
        }
    }

    fn out(&self, range: &Range<usize>) -> Range<usize> {
        if range.is_empty() {
            return 0..0;
        }
        range.start / self.block..range.end.div_ceil(self.block)
    }

    fn set_dirty(&mut self, range: &Range<usize>) {
        let blocks = self.out(range);
        self.folio_dirty |= !blocks.is_empty();
        self.dirty[blocks].fill(true);
    }

    fn runs(&self, limit: usize) -> Vec<Range<usize>> {
        let end = limit.div_ceil(self.block).min(self.dirty.len());
        let mut runs: Vec<Range<usize>> = Vec::new();
        for at in (0..end).filter(|at| self.dirty[*at]) {
            let bytes = at * self.block..(at + 1) * self.block;
            match runs.last_mut() {
                Some(last) if last.end == bytes.start => last.end = bytes.end,
                _ => runs.push(bytes),
            }
        }
        runs
    }
}

fn compare(folio: &LockedFolio, cache: &PageCache, model: &Model) {
    let len = folio.len();
    assert_eq!(folio.is_uptodate(), model.uptodate.iter().all(|b| *b));
    assert_eq!(folio.is_dirty(), model.folio_dirty);
    assert_eq!(cache.has_dirty(FileRange::ALL), model.folio_dirty);
    let pages = if model.folio_dirty { folio.pages() } else { 0 };
    assert_eq!(cache.nr_dirty(), pages);
    for limit in [0, 1, model.block, len / 2 + 1, len] {
        let runs: Vec<_> = folio.dirty_ranges(limit).collect();
        assert_eq!(runs, model.runs(limit), "limit {limit}");
    }
    for (at, (uptodate, dirty)) in model.uptodate.iter().zip(&model.dirty).enumerate() {
        let middle = at * model.block + 1..at * model.block + 2;
        assert_eq!(folio.is_range_uptodate(middle.clone()), *uptodate);
        assert_eq!(folio.is_range_dirty(middle), *dirty);
    }
    let hole = (0..model.dirty.len()).find(|at| !model.uptodate[*at] && !model.dirty[*at]);
    assert_eq!(
        folio.first_hole(0..len).map(|hole| hole.start),
        hole.map(|at| at * model.block)
    );
}

fn apply(folio: &mut LockedFolio, model: &mut Model, step: Step) {
    match step {
        Step::SetUptodate(range) => {
            folio.set_range_uptodate(range.clone());
            let blocks = model.out(&range);
            model.uptodate[blocks].fill(true);
        }
        Step::SetDirty(range) => {
            folio.set_range_dirty(range.clone());
            model.set_dirty(&range);
        }
        Step::ClearDirty(range) => {
            folio.clear_range_dirty(range.clone());
            let inside = range.start.div_ceil(model.block)..range.end / model.block;
            if inside.start < inside.end && model.dirty[inside.clone()].iter().any(|b| *b) {
                model.dirty[inside].fill(false);
                model.folio_dirty &= model.dirty.iter().any(|b| *b);
            }
        }
        Step::Cancel => {
            folio.cancel_dirty();
            model.dirty.fill(false);
            model.folio_dirty = false;
        }
        Step::Write(go, again) => write(folio, model, go, again),
        Step::Private(true) => folio.set_private(Box::new(1u8)),
        Step::Private(false) => drop(folio.take_private()),
    }
}

fn write(folio: &mut LockedFolio, model: &mut Model, go: bool, again: Option<Range<usize>>) {
    assert_eq!(folio.clear_dirty_for_io(), model.folio_dirty);
    assert_eq!(
        folio.dirty_ranges(usize::MAX).collect::<Vec<_>>(),
        model.runs(usize::MAX)
    );
    if go {
        folio.start_writeback();
    }
    folio.clear_all_dirty_blocks();
    model.dirty.fill(false);
    model.folio_dirty = false;
    if let Some(range) = again {
        folio.set_range_dirty(range.clone());
        model.set_dirty(&range);
    }
    if go {
        folio.end_writeback();
    }
}

proptest! {
    #[test]
    fn block_state_does_what_booleans_do(
        (order, block, steps) in (0u32..=4, 9u32..=16).prop_flat_map(|(order, block)| {
            let order = order.max(block.saturating_sub(12));
            let len = PAGE_SIZE << order;
            (Just(order), Just(block), prop::collection::vec(step(len), 1..40))
        })
    ) {
        let pool = pool(64);
        let cache = cache(&pool, block);
        let mut folio = cache.get_or_create(page(0), super::order(order)).unwrap();
        prop_assert_eq!(folio.order(), order);
        let mut model = Model::new(folio.len(), 1 << block);
        for step in steps {
            apply(&mut folio, &mut model, step);
            compare(&folio, &cache, &model);
        }
    }
}
