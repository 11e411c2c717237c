//! Makes a failing sequence short.
//!
//! Owns single-threaded replay and delta debugging. A replay formats the target and does the
//! operations in order; it is exactly repeatable, as the operations carry everything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::op::{Op, Subject};
use super::target::Target;
use super::world::{Fail, World};
use super::{Options, finish, generator, perform};

/// An operation with the thread and number that stamp its data.
pub type Step = (u8, u64, Op);

/// Does the steps, and the end of a run after them.
///
/// # Errors
///
/// The failure, and the index of the step it came from (the number of steps, for the end).
pub fn replay(target: &Arc<dyn Target>, steps: &[Step]) -> Result<(), (usize, Fail)> {
    let world = World::new(Arc::clone(target), 2, 0.0).map_err(|fail| (0, fail))?;
    let result = (0..)
        .zip(steps)
        .try_for_each(|(index, (thread, number, op))| {
            perform(&world, *thread, *number, op).map_err(|fail| (index, fail))
        });
    let result = result.and_then(|()| finish(&world).map(|_| ()).map_err(|f| (steps.len(), f)));
    // Whatever happened, nothing stays mounted. The failure that counts is the first.
    let _ = world.unmount();
    result
}

/// The operations of a run on the target in the order one thread would do them: the threads in turn.
#[must_use]
pub fn interleaved(target: &dyn Target, options: &Options, ops: u64) -> Vec<Step> {
    let mut rngs: Vec<_> = (0..options.threads)
        .map(|t| generator(options.seed, t))
        .collect();
    let rounds = ops / u64::from(options.threads).max(1) + 1;
    let mut steps = Vec::new();
    for number in 0..rounds {
        for (thread, rng) in (0..).zip(&mut rngs) {
            steps.push((thread, number, Op::generate(rng, target.maps())));
        }
    }
    steps
}

/// Looks for a short sequence that fails, for `time` at most. `None`: one thread alone does not
/// fail.
#[must_use]
pub fn shrink(
    target: &Arc<dyn Target>,
    mut steps: Vec<Step>,
    time: Duration,
) -> Option<(Vec<Step>, Fail)> {
    let deadline = Instant::now() + time;
    let (index, mut fail) = replay(target, &steps).err()?;
    steps.truncate(index + 1);
    if let Some((fewer, why)) = only_one_file(target, &steps) {
        (steps, fail) = (fewer, why);
    }
    let mut chunk = steps.len().div_ceil(2);
    while chunk > 0 && Instant::now() < deadline {
        let mut start = 0;
        let mut smaller = false;
        while start < steps.len() && Instant::now() < deadline {
            let end = (start + chunk).min(steps.len());
            let fewer: Vec<_> = [&steps[..start], &steps[end..]].concat();
            match replay(target, &fewer) {
                Err((index, why)) => {
                    steps = fewer;
                    steps.truncate(index + 1);
                    fail = why;
                    smaller = true;
                }
                Ok(()) => start = end,
            }
        }
        if chunk == 1 && !smaller {
            break;
        }
        chunk = if chunk == 1 { 1 } else { chunk / 2 };
    }
    Some((steps, fail))
}

/// Tries with nothing but the operations on the file that failed.
fn only_one_file(target: &Arc<dyn Target>, steps: &[Step]) -> Option<(Vec<Step>, Fail)> {
    let Some((_, _, Op::Data(Subject::Named(place), _))) = steps.last() else {
        return None;
    };
    let concerned = |op: &Op| match op {
        Op::Data(Subject::Named(p), _) => p == place,
        Op::Data(..) | Op::Name(_) => false,
        _ => true,
    };
    let mut fewer: Vec<_> = steps.iter().filter(|s| concerned(&s.2)).cloned().collect();
    let (index, fail) = replay(target, &fewer).err()?;
    fewer.truncate(index + 1);
    Some((fewer, fail))
}
