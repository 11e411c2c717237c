//! What the project promises, as ratios of sides of one run.
//!
//! Owns the table of budgets and the verdicts. Nothing here fails.
//!
//! A verdict is *ahead* or *behind* where the interval of the median ([`Spread::least`] to
//! [`Spread::most`]) lies wholly on one side of the bound and the median is more than a thirtieth away
//! from it; else *even*: this run cannot tell.

use serde::Serialize;

use super::sample::{GroupResult, SideResult, Spread, ratio};

/// How the number of a budget is made from a group.
///
/// Work that never waits is judged by processor time: on a machine with other work it says the same
/// in every run, and alone on a processor it is the wall time.
#[derive(Clone, Copy, Debug)]
enum Measure {
    /// Time of the first side over time of the second; at most the bound.
    Time(&'static str, &'static str),
    /// Processor time of the first side over that of the second; at most the bound.
    Cpu(&'static str, &'static str),
    /// How many times faster the first side is than the second; at least the bound.
    Faster(&'static str, &'static str),
    /// The same in processor time.
    CpuFaster(&'static str, &'static str),
    /// Nanoseconds of processor time that the first side takes more than the second; at most the
    /// bound.
    CpuExtra(&'static str, &'static str),
    /// Speed-up of the first pair (alone, all) over the speed-up of the second; at least the bound.
    Scaling([&'static str; 2], [&'static str; 2]),
}

impl Measure {
    /// The same of another side than ours.
    const fn of(self, side: &'static str) -> Self {
        match self {
            Time(_, base) => Time(side, base),
            Cpu(_, base) => Cpu(side, base),
            Faster(_, base) => Faster(side, base),
            CpuFaster(_, base) => CpuFaster(side, base),
            CpuExtra(_, base) => CpuExtra(side, base),
            Scaling(_, base) => Scaling([side; 2], base),
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
struct Budget {
    text: &'static str,
    group: &'static str,
    measure: Measure,
    bound: f64,
    /// A side that nothing can be faster than: its own number is told beside ours.
    floor: Option<&'static str>,
}

impl Budget {
    const fn beside(mut self, floor: &'static str) -> Self {
        self.floor = Some(floor);
        self
    }
}

const fn row(text: &'static str, group: &'static str, measure: Measure, bound: f64) -> Budget {
    Budget {
        text,
        group,
        measure,
        bound,
        floor: None,
    }
}

use Measure::{Cpu, CpuExtra, CpuFaster, Faster, Scaling, Time};

const READ: &str = "cached-read/4 KiB/256 MiB";
const READ_SMALL: &str = "cached-read/4 KiB/256 MiB, 4 KiB folios";
const READ_HOT: &str = "cached-read/4 KiB/hot";
const OVERWRITE: &str = "cached-overwrite/4 KiB/256 MiB";
const TWO: &str = "scaling/cached read 4 KiB/2 threads, one file";
const ONE: &str = "direct/read 4 KiB, 1 in flight";
const MANY: &str = "direct/read 4 KiB, 32 in flight";
const WRITE_SYNC: &str = "stream/write 1 MiB + fsync";
const COLD: &str = "stream/cold read 1 MiB";

/// The budgets of `DESIGN.md` section 8 that this runner measures; those of mounts, and those that
/// cannot be measured yet, are below.
const BUDGETS: &[Budget] = &[
    row(
        "cached 4 KiB read, 256 MiB: at most 1.25 x memcpy",
        READ,
        Cpu("iomap-core", "memcpy"),
        1.25,
    ),
    row(
        "cached 4 KiB read, 256 MiB: at least 2.5 x faster than pread",
        READ,
        CpuFaster("iomap-core", "kernel"),
        2.5,
    )
    .beside("memcpy"),
    row(
        "the same in 4 KiB folios: at least 1.7 x faster than pread",
        READ_SMALL,
        CpuFaster("iomap-core", "kernel"),
        1.7,
    )
    .beside("memcpy"),
    row(
        "hot 4 KiB read: at most memcpy + 25 ns",
        READ_HOT,
        CpuExtra("iomap-core", "memcpy"),
        25.0,
    ),
    row(
        "two threads on one file: at least 0.9 of memcpy's own scaling",
        TWO,
        Scaling(
            ["iomap-core, 1", "iomap-core, all"],
            ["memcpy, 1", "memcpy, all"],
        ),
        0.9,
    ),
    row(
        "cached 4 KiB overwrite: at most 1.35 x memcpy",
        OVERWRITE,
        Cpu("iomap-core", "memcpy"),
        1.35,
    ),
    row(
        "cached 4 KiB overwrite: at least 3 x faster than ext4",
        OVERWRITE,
        CpuFaster("iomap-core", "kernel ext4"),
        3.0,
    )
    .beside("memcpy"),
    row(
        "cached 4 KiB overwrite: at least 3 x faster than xfs",
        OVERWRITE,
        CpuFaster("iomap-core", "kernel xfs"),
        3.0,
    )
    .beside("memcpy"),
    row(
        "stream write + fsync: at least 0.9 of the raw bandwidth",
        WRITE_SYNC,
        Faster("testfs", "raw io_uring"),
        0.9,
    ),
    row(
        "cold stream read: at least 0.95 of the raw bandwidth",
        COLD,
        Faster("testfs buffered", "raw io_uring"),
        0.95,
    ),
    row(
        "direct 4 KiB, one at a time: at most 1.05 x pread",
        ONE,
        Time("iomap-core", "pread O_DIRECT"),
        1.05,
    ),
    row(
        "direct 4 KiB, one at a time, tokio: at most 1.08 x pread",
        ONE,
        Time("tokio", "pread O_DIRECT"),
        1.08,
    )
    .beside("raw ring + tokio"),
    row(
        "direct 4 KiB, 32 in flight: at least 0.97 of the raw ring",
        MANY,
        Faster("iomap-core", "raw io_uring"),
        0.97,
    )
    .beside("raw, any thread"),
    row(
        "direct 4 KiB, 32 in flight: at most 1.15 x its processor time",
        MANY,
        Cpu("iomap-core", "raw io_uring"),
        1.15,
    )
    .beside("raw, any thread"),
    row(
        "lookup: flat to 1 TiB",
        "growth/lookup",
        Cpu("1 TiB", "4 MiB"),
        1.25,
    ),
    row(
        "walk over dirty folios: flat to 1 TiB",
        "growth/walk 64 dirty",
        Cpu("1 TiB", "4 MiB"),
        1.25,
    ),
    row(
        "writeback of few pages: flat to 1 TiB",
        "growth/writeback 64 pages",
        Time("1 TiB", "4 MiB"),
        1.25,
    ),
    row(
        "read fault of a mapping: at most 1.3 x bare userfaultfd",
        "mapping/read fault",
        Time("iomap-core", "userfaultfd"),
        1.3,
    ),
    row(
        "write fault of a mapping: at most 1.3 x bare userfaultfd",
        "mapping/write fault",
        Time("iomap-core", "userfaultfd"),
        1.3,
    ),
    row(
        "write-protect 4096 pages for a commit: at most 1.5 x one ioctl",
        "mapping/write-protect 4096 pages",
        Cpu("commit", "one ioctl"),
        1.5,
    ),
];

/// What mounts are held to: each row of theirs against another file system in user space. Small calls
/// through the cache are what `cache=kernel` is for. `fuse2fs` does not take `O_DIRECT` to the device:
/// its direct rows are answered from the host's memory.
const MOUNTS: [(&str, &str, &str); 8] = [
    (
        "mount, write in order + fsync: at least 3 x faster than fuse2fs",
        "mount/write 1 MiB in order + fsync",
        "iomapfs",
    ),
    (
        "mount, read in order: at least 3 x faster than fuse2fs",
        "mount/read 1 MiB in order",
        "iomapfs",
    ),
    (
        "mount cache=kernel, write 4 KiB: at least 3 x faster",
        "mount/write 4 KiB",
        "iomapfs, cache=kernel",
    ),
    (
        "mount cache=kernel, read 4 KiB: at least 3 x faster",
        "mount/read 4 KiB",
        "iomapfs, cache=kernel",
    ),
    (
        "mount, write 4 KiB direct: at least 3 x faster (of memory)",
        "mount/write 4 KiB, direct",
        "iomapfs",
    ),
    (
        "mount, read 4 KiB direct: at least 3 x faster (of memory)",
        "mount/read 4 KiB, direct",
        "iomapfs",
    ),
    (
        "mount, create: at least 3 x faster than fuse2fs",
        "mount/create files",
        "iomapfs",
    ),
    (
        "mount, list: at least 3 x faster than fuse2fs",
        "mount/list files",
        "iomapfs",
    ),
];

/// Promises about a part of the product that this workspace does not have: time against kernel ext4 on
/// a loop device, at most.
const EXT4: [(&str, f64); 6] = [
    ("ext4 image, write in order: at most 0.3 x kernel ext4", 0.3),
    (
        "ext4 image, read in order: at most 0.15 x kernel ext4",
        0.15,
    ),
    (
        "ext4 image, 20000 random 4 KiB + sync: at most 0.5 x kernel ext4",
        0.5,
    ),
    ("ext4 image, cached re-read: at most 0.4 x kernel ext4", 0.4),
    (
        "ext4 image, create 10000 files: at most 1.5 x kernel ext4",
        1.5,
    ),
    ("ext4 image, list: at most 0.2 x kernel ext4", 0.2),
];

fn all_budgets() -> impl Iterator<Item = Budget> {
    let mount =
        |(text, group, side)| row(text, group, Faster(side, "fuse2fs"), 3.0).beside("kernel ext4");
    BUDGETS.iter().copied().chain(MOUNTS.into_iter().map(mount))
}

/// Whether a budget holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It holds.
    Ahead,
    /// It does not.
    Behind,
    /// Within the noise of the run.
    Even,
    /// One of its sides has no number.
    NotMeasured,
}

impl Verdict {
    /// As in the tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ahead => "ahead",
            Self::Behind => "behind",
            Self::Even => "even",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A budget beside what was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// What is promised.
    pub text: &'static str,
    /// The group it is measured in.
    pub group: &'static str,
    /// The bound.
    pub bound: f64,
    /// Whether the measured number must not be below the bound; else it must not be above.
    pub at_least: bool,
    /// The number, with its spread over the rounds.
    pub measured: Option<Spread>,
    /// The number of a side that nothing can be faster than, where the bound is against something
    /// else: a bound beyond it cannot be met on this machine.
    pub floor: Option<(&'static str, f64)>,
    /// Whether it holds.
    pub verdict: Verdict,
    /// The median is less than a tenth away from the bound: another run may say otherwise.
    pub close: bool,
    /// Why there is no number.
    pub missing: Option<String>,
}

impl Judged {
    const fn unmeasured(text: &'static str, group: &'static str, bound: f64) -> Self {
        Self {
            text,
            group,
            bound,
            at_least: false,
            measured: None,
            floor: None,
            verdict: Verdict::NotMeasured,
            close: false,
            missing: None,
        }
    }

    /// What there is to say beside the number: why there is none, how sure the verdict is, and what
    /// no implementation could do better.
    #[must_use]
    pub fn note(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.missing.clone());
        if self.close {
            parts.push("within a tenth of the bound".to_owned());
        }
        if let Some((name, number)) = self.floor {
            parts.push(format!("{name} itself {number:.2}"));
        }
        parts.join(", ")
    }
}

/// Judges every budget by `results`.
#[must_use]
pub fn judge(results: &[GroupResult]) -> Vec<Judged> {
    let ext4 = EXT4.map(|(text, bound)| Judged {
        missing: Some("there is no ext4 in this workspace".to_owned()),
        ..Judged::unmeasured(text, "ext4", bound)
    });
    let judged = all_budgets().map(|b| judge_one(&b, results));
    judged.chain(ext4).collect()
}

fn judge_one(budget: &Budget, results: &[GroupResult]) -> Judged {
    let at_least = matches!(budget.measure, Faster(..) | CpuFaster(..) | Scaling(..));
    let group = results
        .iter()
        .find(|g| g.id == budget.group)
        .ok_or_else(|| "not part of this run".to_owned());
    let measured = group
        .clone()
        .and_then(|group| measure(budget.measure, group));
    let floor = group.ok().and_then(|group| {
        let name = budget.floor?;
        let spread = measure(budget.measure.of(name), group).ok()?;
        Some((name, spread.median))
    });
    let mut judged = Judged {
        at_least,
        floor,
        ..Judged::unmeasured(budget.text, budget.group, budget.bound)
    };
    match measured {
        Err(why) => judged.missing = Some(why),
        Ok(spread) => {
            judged.verdict = verdict(&spread, budget.bound, at_least);
            judged.close = (spread.median / budget.bound - 1.0).abs() < 0.1;
            judged.measured = Some(spread);
        }
    }
    judged
}

/// See the head of the module.
fn verdict(spread: &Spread, bound: f64, at_least: bool) -> Verdict {
    let inside = spread.least <= bound && bound <= spread.most;
    let close = (spread.median / bound - 1.0).abs() <= 1.0 / 30.0;
    if inside || close {
        Verdict::Even
    } else if (spread.median > bound) == at_least {
        Verdict::Ahead
    } else {
        Verdict::Behind
    }
}

/// Whether more rounds would say nothing new about the budgets of a group: each median is known to a
/// fiftieth, or is more than a tenth away from its bound for sure.
#[must_use]
pub fn settled(group: &GroupResult) -> bool {
    let mut spreads = all_budgets()
        .filter(|b| b.group == group.id)
        .filter_map(|b| Some((measure(b.measure, group).ok()?, b.bound)));
    spreads.all(|(s, bound)| s.is_narrow() || s.most < 0.9 * bound || s.least > 1.1 * bound)
}

fn measure(measure: Measure, group: &GroupResult) -> Result<Spread, String> {
    let side = |name: &str| side(group, name);
    Ok(match measure {
        Time(a, b) => ratio(&side(a)?.rounds, &side(b)?.rounds),
        Cpu(a, b) => ratio(&side(a)?.cpu_rounds, &side(b)?.cpu_rounds),
        Faster(a, b) => ratio(&side(b)?.rounds, &side(a)?.rounds),
        CpuFaster(a, b) => ratio(&side(b)?.cpu_rounds, &side(a)?.cpu_rounds),
        CpuExtra(a, b) => {
            let (a, b) = (&side(a)?.cpu_rounds, &side(b)?.cpu_rounds);
            Spread::of(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
        }
        Scaling(ours, base) => {
            let speed_up = |[one, all]: [&str; 2]| -> Result<Vec<f64>, String> {
                let (one, all) = (side(one)?, side(all)?);
                Ok(one
                    .rounds
                    .iter()
                    .zip(&all.rounds)
                    .map(|(o, a)| o / a)
                    .collect())
            };
            ratio(&speed_up(ours)?, &speed_up(base)?)
        }
    })
}

fn side<'a>(group: &'a GroupResult, name: &str) -> Result<&'a SideResult, String> {
    group.side(name).ok_or_else(|| {
        let why = group.sides.iter().find(|s| s.name == name);
        let why = why
            .and_then(|s| s.missing.as_deref())
            .unwrap_or("no such row");
        format!("{name}: {why}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Effort, cases};

    fn result(id: &str, sides: &[(&'static str, f64)]) -> GroupResult {
        let sides = sides
            .iter()
            .map(|&(name, ns)| SideResult {
                name,
                role: crate::compare::Role::Ours,
                missing: None,
                ns: Some(Spread::of(&[ns])),
                cpu_ns: Some(Spread::of(&[ns])),
                device: Default::default(),
                served: 0,
                rounds: vec![ns; 3],
                cpu_rounds: vec![ns; 3],
            })
            .collect();
        GroupResult {
            id: id.into(),
            operation: String::new(),
            excludes: "",
            bytes: 0,
            plot: None,
            sides,
        }
    }

    fn verdict_of(text: &str, results: &[GroupResult]) -> Judged {
        let judged = judge(results);
        judged
            .into_iter()
            .find(|j| j.text == text)
            .expect("in the table")
    }

    #[test]
    fn every_budget_names_a_group_of_the_quick_run_and_sides_it_has() {
        for budget in all_budgets() {
            let case = cases::all(Effort::QUICK)
                .into_iter()
                .find(|c| c.id == budget.group)
                .unwrap_or_else(|| panic!("no group {}", budget.group));
            let names: Vec<_> = case.group().sides.iter().map(|s| s.name).collect();
            let wanted = match budget.measure {
                Time(a, b) | Cpu(a, b) | Faster(a, b) | CpuFaster(a, b) | CpuExtra(a, b) => {
                    vec![a, b]
                }
                Scaling(a, b) => [a, b].concat(),
            };
            for name in wanted.into_iter().chain(budget.floor) {
                assert!(names.contains(&name), "{}: no side {name}", budget.group);
            }
        }
    }

    #[test]
    fn what_cannot_be_measured_is_listed_with_the_reason() {
        let judged = verdict_of(EXT4[0].0, &[]);
        assert_eq!(judged.verdict, Verdict::NotMeasured);
        assert_eq!(judged.note(), "there is no ext4 in this workspace");
    }

    #[test]
    fn bounds_are_upper_for_time_and_lower_for_speed() {
        let results = [
            result(
                READ,
                &[("iomap-core", 130.0), ("memcpy", 100.0), ("kernel", 390.0)],
            ),
            result(READ_HOT, &[("iomap-core", 70.0), ("memcpy", 50.0)]),
        ];
        let time = verdict_of(BUDGETS[0].text, &results);
        assert_eq!(time.verdict, Verdict::Behind);
        let level = |ns| result(READ, &[("iomap-core", ns), ("memcpy", 100.0)]);
        let level = |ns| verdict_of(BUDGETS[0].text, &[level(ns)]).verdict;
        assert_eq!(level(127.0), Verdict::Even, "less than a thirtieth away");
        assert_eq!(level(119.0), Verdict::Ahead);
        assert!(time.close, "1.30 is within a tenth of 1.25");
        let faster = verdict_of(BUDGETS[1].text, &results);
        assert_eq!(faster.verdict, Verdict::Ahead);
        assert!(!faster.close, "3.0 is more than a tenth above 2.5");
        let (name, floor) = faster.floor.expect("memcpy was measured");
        assert_eq!(name, "memcpy");
        assert!(
            (floor - 3.9).abs() < 1e-9,
            "memcpy itself is 3.9 times faster"
        );
        let extra = verdict_of("hot 4 KiB read: at most memcpy + 25 ns", &results);
        assert_eq!(extra.verdict, Verdict::Ahead);
        assert!((extra.measured.expect("both sides").median - 20.0).abs() < 1e-9);
    }

    #[test]
    fn an_interval_that_holds_the_bound_is_no_verdict_and_asks_for_more_rounds() {
        let wide: Vec<f64> = (0..11).map(|n| 1.0 + 0.1 * f64::from(n)).collect();
        assert_eq!(verdict(&Spread::of(&wide), 1.4, false), Verdict::Even);
        assert_eq!(verdict(&Spread::of(&wide), 1.05, false), Verdict::Behind);
        assert_eq!(verdict(&Spread::of(&wide), 1.05, true), Verdict::Ahead);
        let mut group = result(READ, &[("iomap-core", 1.0), ("memcpy", 1.0)]);
        assert!(settled(&group), "all rounds say the same");
        group.sides[0].cpu_rounds.clone_from(&wide);
        group.sides[1].cpu_rounds = vec![1.0; 11];
        assert!(!settled(&group));
        group.sides[1].cpu_rounds = vec![0.5; 11];
        assert!(settled(&group), "behind whatever the rest says");
    }

    #[test]
    fn scaling_compares_speed_ups_and_a_missing_side_is_told() {
        let whole = result(
            TWO,
            &[
                ("iomap-core, 1", 100.0),
                ("iomap-core, all", 60.0),
                ("memcpy, 1", 90.0),
                ("memcpy, all", 45.0),
            ],
        );
        let text = "two threads on one file: at least 0.9 of memcpy's own scaling";
        let judged = verdict_of(text, &[whole]);
        assert_eq!(judged.verdict, Verdict::Behind);
        let judged = verdict_of(text, &[result(TWO, &[("memcpy, 1", 1.0)])]);
        assert_eq!(judged.verdict, Verdict::NotMeasured);
        assert_eq!(
            judged.missing.as_deref(),
            Some("iomap-core, 1: no such row")
        );
        let judged = verdict_of(text, &[]);
        assert_eq!(judged.missing.as_deref(), Some("not part of this run"));
    }
}
