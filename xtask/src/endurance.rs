//! What `cargo xtask test --long` adds, and `cargo xtask endurance` does alone: torture and crashes with
//! seeds nobody has tried, for a given time.
//!
//! Owns the time and the choice of seeds. A round that fails prints its seed and the command that
//! repeats it; how it becomes a named test stands in docs/TESTING.md.

use std::time::{Duration, Instant, SystemTime};

use crate::run::Counts;
use crate::suites::testfs_step;

/// The environment says for how many minutes.
const MINUTES: &str = "IOMAP_LONG_MINUTES";
const MINUTES_BY_DEFAULT: u64 = 30;

/// One round: the name of each run and its arguments but the seed.
const ROUND: &[(&str, &[&str])] = &[
    ("torture", &["torture", "--ops", "200000"]),
    (
        "torture, small blocks",
        &["torture", "--ops", "200000", "--block-size", "1024"],
    ),
    (
        "torture, bad device",
        &["torture", "--ops", "100000", "--device-faults", "0.01"],
    ),
    ("torture, DAX", &["torture", "--ops", "100000", "--dax"]),
    (
        "torture, DAX, bad device",
        &[
            "torture",
            "--ops",
            "100000",
            "--dax",
            "--device-faults",
            "0.01",
        ],
    ),
    ("crash", &["crash", "--states", "50000"]),
];

/// Rounds with new seeds until the time is over; a round that has begun ends.
pub(crate) fn run() -> Counts {
    let minutes = std::env::var(MINUTES).ok().and_then(|m| m.parse().ok());
    let time = Duration::from_secs(60 * minutes.unwrap_or(MINUTES_BY_DEFAULT));
    let (begun, mut counts) = (Instant::now(), Counts::default());
    let mut seed = new_seed();
    while begun.elapsed() < time {
        let text = seed.to_string();
        for (name, args) in ROUND {
            let args = [*args, &["--seed", text.as_str()]].concat();
            counts += testfs_step(&format!("{name}, seed {text}"), &args).check();
        }
        seed += 1;
    }
    counts
}

/// Milliseconds since 1970: another one every time.
fn new_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(1, |now| now.as_millis() as u64)
}
