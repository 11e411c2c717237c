//! What the kernel and other programs offer for comparison on this host.
//!
//! Owns loop devices with kernel file systems, and runs of fio. Each is undone when dropped. What
//! is not allowed or not installed here is an error with the reason, which the report shows.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A kernel file system on a loop device over a file of the temporary folder.
#[derive(Debug)]
pub struct LoopMount {
    device: String,
    at: PathBuf,
    _folder: tempfile::TempDir,
}

impl LoopMount {
    /// Makes `kind` (`ext4`, `xfs`) of `size` bytes and mounts it; the loop device does direct I/O
    /// to its file, as our own image does.
    ///
    /// # Errors
    ///
    /// The command that failed, and what it said: usually that it takes root.
    pub fn new(kind: &str, size: u64) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let image = folder.path().join("image");
        let at = folder.path().join("mount");
        fs::create_dir(&at).map_err(|e| e.to_string())?;
        let file = File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(size).map_err(|e| e.to_string())?;
        let image = image.display().to_string();
        let force = if kind == "ext4" { "-F" } else { "-f" };
        command(&format!("mkfs.{kind}"), &["-q", force, &image])?;
        let find = ["--find", "--show", "--direct-io=on", &image];
        let device = command("losetup", &find)?.trim().to_owned();
        // From here on dropping it detaches the device.
        let mount = Self {
            device,
            at,
            _folder: folder,
        };
        let at = mount.at.display().to_string();
        command("mount", &["-t", kind, &mount.device, &at])?;
        Ok(mount)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        let at = self.at.display().to_string();
        // Not mounted if mounting failed; what is left then is the device.
        let _ = command("umount", &[&at]);
        if let Err(why) = command("losetup", &["--detach", &self.device]) {
            eprintln!("{} stays attached: {why}", self.device);
        }
    }
}

/// Runs a program; its output, or why there is none.
pub(super) fn command(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("no message");
    Err(format!("{program}: {said}"))
}

/// Opens `path` past the kernel's cache.
///
/// # Errors
///
/// The file system has no `O_DIRECT`, or there is no such file.
pub fn open_direct(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .map_err(|e| format!("O_DIRECT in {}: {e}", path.display()))
}

/// What fio measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fio {
    /// Operations that ended.
    pub operations: u64,
    /// How long that took.
    pub wall: Duration,
    /// Processor time of the job.
    pub cpu: Duration,
}

/// Random direct 4 KiB reads of `path` by fio for `run` time.
///
/// # Errors
///
/// fio is not installed, or failed.
pub fn fio_random_read(path: &Path, depth: u32, run: Duration) -> Result<Fio, String> {
    let engine = if depth == 1 { "psync" } else { "io_uring" };
    let millis = format!("--runtime={}ms", run.as_millis());
    let args = [
        "--name=row",
        &format!("--filename={}", path.display()),
        &format!("--ioengine={engine}"),
        &format!("--iodepth={depth}"),
        &millis,
        "--rw=randread",
        "--bs=4k",
        "--direct=1",
        "--time_based",
        "--thread",
        "--norandommap",
        "--output-format=json",
    ];
    parse_fio(&command("fio", &args)?)
}

/// Reads the parts of fio's JSON that are compared.
fn parse_fio(json: &str) -> Result<Fio, String> {
    // fio may print warnings in front of the document.
    let start = json.find('{').ok_or("fio printed no JSON")?;
    let root: serde_json::Value =
        serde_json::from_str(&json[start..]).map_err(|e| format!("fio's JSON: {e}"))?;
    let job = &root["jobs"][0];
    let number = |value: &serde_json::Value, name: &str| {
        value[name]
            .as_f64()
            .ok_or_else(|| format!("fio's JSON has no {name}"))
    };
    let wall = number(&job["read"], "runtime")? / 1e3;
    let busy = (number(job, "usr_cpu")? + number(job, "sys_cpu")?) / 100.0;
    Ok(Fio {
        operations: number(&job["read"], "total_ios")? as u64,
        wall: Duration::from_secs_f64(wall),
        cpu: Duration::from_secs_f64(wall * busy),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fio_is_read_and_not_guessed() {
        let json = r#"fio: a warning
            {"jobs":[{"read":{"runtime":500,"total_ios":1000},"usr_cpu":10.0,"sys_cpu":30.0}]}"#;
        let fio = parse_fio(json).expect("whole");
        assert_eq!(fio.operations, 1000);
        assert_eq!(fio.wall, Duration::from_millis(500));
        assert_eq!(fio.cpu, Duration::from_millis(200));
        let missing = parse_fio(r#"{"jobs":[{"read":{"runtime":1}}]}"#);
        assert!(missing.expect_err("no counts").contains("usr_cpu"));
        assert!(parse_fio("no json").is_err());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let why = command("no-such-program-here", &[]).expect_err("not installed");
        assert!(why.starts_with("no-such-program-here: "), "{why}");
    }
}
