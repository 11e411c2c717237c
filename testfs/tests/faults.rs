//! Each request of the device and each allocation fails in turn, in every workload.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]

use std::ops::Range;

use testfs::crash::record::Bed;
use testfs::crash::workload::ALL;
use testfs::faults::enumerate;

/// Every `step`-th fault of these seeds of each workload. Returns how many struck.
fn every_workload(seeds: Range<u64>, step: u64) -> Result<u64, Vec<String>> {
    let bed = |size, block, pool: &_| Bed::new(size, block, pool).map_err(|what| vec![what]);
    let pool = testfs::crash::pool().map_err(|what| vec![what])?;
    let beds = [bed(1 << 20, 1024, &pool)?, bed(2 << 20, 4096, &pool)?];
    let (mut struck, mut wrong) = (0, Vec::new());
    for seed in seeds {
        let bed = &beds[(seed / 2 % 2) as usize];
        for workload in ALL {
            match enumerate(bed, &workload.ops(seed), step, seed, &pool) {
                Ok(summary) => struck += summary.struck,
                Err(what) => wrong.push(format!("{} {seed}: {what}", workload.name)),
            }
        }
    }
    if wrong.is_empty() {
        Ok(struck)
    } else {
        Err(wrong)
    }
}

#[test]
fn whatever_fails_is_told_and_nothing_else_is_lost() {
    match every_workload(0..4, 7) {
        Ok(struck) => assert!(struck > 300, "{struck} faults"),
        Err(wrong) => panic!("{}", wrong.join("\n")),
    }
}

#[test]
#[ignore = "takes minutes: part of the long form"]
fn whatever_fails_one_after_the_other_is_told() {
    match every_workload(100..140, 1) {
        Ok(struck) => assert!(struck > 10_000, "{struck} faults"),
        Err(wrong) => panic!("{}", wrong.join("\n")),
    }
}
