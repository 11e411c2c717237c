//! The server is killed in the middle of a load: the image is whole, and what was synced is there.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use iomap_core::device::{BlockDevice, FileDevice, OpenError, OpenOptions};
use iomap_core::units::FilePos;
use iomap_core::vfs::{IoFlags, OpenFlags, Vfs};
use tempfile::TempDir;
use testfs::fs::{MkfsOptions, TestFs};

use crate::bed::{CHILD, PATIENCE, SETUPS, Setup};

/// Files that must have been synced before the server is killed.
const SYNCED: usize = 60;

/// What a file called `t.i` holds.
fn content(thread: usize, i: usize) -> Vec<u8> {
    format!("{thread}.{i};")
        .repeat(2000 + 500 * (i % 7))
        .into_bytes()
}

/// The program that is killed.
pub(crate) fn serve(image: &Path, dir: &Path, setup: &str) {
    let device = Arc::new(FileDevice::open(image, &OpenOptions::default()).unwrap());
    let fs = TestFs::mount(device, testfs::fs::MountOptions::default()).unwrap();
    let setup = SETUPS.iter().find(|known| known.name == setup).unwrap();
    let options = setup.options();
    let served: Arc<dyn Vfs> = fs.clone();
    let mount = iomap_fuse::mount(served, dir, &options).unwrap();
    println!("live");
    mount.wait().unwrap();
    fs.unmount().unwrap();
}

/// The image, once the kernel has let go of what the server had under way.
fn open_when_free(image: &Path) -> Arc<dyn BlockDevice> {
    let start = Instant::now();
    loop {
        match FileDevice::open(image, &OpenOptions::default()) {
            Ok(device) => return Arc::new(device),
            Err(OpenError::Locked(_)) if start.elapsed() < PATIENCE => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Starts that program in the folder `work`. Returns it, its image and where it has mounted it.
pub(crate) fn start(setup: Setup, work: &Path) -> (Child, PathBuf, PathBuf) {
    let (image, dir) = (work.join("image"), work.join("mnt"));
    fs::create_dir(&dir).unwrap();
    {
        let create = OpenOptions {
            create_size: Some(512 << 20),
            ..OpenOptions::default()
        };
        let device: Arc<dyn BlockDevice> = Arc::new(FileDevice::open(&image, &create).unwrap());
        TestFs::mkfs(device, &MkfsOptions::default()).unwrap();
    }
    let mut server = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, "serve")
        .args([&image, &dir])
        .arg(setup.name)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "live\n");
    (server, image, dir)
}

pub(crate) fn killed_under_load(setup: Setup) {
    let work = TempDir::new().unwrap();
    let (mut server, image, dir) = start(setup, work.path());
    let synced = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (synced, dir) = (&synced, &dir);
            scope.spawn(move || load(dir, thread, synced));
        }
        while synced.lock().unwrap().len() < SYNCED {
            std::thread::yield_now();
        }
        server.kill().unwrap();
        server.wait().unwrap();
    });
    // Whatever the kernel still has to part with.
    iomap_fuse::remove_dead(&dir).unwrap();
    let below = fs::metadata(work.path()).unwrap().dev();
    assert_eq!(fs::metadata(&dir).unwrap().dev(), below, "a dead mount");
    let device = open_when_free(&image);
    let report = testfs::check::check(Arc::clone(&device)).unwrap();
    assert!(report.is_clean(), "{report:#?}");
    let fs = TestFs::mount(device, testfs::fs::MountOptions::default()).unwrap();
    for (thread, i) in synced.into_inner().unwrap() {
        let attr = fs
            .lookup(fs.root(), format!("{thread}.{i}").as_bytes())
            .unwrap();
        let file = fs.open(attr.ino, OpenFlags::READ).unwrap();
        let mut bytes = vec![0; attr.size as usize];
        let read = file
            .read_at(FilePos::ZERO, &mut bytes, IoFlags::empty())
            .unwrap();
        assert!(
            read == bytes.len() && bytes == content(thread, i),
            "{thread}.{i}"
        );
    }
    fs.unmount().unwrap();
}

/// Makes files, syncs them and their names, and notes which are safe, until the server is gone.
fn load(dir: &Path, thread: usize, synced: &Mutex<Vec<(usize, usize)>>) {
    for i in 0.. {
        let path = dir.join(format!("{thread}.{i}"));
        let step = || -> std::io::Result<()> {
            fs::write(&path, content(thread, i))?;
            fs::write(dir.join(format!("unsafe-{thread}-{i}")), content(thread, i))?;
            File::open(&path)?.sync_all()?;
            File::open(dir)?.sync_all()?;
            let _ = fs::remove_file(dir.join(format!("unsafe-{thread}-{}", i / 2)));
            Ok(())
        };
        if step().is_err() {
            return;
        }
        synced.lock().unwrap().push((thread, i));
    }
}
