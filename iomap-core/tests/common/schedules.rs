//! How many schedules a model runs: the number it asks for, times `IOMAP_SCHEDULES_FACTOR`, by which
//! long runs search more.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

/// `n` times the factor of this run.
pub(crate) fn schedules(n: usize) -> usize {
    let factor = std::env::var("IOMAP_SCHEDULES_FACTOR").ok();
    n * factor.and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Random schedules and a few with bounded depth.
pub(crate) fn check(f: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(f, schedules(1500));
    shuttle::check_pct(f, schedules(500), 3);
}
