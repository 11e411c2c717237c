//! The test suites: what `cargo xtask test` is made of.
//!
//! Each flavour of the code (plain, loom, shuttle, release) has one target folder of its own, so
//! that no flavour rebuilds another.

use std::path::{Path, PathBuf};

use crate::Effort;
use crate::run::{Counts, Step};

/// Every suite.
pub(crate) fn all(effort: Effort) -> Counts {
    let mut counts = workspace();
    if effort == Effort::Quick {
        return counts;
    }
    counts += loom();
    counts += shuttle(effort);
    counts += mutate(effort);
    counts += testfs(effort);
    counts
}

/// Unit, integration and documentation tests of every crate, and the build without features.
fn workspace() -> Counts {
    let args = ["test", "--workspace", "--all-features", "--no-fail-fast"];
    let mut counts = Step::cargo("tests", &args).tests();
    let args = [
        "check",
        "--package",
        "iomap-core",
        "--no-default-features",
        "--all-targets",
    ];
    counts += Step::cargo("check without features", &args).check();
    counts
}

/// Single orderings of atomics, every interleaving up to a number of preemptions.
pub(crate) fn loom() -> Counts {
    let mut counts = Counts::default();
    for suite in model_suites("loom_") {
        counts += suite
            .step("iomap_loom", "target/loom")
            .env("LOOM_MAX_PREEMPTIONS", "3")
            .tests();
    }
    counts
}

/// Whole protocols under a scheduler that chooses every switch of threads.
pub(crate) fn shuttle(effort: Effort) -> Counts {
    let factor = if effort == Effort::Long { "20" } else { "1" };
    let mut counts = Counts::default();
    for suite in model_suites("shuttle_") {
        counts += suite
            .step("iomap_shuttle", "target/shuttle")
            .env("IOMAP_SCHEDULES_FACTOR", factor)
            .tests();
    }
    counts
}

/// `testfs race` in the build it needs. Exits with failure if a race ended badly.
pub(crate) fn race(args: &[&str]) -> Result<Counts, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = "run --quiet --profile mutate --package testfs --features mutation -- race";
    let status = std::process::Command::new(cargo)
        .args(build.split(' '))
        .args(args)
        .env("RUSTFLAGS", "--cfg iomap_shuttle")
        .env("CARGO_TARGET_DIR", "target/mutate-shuttle")
        .status()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    Ok(Counts::one(status.success()))
}

/// Each rule off in turn.
fn mutate(effort: Effort) -> Counts {
    let root = crate::workspace();
    match crate::mutate::mutate(&root, &[], effort == Effort::Long) {
        Ok(counts) => counts,
        Err(why) => {
            println!("== mutate: FAILED, {why} ==");
            Counts::one(false)
        }
    }
}

/// The model-checked test files of one crate.
struct ModelSuite {
    package: &'static str,
    tests: Vec<String>,
}

impl ModelSuite {
    fn step(&self, cfg: &str, target: &str) -> Step {
        let mut args = vec![
            "test",
            "--release",
            "--no-fail-fast",
            "--package",
            self.package,
        ];
        for test in &self.tests {
            args.extend(["--test", test]);
        }
        Step::cargo(&format!("{cfg}: {}", self.package), &args)
            .env("RUSTFLAGS", &format!("--cfg {cfg}"))
            .env("CARGO_TARGET_DIR", target)
    }
}

/// The test files that begin with `prefix`, by crate. A crate without any is left out.
fn model_suites(prefix: &str) -> Vec<ModelSuite> {
    let suite = |package: &'static str| {
        let mut tests: Vec<_> = files(&Path::new(package).join("tests"))
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == "rs"))
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .filter(|name| name.starts_with(prefix))
            .collect();
        tests.sort();
        ModelSuite { package, tests }
    };
    let suites = ["iomap-core", "testfs"].map(suite);
    let suites: Vec<_> = suites.into_iter().filter(|s| !s.tests.is_empty()).collect();
    if suites.is_empty() {
        println!("\nno crate has a test file {prefix}*.rs");
    }
    suites
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The programs of testfs in release, each run as one test.
fn testfs(effort: Effort) -> Counts {
    let mut counts = smoke_run();
    let (seeds, ops) = match effort {
        Effort::Quick | Effort::Normal => ("4", "25000"),
        Effort::Long => ("100", "200000"),
    };
    let quiet: &[&str] = &["--seed", "1", "--seeds", seeds, "--ops", ops];
    for (name, more) in [
        ("torture", &[] as &[&str]),
        ("torture, small blocks", &["--block-size", "1024"]),
        ("torture, faulty device", &["--device-faults", "0.001"]),
        ("torture, bad device", &["--device-faults", "0.01"]),
        ("torture, DAX", &["--dax"]),
        (
            "torture, DAX, large blocks",
            &["--dax", "--block-size", "16384"],
        ),
        (
            "torture, DAX, bad device",
            &["--dax", "--device-faults", "0.01"],
        ),
    ] {
        counts += testfs_step(name, &[&["torture"], quiet, more].concat()).check();
    }
    counts += mapped_torture(effort);
    let states = match effort {
        Effort::Quick | Effort::Normal => "10000",
        Effort::Long => "1000000",
    };
    counts += testfs_step("crash", &["crash", "--states", states]).check();
    if effort == Effort::Long {
        let args = ["test", "--package", "testfs", "--test", "faults"];
        let ignored = [&args[..], &["--", "--ignored"]].concat();
        counts += Step::cargo("testfs faults, every one", &ignored).tests();
        counts += crate::endurance::run();
    }
    counts
}

/// Real memory mappings beside everything else: the example of testfs.
fn mapped_torture(effort: Effort) -> Counts {
    const CACHED: &[&str] = &[];
    const DAX: &[&str] = &["--dax"];
    let runs: &[(&str, &str, &[&str])] = match effort {
        Effort::Quick | Effort::Normal => &[("1", "10", CACHED), ("1", "10", DAX)],
        Effort::Long => &[
            ("1", "600", CACHED),
            ("2", "120", CACHED),
            ("3", "120", CACHED),
            ("1", "600", DAX),
            ("2", "120", DAX),
        ],
    };
    let mut counts = Counts::default();
    for (seed, seconds, more) in runs {
        let args = [
            "run",
            "--release",
            "--package",
            "testfs",
            "--example",
            "mapped_torture",
            "--",
            "--seed",
            seed,
            "--seconds",
            seconds,
        ];
        let args = [&args[..], more].concat();
        counts += Step::cargo("testfs, torture of a real mapping", &args).check();
    }
    counts
}

/// The first command of the README on a new file, and every bench once.
pub(crate) fn smoke() -> Counts {
    let mut counts = smoke_run();
    counts += benches_once();
    counts
}

/// Every bench, one iteration each.
pub(crate) fn benches_once() -> Counts {
    let args = ["bench", "--package", "benches", "--", "--test"];
    Step::cargo("every bench once", &args).check()
}

/// `testfs run` on a file that does not exist yet, and again on what the first run left.
fn smoke_run() -> Counts {
    let image = Path::new("target").join(format!("smoke-{}.img", std::process::id()));
    let path = image.display().to_string();
    let mut counts = testfs_step("run, new image", &["run", &path]).check();
    counts += testfs_step("run, used image", &["run", &path]).check();
    let _ = std::fs::remove_file(&image);
    let image = dax_image(&image);
    let path = image.display().to_string();
    let dax = ["run", "--dax", "--size", "64M", &path];
    counts += testfs_step("run, DAX, new image", &dax).check();
    counts += testfs_step("run, DAX, used image", &dax).check();
    let _ = std::fs::remove_file(&image);
    counts
}

/// Where an image for DAX goes: into memory, if there is room, for on a disk each fault of a file
/// that grows waits for it.
fn dax_image(otherwise: &Path) -> PathBuf {
    let image = Path::new("/dev/shm").join(format!("iomap-smoke-{}.img", std::process::id()));
    let room = std::fs::write(&image, vec![0_u8; 96 << 20]);
    let _ = std::fs::remove_file(&image);
    match room {
        Ok(()) => image,
        Err(_) => otherwise.to_owned(),
    }
}

pub(crate) fn testfs_step(name: &str, args: &[&str]) -> Step {
    let cargo = ["run", "--release", "--package", "testfs", "--"];
    Step::cargo(&format!("testfs {name}"), &[&cargo, args].concat())
}
