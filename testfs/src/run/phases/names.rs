//! Many small files: names, inline data, attributes.

use std::time::Instant;

use iomap_core::error::FsError;
use iomap_core::units::FilePos;
use iomap_core::vfs::{Ino, IoFlags, OpenFlags, RenameMode, Special, Vfs, XattrMode};

use super::{Calls, Stage, calls_for};
use crate::run::RunError;
use crate::run::stage::NEW;

/// Directories the files are spread over.
const DIRS: u64 = 10;

/// Creates and writes them, lists them, renames and removes some.
pub(super) fn small_files(stage: &mut Stage) -> Result<(), RunError> {
    let count = calls_for(stage, 10_000);
    let mut dirs = Vec::new();
    for n in 0..DIRS {
        let name = format!("d{n}");
        let attr = stage.fs().mkdir(stage.dir(), name.as_bytes(), &NEW);
        dirs.push((name, attr.map_err(RunError::in_phase("mkdir"))?.ino));
    }
    let meter = stage.meter();
    let mut calls = Calls::default();
    for n in 0..count {
        let (dir, ino) = &dirs[(n % DIRS) as usize];
        // Inline ones, and ones with a block or two.
        let len = stage.rng.usize(..if n % 2 == 0 { 200 } else { 6_000 });
        let bytes = stage.bytes(len);
        let started = Instant::now();
        create(stage, *ino, &format!("f{n}"), &bytes).map_err(RunError::in_phase("create"))?;
        calls.add(started.elapsed(), len as u64);
        stage.files.insert((dir.clone(), format!("f{n}")), bytes);
    }
    stage.done("create and write small", &meter, calls);
    list(stage, &dirs)?;
    rename_and_remove(stage, &dirs, count)
}

fn create(stage: &Stage, dir: Ino, name: &str, bytes: &[u8]) -> Result<(), FsError> {
    let fs = stage.fs();
    let attr = fs.mknod(dir, name.as_bytes(), Special::Regular, &NEW)?;
    let file = fs.open(attr.ino, OpenFlags::WRITE)?;
    if !bytes.is_empty() {
        file.write_at(FilePos::ZERO, bytes, IoFlags::empty())?;
    }
    if attr.ino.0 % 16 == 0 {
        fs.setxattr(attr.ino, b"user.run", name.as_bytes(), XattrMode::Create)?;
    }
    Ok(())
}

fn list(stage: &mut Stage, dirs: &[(String, Ino)]) -> Result<(), RunError> {
    let meter = stage.meter();
    let mut calls = Calls::default();
    for (_, ino) in dirs {
        let started = Instant::now();
        let mut found = Vec::new();
        let listed = stage.fs().readdir(*ino, 0, &mut |entry| {
            found.push(entry.ino);
            true
        });
        listed.map_err(RunError::in_phase("readdir"))?;
        for ino in &found {
            stage
                .fs()
                .getattr(*ino)
                .map_err(RunError::in_phase("getattr"))?;
        }
        calls.add(started.elapsed(), 0);
    }
    stage.done("list with attributes", &meter, calls);
    Ok(())
}

fn rename_and_remove(
    stage: &mut Stage,
    dirs: &[(String, Ino)],
    count: u64,
) -> Result<(), RunError> {
    let meter = stage.meter();
    let mut calls = Calls::default();
    for n in (0..count).step_by(7) {
        let (dir, ino) = &dirs[(n % DIRS) as usize];
        let (to_dir, to_ino) = &dirs[((n + 3) % DIRS) as usize];
        let (old, new) = (format!("f{n}"), format!("g{n}"));
        let Some(bytes) = stage.files.remove(&(dir.clone(), old.clone())) else {
            continue;
        };
        let started = Instant::now();
        let result = if n % 2 == 0 {
            stage.files.insert((to_dir.clone(), new.clone()), bytes);
            let mode = RenameMode::NoReplace;
            stage
                .fs()
                .rename(*ino, old.as_bytes(), *to_ino, new.as_bytes(), mode)
        } else {
            stage.fs().unlink(*ino, old.as_bytes())
        };
        calls.add(started.elapsed(), 0);
        result.map_err(RunError::in_phase("rename or unlink"))?;
    }
    stage.done("rename and unlink", &meter, calls);
    Ok(())
}
