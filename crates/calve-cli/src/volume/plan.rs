//! Decides what a volume is made of, and which steps make, grow and remove it. These are pure
//! functions.
//!
//! A volume is a filesystem that can share blocks, in a sparse image file beside the folder that it
//! is mounted at. A mount unit of systemd, or else a line in `/etc/fstab`, mounts it at boot and is
//! its only record. Both carry the mount option [`MARK`], which other programs ignore, so calve
//! keeps no list of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::mounts::unescaped;
use crate::text::{bytes, shell_word};

/// The mount option that says that a mount is a volume of calve's. Options that start with `x-` are
/// comments.
pub(super) const MARK: &str = "x-calve.volume";

/// The label of the filesystem in an image. calve takes no file without it for an image.
pub(super) const LABEL: &str = "calve";

pub(super) const FSTAB: &str = "/etc/fstab";
pub(super) const UNITS: &str = "/etc/systemd/system";

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The smallest volume. Both filesystems need at least a third of this; the rest is for files.
pub(super) const LEAST_BYTES: u64 = GIB;

/// XFS keeps a two-thousandth of its size for its log, written at once: 250 MB of this.
const MOST_BYTES: u64 = 512 * GIB;

/// The actions of `as-root`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RootAction {
    Mount,
    Unmount,
    /// Unmounts the volume if it is empty.
    UnmountEmpty,
    Grow,
}

/// The filesystem of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Filesystem {
    Xfs,
    Btrfs,
}

impl Filesystem {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Xfs, Self::Btrfs].into_iter().find(|it| it.name() == name)
    }

    pub(super) fn mkfs(self) -> &'static str {
        match self {
            Self::Xfs => "mkfs.xfs",
            Self::Btrfs => "mkfs.btrfs",
        }
    }

    /// A user made the filesystem, so no file in it may be a device or run as somebody else.
    /// `discard` gives the space of deleted files back to the host.
    pub(super) fn options(self) -> String {
        let own = match self {
            Self::Xfs => "",
            // Without `noatime` reading a file of a snapshot writes to it. Users may delete their
            // own subvolumes.
            Self::Btrfs => ",noatime,user_subvol_rm_allowed",
        };
        format!("loop,discard,nosuid,nodev{own},{MARK}")
    }

    /// The command that makes the filesystem in an image; `protofile` names the owner of its root
    /// folder.
    pub(super) fn make(self, image: &Path, protofile: &Path) -> Vec<OsString> {
        let mut words: Vec<OsString> = match self {
            Self::Xfs => ["-q", "-m", "reflink=1", "-L", LABEL, "-p"].map(OsString::from).into(),
            Self::Btrfs => ["-q", "-L", LABEL].map(OsString::from).into(),
        };
        if self == Self::Xfs {
            words.push(protofile.into());
        }
        words.push(image.into());
        words
    }

    /// The command that checks an image that is not mounted. It changes the image only with
    /// `repair`.
    pub(super) fn check(self, image: &Path, repair: bool) -> Option<(&'static str, Vec<OsString>)> {
        let (program, words): (_, &[&str]) = match (self, repair) {
            (Self::Xfs, false) => ("xfs_repair", &["-n", "-f"]),
            (Self::Xfs, true) => ("xfs_repair", &["-f"]),
            (Self::Btrfs, false) => ("btrfs", &["check", "--readonly"]),
            // Its manual says not to use it without a developer's advice.
            (Self::Btrfs, true) => return None,
        };
        let words = words.iter().map(OsString::from).chain([image.into()]).collect();
        Some((program, words))
    }
}

/// The protofile of an XFS (mkfs.xfs(8)): an empty root folder of this user.
pub(super) fn protofile(owner: Owner) -> String {
    format!("/\n0 0\nd--755 {} {}\n$\n", owner.uid, owner.gid)
}

/// The owner of the root folder of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl std::str::FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once(':')
            .and_then(|(uid, gid)| Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? }));
        parsed.ok_or_else(|| "not UID:GID".to_owned())
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// The paths of a volume, whether or not it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) at: PathBuf,
    pub(super) image: PathBuf,
    pub(super) filesystem: Filesystem,
}

/// The image of the volume at a folder.
pub(super) fn image_of(at: &Path) -> PathBuf {
    with_suffix(at, ".img")
}

/// The image while it is being made. A killed process leaves it under this name.
pub(super) fn new_image_of(at: &Path) -> PathBuf {
    hidden(at, "new")
}

/// The protofile that mkfs.xfs reads while it makes the image.
pub(super) fn protofile_of(at: &Path) -> PathBuf {
    hidden(at, "protofile")
}

/// The image while the volume is being removed.
pub(super) fn old_image_of(at: &Path) -> PathBuf {
    hidden(at, "removed")
}

fn hidden(at: &Path, what: &str) -> PathBuf {
    let mut name = OsString::from(".calve-volume-");
    name.push(at.file_name().unwrap_or_default());
    name.push(".");
    name.push(what);
    at.with_file_name(name)
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether a path needs no quotes in `/etc/fstab`, in units and in a shell.
pub(super) fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    path.to_str().is_some()
        && bytes.iter().all(|byte| {
            byte.is_ascii_alphanumeric() || b"/._-+@".contains(byte) || !byte.is_ascii()
        })
}

/// The way in which a volume is mounted at boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AtBoot {
    /// The name of the mount unit.
    Systemd(String),
    Fstab,
}

/// The line of a volume in `/etc/fstab`.
pub(super) fn fstab_line(volume: &Volume) -> String {
    let (name, options) = (volume.filesystem.name(), volume.filesystem.options());
    format!("{} {} {name} {options},nofail 0 0", volume.image.display(), volume.at.display())
}

/// The mount unit of a volume. It wants the unit of [`direct_io_text`], which runs after each
/// mount.
pub(super) fn unit_text(volume: &Volume, unit: &str) -> String {
    let folder = volume.image.parent().unwrap_or(Path::new("/"));
    format!(
        "[Unit]\n\
         Description=calve volume {at}\n\
         RequiresMountsFor={}\n\
         Wants={wanted}\n\
         [Mount]\n\
         What={}\n\
         Where={at}\n\
         Type={}\n\
         Options={}\n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        folder.display(),
        volume.image.display(),
        volume.filesystem.name(),
        volume.filesystem.options(),
        at = volume.at.display(),
        wanted = direct_io_unit(unit),
    )
}

/// The unit that turns on direct I/O after the mount unit `unit`: mount(8) has no option for that.
pub(super) fn direct_io_unit(unit: &str) -> String {
    format!("{}-direct-io.service", unit.strip_suffix(".mount").unwrap_or(unit))
}

/// Not every filesystem below can do direct I/O, so systemd ignores a failure (`-`).
fn direct_io_text(volume: &Volume, unit: &str) -> String {
    let at = volume.at.display();
    format!(
        "[Unit]\n\
         Description=direct I/O for calve volume {at}\n\
         After={unit}\n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart=-/bin/sh -c 'exec losetup --direct-io=on \"$$(findmnt -no SOURCE {at})\"'\n"
    )
}

/// A step that needs root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Run(&'static str, Vec<OsString>),
    /// Lets the loop device below the folder bypass the host's page cache. Not every filesystem
    /// allows that, which is no failure.
    DirectIo(PathBuf),
    /// Gives the loop device the image's new size.
    NewSize(PathBuf),
    /// Fails if a removal of the volume would lose something.
    IsEmpty(PathBuf),
    Write(PathBuf, String),
    Remove(PathBuf),
    AddLine(String),
    RemoveLine(String),
}

fn run<const N: usize>(program: &'static str, words: [&dyn AsRef<std::ffi::OsStr>; N]) -> Step {
    Step::Run(program, words.iter().map(|word| word.as_ref().to_owned()).collect())
}

/// A step with the step that undoes it.
pub(super) type Undoable = (Step, Option<Step>);

/// The steps that mount an image, now and at every boot. A mounted image is not mounted again.
pub(super) fn steps_to_mount(
    volume: &Volume,
    boot: &AtBoot,
    owner: Owner,
    is_mounted: bool,
) -> Vec<Undoable> {
    let at = &volume.at;
    let mut steps = Vec::new();
    match boot {
        AtBoot::Systemd(unit) => {
            let reload = || run("systemctl", [&"daemon-reload"]);
            for (unit, text) in [
                (direct_io_unit(unit), direct_io_text(volume, unit)),
                (unit.clone(), unit_text(volume, unit)),
            ] {
                let path = Path::new(UNITS).join(unit);
                steps.push((Step::Write(path.clone(), text), Some(Step::Remove(path))));
            }
            steps.push((reload(), Some(reload())));
            steps.push((
                run("systemctl", [&"enable", &"--now", unit]),
                Some(run("systemctl", [&"disable", &"--now", unit])),
            ));
        }
        AtBoot::Fstab => {
            let line = fstab_line(volume);
            steps.push((Step::AddLine(line.clone()), Some(Step::RemoveLine(line))));
            if !is_mounted {
                steps.push((run("mount", [at]), Some(run("umount", [at]))));
            }
        }
    }
    steps.push((Step::DirectIo(at.clone()), None));
    if volume.filesystem == Filesystem::Btrfs {
        // mkfs.btrfs gives the root folder to root, whoever runs it.
        steps.push((run("chown", [&owner.to_string(), at]), None));
    }
    steps
}

/// The steps after which nothing mounts the image any more.
pub(super) fn steps_to_unmount(
    volume: &Volume,
    boot: Option<&Record>,
    is_mounted: bool,
    action: RootAction,
) -> Vec<Undoable> {
    let at = &volume.at;
    let mut steps = Vec::new();
    if action == RootAction::UnmountEmpty {
        // Other processes used the volume while the user typed the password. Nothing is written
        // between this look and the unmount.
        let remount = |how: &str| run("mount", [&"-o", &format!("remount,{how}"), at]);
        steps.push((remount("ro"), Some(remount("rw"))));
        steps.push((Step::IsEmpty(at.clone()), None));
    }
    if is_mounted {
        steps.push((run("umount", [at]), None));
    }
    match boot {
        Some(Record::Unit(unit)) => {
            steps.push((run("systemctl", [&"disable", unit]), None));
            for unit in [unit.clone(), direct_io_unit(unit)] {
                steps.push((Step::Remove(Path::new(UNITS).join(unit)), None));
            }
            steps.push((run("systemctl", [&"daemon-reload"]), None));
        }
        Some(Record::Line(line)) => steps.push((Step::RemoveLine(line.clone()), None)),
        None => {}
    }
    steps
}

/// The steps after the image became longer.
pub(super) fn steps_to_grow(volume: &Volume) -> Vec<Undoable> {
    let at = &volume.at;
    let grow = match volume.filesystem {
        Filesystem::Xfs => run("xfs_growfs", [at]),
        Filesystem::Btrfs => run("btrfs", [&"filesystem", &"resize", &"max", at]),
    };
    vec![(Step::NewSize(at.clone()), None), (grow, None)]
}

/// The shell lines that do the same as the steps.
pub(super) fn shell_lines(steps: &[Undoable]) -> Vec<String> {
    let device = |at: &Path| format!("\"$(findmnt -no SOURCE {})\"", shell_word(at));
    let quoted = |text: &str| shell_word(Path::new(text));
    let line = |step: &Step| match step {
        Step::Run(program, words) => {
            let words = words.iter().map(|word| shell_word(Path::new(word)));
            std::iter::once((*program).to_owned()).chain(words).collect::<Vec<_>>().join(" ")
        }
        Step::DirectIo(at) => format!("losetup --direct-io=on {}", device(at)),
        Step::NewSize(at) => format!("losetup -c {}", device(at)),
        Step::IsEmpty(at) => format!("ls -A {}", shell_word(at)),
        Step::Write(path, text) => {
            let words: Vec<String> = text.lines().map(quoted).collect();
            format!("printf '%s\\n' {} > {}", words.join(" "), shell_word(path))
        }
        // It may be gone, or never have been there.
        Step::Remove(path) => format!("rm -f {}", shell_word(path)),
        Step::AddLine(line) => format!("echo {} >> {FSTAB}", quoted(line)),
        Step::RemoveLine(line) => {
            // `grep` ends with 1 if nothing else is in the file.
            let line = quoted(line);
            format!(
                "{{ grep -vxF {line} {FSTAB} || true; }} > {FSTAB}.new && cat {FSTAB}.new > {FSTAB} && \
                 rm {FSTAB}.new"
            )
        }
    };
    steps.iter().map(|(step, _)| line(step)).collect()
}

/// The record of a volume, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// The file name of the mount unit.
    Unit(String),
    /// The line in `/etc/fstab`.
    Line(String),
}

/// The volumes in the text of `/etc/fstab`.
pub(super) fn volumes_in_fstab(text: &str) -> Vec<(Volume, Record)> {
    let volume = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (image, at, name, options) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        let is_ours = !image.starts_with('#') && options.split(',').any(|option| option == MARK);
        let filesystem = Filesystem::named(name).filter(|_| is_ours)?;
        let volume = Volume { at: unescaped(at), image: unescaped(image), filesystem };
        Some((volume, Record::Line(line.to_owned())))
    };
    text.lines().filter_map(volume).collect()
}

/// The volume of a mount unit.
pub(super) fn volume_in_unit(name: &str, text: &str) -> Option<(Volume, Record)> {
    let value =
        |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
    let is_ours = value("Options")?.split(',').any(|option| option == MARK);
    let filesystem = Filesystem::named(value("Type")?).filter(|_| is_ours)?;
    let volume = Volume { at: value("Where")?.into(), image: value("What")?.into(), filesystem };
    Some((volume, Record::Unit(name.to_owned())))
}

/// A size for a volume. An image has whole MiB, since some disks have sectors of 4 KiB.
pub(crate) fn volume_size(size: u64) -> Result<u64, &'static str> {
    match size / MIB * MIB {
        size if size < LEAST_BYTES => Err("a volume has at least 1G"),
        size if size > 1 << 50 => Err("a volume has at most 1024T"),
        size => Ok(size),
    }
}

/// The default size of a volume: three quarters of the free space of the host, in whole GiB. The
/// image takes only the space of its contents, so a smaller size would save nothing, and a larger
/// one could fill the host. `None` if the host has too little room for a volume.
pub(super) fn default_size(host_free: u64) -> Option<u64> {
    let size = (host_free / 4).saturating_mul(3).min(MOST_BYTES) / GIB * GIB;
    (size >= LEAST_BYTES).then_some(size)
}

/// The size and the free space of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) size: u64,
    pub(super) free: u64,
}

/// The room of a volume at `at`, and of the host that has its image.
pub(super) struct Spaces<'a> {
    pub(super) at: &'a Path,
    pub(super) image: &'a Path,
    pub(super) volume: Space,
    pub(super) host: Space,
}

/// A warning about the room of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Enough,
    /// The volume has less than a tenth of its room left.
    VolumeLittle,
    /// The volume may still grow by more than the host has, and the host has little left.
    HostLittle,
    /// The next writes may fail, although the volume has room.
    HostFull,
}

/// Judges the room of a volume and of its host. If the volume fills up, the program that writes
/// gets an error. If the host fills up, the volume's disk has an I/O error, and the kernel may shut
/// the filesystem down.
pub(super) fn room(volume: Space, host: Space) -> Room {
    let counts_on_it = host.free < volume.free;
    let full = (host.size / 50).clamp(64 * MIB, GIB);
    let little = (host.size / 10).clamp(256 * MIB, 10 * GIB);
    if counts_on_it && host.free < full {
        Room::HostFull
    } else if counts_on_it && host.free < little {
        Room::HostLittle
    } else if volume.free < volume.size / 10 {
        Room::VolumeLittle
    } else {
        Room::Enough
    }
}

/// The message for `room`, with advice. `is_volume` says whether it is a volume of calve's, and not
/// any other image on a loop device.
pub(super) fn advice(
    room: Room,
    spaces: &Spaces<'_>,
    is_volume: impl FnOnce() -> bool,
) -> Option<String> {
    let Spaces { at, image, volume, host } = *spaces;
    let (place, folder) = (shell_word(at), shell_word(image.parent().unwrap_or(image)));
    let is_volume = room != Room::Enough && is_volume();
    let what = if is_volume { "volume" } else { "filesystem" };
    Some(match room {
        Room::Enough => return None,
        Room::VolumeLittle => {
            let grow = match is_volume {
                true => format!(
                    "'calve volume grow {place} --size {}G' makes it twice as large, ",
                    volume.size.saturating_mul(2).div_ceil(GIB)
                ),
                false => String::new(),
            };
            format!(
                "the {what} {place} has only {} left: {grow}'calve drop NAME' and 'calve store gc' free space",
                bytes(volume.free)
            )
        }
        Room::HostLittle | Room::HostFull => format!(
            "the disk below the {what} {place} has only {} left, and writes in the {what} fail when it is full: free some \
             space in {folder}, or drop worktrees, which gives theirs back",
            bytes(host.free)
        ),
    })
}

/// The command that installs a program that is missing, by the `ID` and `ID_LIKE` of os-release(5).
pub(super) fn install_command(program: &str, os_release: &str) -> String {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    let ids = format!("{} {}", value("ID"), value("ID_LIKE"));
    let family = ids.split(' ').find_map(|id| {
        Some(match id {
            "debian" | "ubuntu" => "apt install",
            "fedora" | "rhel" | "centos" => "dnf install",
            "suse" | "opensuse" | "sles" => "zypper install",
            "arch" => "pacman -S",
            "alpine" => "apk add",
            _ => return None,
        })
    });
    let package = match (program, family) {
        ("mkfs.xfs" | "xfs_repair", _) => "xfsprogs",
        // Alpine has xfs_growfs in a package of its own.
        ("xfs_growfs", Some("apk add")) => "xfsprogs-extra",
        ("xfs_growfs", _) => "xfsprogs",
        ("mkfs.btrfs" | "btrfs", Some("zypper install")) => "btrfsprogs",
        ("mkfs.btrfs" | "btrfs", _) => "btrfs-progs",
        ("mount" | "umount", Some("apt install")) => "mount",
        // Alpine has a package for each of these.
        ("losetup" | "blkid" | "mount" | "umount", Some("apk add")) => program,
        ("systemctl" | "systemd-escape", _) => "systemd",
        ("chown", _) => "coreutils",
        _ => "util-linux",
    };
    match family {
        Some(family) => format!("{family} {package}"),
        None => format!("install the package {package}"),
    }
}

#[cfg(test)]
mod tests;
