//! Timing: rounds, interleaved sides, medians and paired ratios.
//!
//! Owns the clock and the statistics. Does not know what is measured.

use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::{Effort, Group, Ops, Role, Work};

/// Measures wall time, processor time of the whole process, and bytes moved by block devices for it.
/// Stopped when made; may run several times.
#[derive(Debug, Default)]
pub struct Clock {
    running: Option<(Instant, Duration, DeviceBytes)>,
    wall: Duration,
    cpu: Duration,
    device: DeviceBytes,
}

impl Clock {
    /// Starts.
    pub fn start(&mut self) {
        let device = DeviceBytes::now();
        self.running = Some((Instant::now(), process_time(), device));
    }

    /// Stops, and adds what passed since the start.
    pub fn stop(&mut self) {
        if let Some((wall, cpu, device)) = self.running.take() {
            self.wall += wall.elapsed();
            self.cpu += process_time().saturating_sub(cpu);
            self.device.add(DeviceBytes::now().since(device));
        }
    }

    /// Takes times that another program measured.
    pub fn record(&mut self, wall: Duration, cpu: Duration) {
        self.wall += wall;
        self.cpu += cpu;
    }
}

/// Processor time of all threads of this process.
fn process_time() -> Duration {
    time_of(ClockId::ProcessCPUTime)
}

/// Processor time of this thread.
pub(super) fn thread_time() -> Duration {
    time_of(ClockId::ThreadCPUTime)
}

fn time_of(clock: ClockId) -> Duration {
    let t = clock_gettime(clock);
    Duration::new(
        u64::try_from(t.tv_sec).unwrap_or(0),
        u32::try_from(t.tv_nsec).unwrap_or(0),
    )
}

/// Puts the calling thread on the `n`th processor that it may use, counted round and round.
pub(super) fn pin(n: usize) {
    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| allowed.is_set(*cpu))
        .collect();
    let mut one = CpuSet::new();
    one.set(allowed[n % allowed.len().max(1)]);
    // Where it is not allowed, the scheduler decides.
    let _ = sched_setaffinity(None, &one);
}

/// Bytes that the kernel's block layer moved for this process (`/proc/self/io`); zero where it does
/// not say.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct DeviceBytes {
    /// Read from storage.
    pub read: u64,
    /// Written to storage, or dirtied in the kernel's page cache.
    pub written: u64,
}

impl DeviceBytes {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        let field = |name: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
                .unwrap_or(0)
        };
        Self {
            read: field("read_bytes:"),
            written: field("write_bytes:"),
        }
    }

    const fn since(self, before: Self) -> Self {
        Self {
            read: self.read.saturating_sub(before.read),
            written: self.written.saturating_sub(before.written),
        }
    }

    const fn add(&mut self, more: Self) {
        self.read += more.read;
        self.written += more.written;
    }
}

/// Three points of a distribution, and how well its middle is known.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// A quarter of the values is below.
    pub low: f64,
    /// Half of the values is below.
    pub median: f64,
    /// A quarter of the values is above.
    pub high: f64,
    /// With 95 % confidence the true median is not below.
    pub least: f64,
    /// With 95 % confidence the true median is not above.
    pub most: f64,
}

impl Spread {
    /// Of `values`; all zero if there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let ranks = median_ranks(sorted.len());
        Self {
            low: quantile(&sorted, 0.25),
            median: quantile(&sorted, 0.5),
            high: quantile(&sorted, 0.75),
            least: sorted.get(ranks.0).copied().unwrap_or(0.0),
            most: sorted.get(ranks.1).copied().unwrap_or(0.0),
        }
    }

    /// Whether the median is known to a fiftieth.
    #[must_use]
    pub fn is_narrow(&self) -> bool {
        self.most - self.least <= 0.04 * self.median.abs()
    }
}

/// The ranks, from 0, between which the median of a distribution lies with 95 % confidence, by
/// `count` values of it. Whatever the distribution: each value is above the median or not, as a coin
/// falls.
fn median_ranks(count: usize) -> (usize, usize) {
    let half = count as f64 / 2.0;
    let reach = 1.96 * half.sqrt() / std::f64::consts::SQRT_2;
    let low = ((half - reach).round() - 1.0).max(0.0) as usize;
    (low, count.saturating_sub(1).saturating_sub(low))
}

/// The value at `q` of sorted values, interpolated.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let at = q * last as f64;
    let below = at.floor();
    let (low, high) = (sorted[below as usize], sorted[at.ceil() as usize]);
    low + (high - low) * (at - below)
}

/// What one side did.
#[derive(Clone, Debug, Serialize)]
pub struct SideResult {
    /// Its name in the group.
    pub name: &'static str,
    /// What it is for.
    pub role: Role,
    /// Why there is no number, if there is none.
    pub missing: Option<String>,
    /// Nanoseconds of wall time for one operation.
    pub ns: Option<Spread>,
    /// Nanoseconds of processor time, of all threads, for one operation.
    pub cpu_ns: Option<Spread>,
    /// Block device bytes of all rounds.
    pub device: DeviceBytes,
    /// Bytes served in all rounds.
    pub served: u64,
    /// Wall nanoseconds for one operation, round by round.
    pub rounds: Vec<f64>,
    /// Processor nanoseconds for one operation, round by round.
    pub cpu_rounds: Vec<f64>,
}

/// What a group gave.
#[derive(Clone, Debug, Serialize)]
pub struct GroupResult {
    /// The group's name.
    pub id: String,
    /// What one operation is.
    pub operation: String,
    /// What is left out.
    pub excludes: &'static str,
    /// Bytes one operation serves.
    pub bytes: u64,
    /// Where it is drawn.
    pub plot: Option<super::Plot>,
    /// Each side, in the order of the group.
    pub sides: Vec<SideResult>,
}

impl GroupResult {
    /// A side that was measured.
    #[must_use]
    pub fn side(&self, name: &str) -> Option<&SideResult> {
        self.sides.iter().find(|s| s.name == name && s.ns.is_some())
    }
}

impl SideResult {
    fn missing(name: &'static str, role: Role, why: String) -> Self {
        Self {
            name,
            role,
            missing: Some(why),
            ns: None,
            cpu_ns: None,
            device: DeviceBytes::default(),
            served: 0,
            rounds: Vec::new(),
            cpu_rounds: Vec::new(),
        }
    }

    /// Bytes a second at the median.
    #[must_use]
    pub fn throughput(&self, bytes: u64) -> Option<f64> {
        let ns = self.ns?.median;
        (bytes > 0 && ns > 0.0).then(|| bytes as f64 * 1e9 / ns)
    }
}

/// Paired ratios `ours / base`, round by round.
#[must_use]
pub fn ratio(ours: &[f64], base: &[f64]) -> Spread {
    let pairs: Vec<f64> = ours
        .iter()
        .zip(base)
        .filter(|(_, b)| **b > 0.0)
        .map(|(a, b)| a / b)
        .collect();
    Spread::of(&pairs)
}

struct Running {
    work: Work,
    ops: u64,
    result: SideResult,
}

/// Runs every side of the group in turns: as many rounds as the effort asks for, then on until
/// `settled` or the effort's limits.
#[must_use]
pub fn run(group: Group, effort: Effort, settled: &dyn Fn(&GroupResult) -> bool) -> GroupResult {
    let mut result = GroupResult {
        id: group.id,
        operation: group.operation,
        excludes: group.excludes,
        bytes: group.bytes,
        plot: group.plot,
        sides: Vec::new(),
    };
    let order: Vec<&'static str> = group.sides.iter().map(|s| s.name).collect();
    let (mut running, mut missing) = (Vec::new(), Vec::new());
    for side in group.sides {
        match (side.setup)().and_then(|work| calibrate(work, group.ops, effort)) {
            Ok((work, ops)) => running.push(Running {
                work,
                ops,
                result: SideResult::missing(side.name, side.role, String::new()),
            }),
            Err(why) => missing.push(SideResult::missing(side.name, side.role, why)),
        }
    }
    let mut begin = Instant::now();
    for round in 0..effort.rounds_max {
        let enough = round >= effort.rounds;
        if round == effort.rounds {
            begin = Instant::now();
        }
        if enough && (settled(&result) || begin.elapsed().as_millis() > effort.group_ms.into()) {
            break;
        }
        one_round(&mut running, (round, enough), group.bytes, &mut missing);
        if round + 1 >= effort.rounds {
            let sides = running.iter().map(|side| finished(&side.result));
            result.sides = sides.chain(missing.iter().cloned()).collect();
            let place = |s: &SideResult| order.iter().position(|n| *n == s.name);
            result.sides.sort_by_key(place);
        }
    }
    result
}

/// Each side once; `beyond` the rounds that every group has, only those that matter for budgets. Who
/// fails goes to the missing.
fn one_round(
    running: &mut Vec<Running>,
    (round, beyond): (usize, bool),
    bytes: u64,
    missing: &mut Vec<SideResult>,
) {
    let mut failed = Vec::new();
    for turn in 0..running.len() {
        let n = (round + turn) % running.len();
        // Other programs take long to start, and no budget is about them.
        if beyond && running[n].result.role == Role::Tool {
            continue;
        }
        if let Err(why) = one_turn(&mut running[n], bytes) {
            failed.push((n, why));
        }
    }
    failed.sort_by_key(|f| std::cmp::Reverse(f.0));
    for (n, why) in failed {
        let gone = running.remove(n).result;
        missing.push(SideResult::missing(gone.name, gone.role, why));
    }
}

/// Warms the side up, and finds how many operations fill a round.
fn calibrate(mut work: Work, ops: Ops, effort: Effort) -> Result<(Work, u64), String> {
    if let Ops::Fixed(ops) = ops {
        work(ops, &mut Clock::default())?;
        return Ok((work, ops));
    }
    let target = effort.round_ms as f64 * 1e6;
    let mut ops = 1;
    loop {
        // The faster of two: one stall must not make a round of a single operation out of it.
        let mut fastest = f64::INFINITY;
        for _ in 0..2 {
            let mut clock = Clock::default();
            work(ops, &mut clock)?;
            fastest = fastest.min(clock.wall.as_nanos() as f64);
            if fastest < target / 2.0 {
                break;
            }
        }
        if fastest >= target / 2.0 || ops >= 1 << 24 {
            return Ok((
                work,
                ((ops as f64 * target / fastest.max(1.0)) as u64).max(1),
            ));
        }
        ops *= 2;
    }
}

fn one_turn(side: &mut Running, bytes: u64) -> Result<(), String> {
    let mut clock = Clock::default();
    (side.work)(side.ops, &mut clock)?;
    let per_op = |t: Duration| t.as_nanos() as f64 / side.ops as f64;
    side.result.rounds.push(per_op(clock.wall));
    side.result.cpu_rounds.push(per_op(clock.cpu));
    side.result.device.add(clock.device);
    side.result.served += bytes * side.ops;
    Ok(())
}

fn finished(rounds: &SideResult) -> SideResult {
    SideResult {
        missing: None,
        ns: Some(Spread::of(&rounds.rounds)),
        cpu_ns: Some(Spread::of(&rounds.cpu_rounds)),
        ..rounds.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Side;

    fn group(sides: Vec<Side>) -> Group {
        Group {
            id: "test".into(),
            operation: "one step".into(),
            excludes: "",
            bytes: 10,
            ops: Ops::Fixed(4),
            plot: None,
            sides,
        }
    }

    fn side(name: &'static str, per_op: u64) -> Side {
        Side::new(name, Role::Ours, move || {
            Ok(move |ops: u64, clock: &mut Clock| {
                clock.record(Duration::from_nanos(ops * per_op), Duration::ZERO);
                Ok(())
            })
        })
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_own_ratios() {
        // The second round was slow for both: the ratio does not notice.
        let spread = ratio(&[20.0, 200.0, 22.0], &[10.0, 100.0, 10.0]);
        assert!((spread.median - 2.0).abs() < 1e-9, "{spread:?}");
    }

    #[test]
    fn quartiles_are_interpolated_and_no_values_give_zero() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]);
        assert!((spread.low - 1.75).abs() < 1e-9 && (spread.high - 3.25).abs() < 1e-9);
        assert!(Spread::of(&[]).median.abs() < 1e-9);
    }

    #[test]
    fn the_median_lies_between_ranks_as_tables_have_them() {
        // Of the sign test: for 11 values the 2nd and the 10th, for 30 the 10th and the 21st.
        assert_eq!(median_ranks(11), (1, 9));
        assert_eq!(median_ranks(30), (9, 20));
        assert_eq!(median_ranks(1), (0, 0));
        let spread = Spread::of(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        assert!((spread.least - 2.0).abs() < 1e-9 && (spread.most - 10.0).abs() < 1e-9);
        assert!(!spread.is_narrow() && Spread::of(&[2.0; 5]).is_narrow());
    }

    #[test]
    fn rounds_go_on_until_the_result_is_settled() {
        let seen = |r: &GroupResult| r.side("a").map_or(0, |s| s.rounds.len());
        let at_15 = run(group(vec![side("a", 5)]), Effort::QUICK, &|r| seen(r) == 15);
        assert_eq!(seen(&at_15), 15);
        let never = run(group(vec![side("a", 5)]), Effort::QUICK, &|_| false);
        assert_eq!(seen(&never), Effort::QUICK.rounds_max);
    }

    #[test]
    fn sides_keep_their_order_and_a_side_that_cannot_run_says_why() {
        let broken = Side::new("broken", Role::Kernel, || {
            Err::<fn(u64, &mut Clock) -> Result<(), String>, _>("needs root".to_owned())
        });
        let result = run(
            group(vec![side("a", 5), broken, side("b", 10)]),
            Effort::QUICK,
            &|_| true,
        );
        let names: Vec<_> = result.sides.iter().map(|s| s.name).collect();
        assert_eq!(names, ["a", "broken", "b"]);
        assert_eq!(result.sides[1].missing.as_deref(), Some("needs root"));
        let a = result.side("a").expect("measured");
        assert_eq!(a.rounds.len(), Effort::QUICK.rounds);
        assert!((a.ns.expect("measured").median - 5.0).abs() < 1e-9);
        assert_eq!(a.served, 10 * 4 * Effort::QUICK.rounds as u64);
    }

    #[test]
    fn a_side_that_fails_in_the_middle_has_no_number() {
        let mut left = 3;
        let failing = Side::new("failing", Role::Tool, move || {
            Ok(move |_: u64, _: &mut Clock| {
                left -= 1;
                if left == 0 {
                    Err("disk full".to_owned())
                } else {
                    Ok(())
                }
            })
        });
        let result = run(group(vec![failing, side("b", 1)]), Effort::QUICK, &|_| true);
        assert_eq!(result.sides[0].missing.as_deref(), Some("disk full"));
        assert!(result.sides[0].ns.is_none() && result.sides[0].rounds.is_empty());
        assert_eq!(result.sides[1].rounds.len(), Effort::QUICK.rounds);
    }
}
