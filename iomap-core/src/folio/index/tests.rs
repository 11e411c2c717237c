//! The tree against an ordered map, with folios of every order.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Nodes from the heap, with a count of those in use.
#[derive(Default)]
struct Heap {
    nodes: RefCell<Vec<&'static Node>>,
    free: RefCell<Vec<u32>>,
    places: RefCell<BTreeMap<u32, (u64, u32)>>,
}

impl Heap {
    /// Says where folio `id` lies, before it is inserted.
    fn lay(&self, id: u32, at: u64, order: u32) -> u32 {
        self.places.borrow_mut().insert(id, (at, order));
        id
    }

    fn in_use(&self) -> usize {
        self.nodes.borrow().len() - self.free.borrow().len()
    }
}

impl NodeSource for Heap {
    fn node(&self, id: u32) -> &'static Node {
        self.nodes.borrow()[id as usize - 1]
    }

    fn alloc_node(&self) -> Option<u32> {
        if let Some(id) = self.free.borrow_mut().pop() {
            self.node(id).take_free_link();
            return Some(id);
        }
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Box::leak(Box::default()));
        Some(nodes.len() as u32)
    }

    fn free_node(&self, id: u32) {
        assert_eq!(self.node(id).used(), 0);
        for mark in Mark::ALL {
            assert_eq!(self.node(id).mark(mark), 0, "a free node with marks");
        }
        self.node(id).set_free_link(77);
        self.free.borrow_mut().push(id);
    }

    fn place(&self, id: u32) -> (u64, u32) {
        self.places.borrow()[&id]
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u32),
    Remove(usize),
    Mark(usize, Mark, bool),
}

fn position() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..600,
        2 => 3900u64..4300,
        1 => (1u64 << 40)..(1 << 40) + 2000,
        1 => (1u64 << 51) - 1500..1 << 51,
    ]
}

fn mark() -> impl Strategy<Value = Mark> {
    prop_oneof![
        Just(Mark::Dirty),
        Just(Mark::ToWrite),
        Just(Mark::Writeback)
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (position(), 0u32..=9).prop_map(|(at, order)| Step::Insert(at >> order << order, order)),
        2 => any::<usize>().prop_map(Step::Remove),
        4 => (any::<usize>(), mark(), any::<bool>()).prop_map(|(at, mark, on)| Step::Mark(at, mark, on)),
    ]
}

#[derive(Clone, Copy)]
struct Entry {
    order: u32,
    id: u32,
    marks: u32,
}

type Model = BTreeMap<u64, Entry>;

fn model_next(model: &Model, from: u64, mark: Option<Mark>) -> Option<(u64, u32)> {
    let wanted = |e: &Entry| mark.is_none_or(|mark| e.marks & mark.bit() != 0);
    model
        .iter()
        .find(|(at, e)| **at + (1 << e.order) > from && wanted(e))
        .map(|(at, e)| ((*at).max(from), e.id))
}

fn check(guard: &IndexGuard<'_, Heap>, model: &Model, probe: u64) {
    let holder = model_next(model, probe, None)
        .filter(|(at, _)| *at == probe)
        .map(|(_, id)| id);
    assert_eq!(guard.get(probe), holder);
    for mark in [None].into_iter().chain(Mark::ALL.map(Some)) {
        assert_eq!(
            guard.next(probe, u64::MAX, mark),
            model_next(model, probe, mark)
        );
    }
    let marks = model.values().fold(0, |bits, e| bits | e.marks);
    assert_eq!(guard.marks(), marks);
    if probe < 1 << 51 {
        let fit = (0..=9).rev().find(|order| {
            let start = probe >> order << order;
            model_next(model, start, None).is_none_or(|(at, _)| at >= start + (1 << order))
        });
        assert_eq!(guard.fit(probe, 9), fit);
    }
}

proptest! {
    #[test]
    fn the_tree_does_what_an_ordered_map_does(
        steps in prop::collection::vec((step(), position()), 1..150)
    ) {
        let heap = Heap::default();
        let index = Index::new();
        let mut model = Model::new();
        for (n, (step, probe)) in steps.into_iter().enumerate() {
            let mut guard = index.lock(&heap);
            match step {
                Step::Insert(at, order) => {
                    let free = model_next(&model, at, None)
                        .is_none_or(|(next, _)| next >= at + (1 << order));
                    let id = n as u32 + 1;
                    let inserted = guard.insert(at, order, heap.lay(id, at, order));
                    prop_assert_eq!(inserted.is_ok(), free);
                    if free {
                        model.insert(at, Entry { order, id, marks: 0 });
                    }
                }
                Step::Remove(pick) if !model.is_empty() => {
                    let (at, entry) = model.iter().nth(pick % model.len()).unwrap();
                    let (at, order) = (*at, entry.order);
                    guard.remove(at, order);
                    model.remove(&at);
                }
                Step::Mark(pick, mark, on) if !model.is_empty() => {
                    let pick = pick % model.len();
                    let (at, entry) = model.iter_mut().nth(pick).unwrap();
                    if on {
                        guard.set_mark(*at, entry.order, mark);
                        entry.marks |= mark.bit();
                    } else {
                        guard.clear_mark(*at, entry.order, mark);
                        entry.marks &= !mark.bit();
                    }
                }
                Step::Remove(_) | Step::Mark(..) => {}
            }
            check(&guard, &model, probe);
            check(&guard, &model, 0);
        }
        let mut guard = index.lock(&heap);
        for (at, entry) in &model {
            guard.remove(*at, entry.order);
        }
        prop_assert_eq!(heap.in_use(), 0, "nodes leaked");
        prop_assert_eq!(guard.next(0, u64::MAX, None), None);
    }
}

#[test]
fn an_insertion_without_nodes_leaves_nothing_behind() {
    /// Runs out after some nodes.
    struct Scarce(Heap, std::cell::Cell<u32>);
    impl NodeSource for Scarce {
        fn node(&self, id: u32) -> &'static Node {
            self.0.node(id)
        }
        fn alloc_node(&self) -> Option<u32> {
            let left = self.1.get().checked_sub(1)?;
            self.1.set(left);
            self.0.alloc_node()
        }
        fn free_node(&self, id: u32) {
            self.0.free_node(id);
        }
        fn place(&self, id: u32) -> (u64, u32) {
            self.0.place(id)
        }
    }
    for nodes in 0..6 {
        let heap = Scarce(Heap::default(), std::cell::Cell::new(nodes));
        let index = Index::new();
        let mut guard = index.lock(&heap);
        let far = 1 << 36;
        let first = guard.insert(5, 0, heap.0.lay(1, 5, 0));
        let second = guard.insert(far, 0, heap.0.lay(2, far, 0));
        assert_eq!(first.is_ok(), nodes >= 1);
        assert_eq!(second, Err(InsertError::NoMemory));
        assert_eq!(guard.get(5).is_some(), nodes >= 1);
        assert_eq!(guard.get(far), None);
        assert_eq!(guard.next(6, u64::MAX, None), None);
        if first.is_ok() {
            guard.remove(5, 0);
        }
        drop(guard);
        assert_eq!(heap.0.in_use(), 0);
    }
}

#[test]
fn lookups_beside_changes_find_what_stays() {
    // The tree grows, shrinks and is searched at once; one entry stays all the time.
    struct Shared(std::sync::Mutex<Vec<u32>>, Vec<Node>, AtomicU64);
    impl NodeSource for &'static Shared {
        fn node(&self, id: u32) -> &'static Node {
            &self.1[id as usize]
        }
        fn alloc_node(&self) -> Option<u32> {
            let id = self.0.lock().unwrap().pop()?;
            self.node(id).take_free_link();
            Some(id)
        }
        fn free_node(&self, id: u32) {
            self.node(id).set_free_link(0);
            self.0.lock().unwrap().push(id);
        }
        fn place(&self, id: u32) -> (u64, u32) {
            let at = if id == 7 {
                self.2.load(Ordering::Relaxed)
            } else {
                9
            };
            (at, 0)
        }
    }
    let nodes: &'static Shared = Box::leak(Box::new(Shared(
        std::sync::Mutex::new((1..64).collect()),
        (0..64).map(|_| Node::default()).collect(),
        AtomicU64::new(0),
    )));
    let index = Index::new();
    index.lock(&nodes).insert(9, 0, 1234).unwrap();
    std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            for n in 0..20_000u64 {
                let at = 64 << (n % 30);
                nodes.2.store(at, Ordering::Relaxed);
                index.lock(&nodes).insert(at, 0, 7).unwrap();
                index.lock(&nodes).remove(at, 0);
            }
        });
        while !changer.is_finished() {
            // Without the lock a lookup may miss, or find another's: never anything else.
            if let Some(id) = index.lookup(&nodes, 9) {
                assert!(id == 1234 || id == 7);
            }
            assert_eq!(index.lock(&nodes).get(9), Some(1234));
        }
    });
}

#[test]
fn a_folio_alone_in_its_part_of_the_file_needs_no_node() {
    let heap = Heap::default();
    let index = Index::new();
    let mut guard = index.lock(&heap);
    for n in 1..16u32 {
        let at = u64::from(n) << 24;
        guard.insert(at, 0, heap.lay(n, at, 0)).unwrap();
        guard.set_mark(at, 0, Mark::Dirty);
    }
    assert_eq!(heap.in_use(), 1, "the root");
    // A neighbour takes the nodes down to both; marks go with the one that was alone.
    let beside = (3 << 24) + 1;
    guard.insert(beside, 0, heap.lay(16, beside, 0)).unwrap();
    assert_eq!(heap.in_use(), 5);
    assert_eq!(guard.get(beside), Some(16));
    assert_eq!(guard.get(beside - 1), Some(3));
    assert_eq!(guard.get(beside + 1), None);
    assert!(guard.has_mark(beside - 1, 0, Mark::Dirty));
    assert!(!guard.has_mark(beside, 0, Mark::Dirty));
}
