//! Makes filesystems for tests, in images: small ones that fill up, and ones that die and come
//! back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::{program, scratch};

/// Runs a tool. `Err` has its output.
pub(super) fn tool(directory: &Path, words: &str) -> Result<String, String> {
    let mut words = words.split_whitespace();
    let name = words.next().unwrap();
    // The administrator's tools are not on everybody's PATH.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = program(name, directory).env("PATH", path).args(words).output();
    let output = output.map_err(|error| format!("{name}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', " ");
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{name}: {}", text(&output.stderr)))
    }
}

/// Names the file with the id of the boot, in a test that runs in its own mount namespace.
const BOOT: &str = "CALVE_TEST_BOOT";

/// Runs the calling test again, in a mount namespace where it can pretend that the machine was
/// started again. Returns whether this is that run.
pub(super) fn is_where_the_machine_starts_again(test: &str) -> Result<bool, String> {
    if std::env::var_os(BOOT).is_some() {
        return Ok(true);
    }
    let home = scratch();
    let file = home.path().join("boot");
    fs::write(&file, "no boot yet\n").unwrap();
    let mut inside = program("unshare", home.path());
    inside.env(BOOT, &file).env("RUST_BACKTRACE", "1").current_dir(".");
    inside.args(["--mount", "sh", "-c"]);
    inside.arg(format!("mount --bind \"${BOOT}\" {BOOT_ID} || exit 77; exec \"$0\" \"$@\""));
    inside.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let output = inside.output().map_err(|error| format!("unshare: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{text}");
    match output.status.code() {
        Some(0) => assert!(text.contains("1 passed"), "there is no test {test}"),
        Some(77) => return Err(text.trim().to_owned()),
        code => panic!("ended with {code:?}"),
    }
    Ok(false)
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Processes that start from now on see another boot of the machine.
fn start_again() {
    if let Some(file) = std::env::var_os(BOOT) {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let line = format!("{number:08x}-0000-4000-8000-000000000000\n");
        // The same length as before, written into the mounted file.
        fs::write(file, &line).unwrap();
        assert_eq!(fs::read_to_string(BOOT_ID).unwrap(), line);
    }
}

/// In megabytes: as small as mkfs allows, or a little more.
pub(super) const SMALLEST: u64 = 0;

/// How a filesystem dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// The filesystem is shut down. It loses the part of its log that is not on the disk, and
    /// everything that was not written back.
    Lost,
    /// It is shut down after its log was written, without the data that was not written back.
    Logged,
    /// A power cut: the disk below fails every write from now on, and forgets everything that
    /// nobody flushed.
    Cut,
}

/// A filesystem in an image; unmounted whatever happens.
pub(super) struct Disk {
    home: TempDir,
    kind: String,
    /// The image lies on an XFS of its own, which can be shut down below it.
    has_outer: bool,
    options: Options,
}

/// More options for mkfs and mount.
#[derive(Clone, Copy, Default)]
pub(super) struct Options {
    pub(super) make: &'static str,
    pub(super) mount: &'static str,
}

impl Disk {
    /// Makes and mounts one of `kind`; needs root.
    pub(super) fn new(kind: &str, megabytes: u64) -> Result<Self, String> {
        Self::make(kind, megabytes, false, Options::default())
    }

    pub(super) fn with(kind: &str, megabytes: u64, options: Options) -> Result<Self, String> {
        Self::make(kind, megabytes, false, options)
    }

    /// A filesystem whose disk can fail.
    pub(super) fn that_can_be_cut(kind: &str, megabytes: u64) -> Result<Self, String> {
        Self::make(kind, megabytes, true, Options::default())
    }

    fn make(kind: &str, megabytes: u64, has_outer: bool, options: Options) -> Result<Self, String> {
        // The smallest that mkfs makes of each kind, or a little more.
        let (make, least) = match kind {
            "xfs" => ("mkfs.xfs -q -m reflink=1", 320),
            "btrfs" if megabytes == SMALLEST => ("mkfs.btrfs -q --mixed", 256),
            "btrfs" => ("mkfs.btrfs -q", 256),
            "ext4" => ("mkfs.ext4 -q -F", 200),
            "tmpfs" => ("true", 200),
            _ => return Err("it is not known which filesystem is under test".to_owned()),
        };
        let megabytes = megabytes.max(least);
        let disk = Self { home: scratch(), kind: kind.to_owned(), has_outer, options };
        let home = disk.home.path();
        fs::create_dir(disk.path()).unwrap();
        if has_outer {
            fs::create_dir(home.join("outer")).unwrap();
            let size = (megabytes * 2).max(320) << 20;
            fs::File::create(home.join("outer-image")).unwrap().set_len(size).unwrap();
            tool(home, "mkfs.xfs -q outer-image")?;
            tool(home, "mount -t xfs -o loop outer-image outer")?;
        }
        if kind == "tmpfs" {
            let more = options.mount;
            tool(home, &format!("mount -t tmpfs -o size={megabytes}M,{more} small disk"))?;
            return Ok(disk);
        }
        let image = disk.image();
        fs::File::create(home.join(&image)).unwrap().set_len(megabytes << 20).unwrap();
        tool(home, &format!("{make} {} {image}", options.make))?;
        disk.mount()?;
        Ok(disk)
    }

    fn image(&self) -> String {
        if self.has_outer { "outer/image" } else { "image" }.to_owned()
    }

    fn mount(&self) -> Result<(), String> {
        let (kind, image, more) = (&self.kind, self.image(), self.options.mount);
        tool(self.home.path(), &format!("mount -t {kind} -o loop,{more} {image} disk")).map(drop)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.home.path().join("disk")
    }

    /// Bytes that are free, once all is written that is on its way.
    pub(super) fn free(&self) -> u64 {
        // The filesystem gives space back when it writes its log.
        Command::new("sync").arg("-f").arg(self.path()).status().unwrap();
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// From now on nothing reaches the disk.
    pub(super) fn die(&self, death: Death) -> Result<(), String> {
        self.killer(death)()
    }

    /// Like [`Disk::die`], as a function for another thread.
    pub(super) fn killer(&self, death: Death) -> impl Fn() -> Result<(), String> + Send + use<> {
        let (command, place) = match death {
            Death::Lost => ("shutdown", "disk"),
            Death::Logged => ("shutdown -f", "disk"),
            Death::Cut => ("shutdown", "outer"),
        };
        let home = self.home.path().to_owned();
        move || {
            let mut xfs_io = program("xfs_io", &home);
            let output = xfs_io.args(["-x", "-c", command, place]).output();
            let output = output.map_err(|error| format!("xfs_io: {error}"))?;
            match String::from_utf8_lossy(&output.stderr).trim() {
                "" if output.status.success() => Ok(()),
                said => Err(format!("xfs_io: {said}")),
            }
        }
    }

    /// After a death: unmounts and mounts the filesystem, which replays its log. If the test can
    /// pretend that, this is another boot.
    pub(super) fn come_back(&self) -> Result<(), String> {
        start_again();
        self.unmount("disk")?;
        if self.has_outer {
            self.unmount("outer")?;
            tool(self.home.path(), "mount -t xfs -o loop outer-image outer")?;
        }
        self.mount()
    }

    /// Who is just ending may still have a file open.
    fn unmount(&self, place: &str) -> Result<(), String> {
        let mut tries = 0;
        loop {
            match tool(self.home.path(), &format!("umount {place}")) {
                Err(why) if why.contains("busy") && tries < 600 => tries += 1,
                result => return result.map(drop),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mounted = fs::read_to_string("/proc/mounts").unwrap_or_default();
        for place in ["disk", "outer"] {
            let path = self.home.path().join(place);
            if mounted.contains(&format!(" {} ", path.display())) {
                let _ = self.unmount(place);
            }
        }
    }
}
