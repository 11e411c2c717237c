//! The tree against an ordered map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::Walk;
use crate::format::item::BadItem;
use crate::format::{Ino, Key, Kind};
use crate::meta::testing::{new_fs, reopen};
use crate::meta::{Meta, Purpose};

type Model = BTreeMap<Key, Vec<u8>>;

#[derive(Clone, Debug)]
enum Step {
    Insert(Key, usize, u8),
    Remove(Key),
    /// Removes everything in a range, as deleting a file does.
    RemoveRange(Key, Key),
    Fail(Key),
    Commit,
    Reopen,
}

fn key() -> impl Strategy<Value = Key> {
    // Two neighbourhoods, so that keys meet again; one far away.
    (0u64..3, 0u64..400).prop_map(|(ino, offset)| {
        let ino = if ino == 2 { u64::MAX } else { 100 + ino };
        Key::new(Ino::new(ino), Kind::Symlink, offset)
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (key(), 0usize..400, any::<u8>()).prop_map(|(k, n, b)| Step::Insert(k, n, b)),
        6 => key().prop_map(Step::Remove),
        1 => (key(), key()).prop_map(|(a, b)| Step::RemoveRange(a.min(b), a.max(b))),
        1 => key().prop_map(Step::Fail),
        1 => Just(Step::Commit),
        1 => Just(Step::Reopen),
    ]
}

fn contents(meta: &Meta) -> Model {
    let mut found = Model::new();
    meta.read(|view| {
        let bytes = |value: &[u8]| Ok::<_, BadItem>(value.to_vec());
        let from = Key::new(Ino::new(2), Kind::Inode, 0);
        view.walk(from, Key::MAX, bytes, |key, value| {
            found.insert(key, value);
            Ok(Walk::On)
        })
    })
    .unwrap();
    found
}

fn same(meta: &Meta, model: &Model, probe: Key) -> Result<(), TestCaseError> {
    prop_assert_eq!(&contents(meta), model);
    let bytes = |value: &[u8]| Ok::<_, BadItem>(value.to_vec());
    let (lo, hi) = (Key::new(Ino::new(2), Kind::Inode, 0), Key::MAX);
    let (got, after, before) = meta
        .read(|view| {
            Ok((
                view.get(&probe, bytes)?,
                view.first(probe, hi, bytes)?,
                view.last(lo, probe, bytes)?,
            ))
        })
        .unwrap();
    let own = |(k, v): (&Key, &Vec<u8>)| (*k, v.clone());
    prop_assert_eq!(got, model.get(&probe).cloned());
    prop_assert_eq!(after, model.range(probe..).next().map(own));
    prop_assert_eq!(before, model.range(..=probe).next_back().map(own));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn agrees_with_an_ordered_map(
        steps in prop::collection::vec(step(), 1..250),
        probe in key(),
        block_bits in 10u32..13,
    ) {
        let (device, mut meta) = new_fs(1 << block_bits, 4096);
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Insert(key, len, byte) => {
                    let value = vec![byte; len];
                    meta.update(Purpose::Normal, |txn| txn.insert(key, &value)).unwrap();
                    model.insert(key, value);
                }
                Step::Remove(key) => {
                    let there = meta.update(Purpose::Must, |txn| txn.remove(&key)).unwrap();
                    prop_assert_eq!(there, model.remove(&key).is_some());
                }
                Step::RemoveRange(from, to) => {
                    let keys: Vec<Key> = model.range(from..=to).map(|(k, _)| *k).collect();
                    for key in keys {
                        meta.update(Purpose::Must, |txn| txn.remove_known(&key)).unwrap();
                        model.remove(&key);
                    }
                }
                Step::Fail(key) => {
                    let failed = meta.update(Purpose::Normal, |txn| {
                        txn.insert(key, b"never seen")?;
                        txn.remove(&probe)?;
                        Err::<(), _>(iomap_core::error::FsError::Interrupted)
                    });
                    prop_assert!(failed.is_err());
                }
                Step::Commit => {
                    meta.commit().unwrap();
                }
                Step::Reopen => {
                    meta.commit().unwrap();
                    meta = reopen(&device);
                }
            }
        }
        same(&meta, &model, probe)?;
        meta.commit().unwrap();
        same(&reopen(&device), &model, probe)?;
    }
}

#[test]
fn a_big_tree_shrinks_back_to_one_leaf() {
    let (_, meta) = new_fs(1024, 8192);
    let before = meta.statfs();
    let key = |n: u64| Key::new(Ino::new(7), Kind::Symlink, n.wrapping_mul(7919) % 5003);
    for n in 0..5003 {
        meta.update(Purpose::Normal, |txn| txn.insert(key(n), &[1; 100]))
            .unwrap();
    }
    assert!(meta.state.read().version.tree.level() >= 2);
    for n in 0..5003 {
        meta.update(Purpose::Must, |txn| txn.remove_known(&key(n)))
            .unwrap();
    }
    meta.commit().unwrap();
    assert_eq!(meta.state.read().version.tree.level(), 0);
    assert_eq!(meta.statfs(), before);
}
