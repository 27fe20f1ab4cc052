//! Finds the volumes of this machine and their mounts, from the kernel and `/etc`.

use std::cell::LazyCell;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::plan::{self, FSTAB, Record, UNITS, Volume};
use crate::mounts::{Mount, mounted};
use crate::text::{shell_word, shown};

/// The mount at exactly this folder, if a loop device is mounted there.
pub(super) fn mount_at(mounts: &[Mount], at: &Path) -> Option<Mount> {
    let mount = mounts.iter().rev().find(|mount| mount.at == at)?;
    backing_file(mount).map(|_| mount.clone())
}

/// The image below a mount.
pub(super) fn backing_file(mount: &Mount) -> Option<PathBuf> {
    image_of_device(&mount.source)
}

fn image_of_device(device: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(sys(device)?.join("backing_file")).ok()?;
    Some(text.strip_suffix('\n').unwrap_or(&text).into())
}

/// A loop device that has this image, wherever it is mounted.
pub(super) fn device_of(image: &Path) -> Option<String> {
    let inode = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let wanted = inode(image)?;
    let mut entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    entries.find_map(|entry| {
        let device = format!("/dev/{}", entry.file_name().to_string_lossy());
        (inode(&image_of_device(&device)?)? == wanted).then_some(device)
    })
}

/// Whether the loop device bypasses the host's page cache.
pub(super) fn has_direct_io(mount: &Mount) -> Option<bool> {
    let text = fs::read_to_string(sys(&mount.source)?.join("dio")).ok()?;
    Some(text.trim() == "1")
}

fn sys(device: &str) -> Option<PathBuf> {
    let name = device.strip_prefix("/dev/").filter(|name| name.starts_with("loop"))?;
    Some(Path::new("/sys/block").join(name).join("loop"))
}

/// The volumes that are mounted at boot.
pub(super) fn recorded() -> Vec<(Volume, Record)> {
    let fstab = fs::read_to_string(FSTAB).unwrap_or_default();
    let mut volumes = plan::volumes_in_fstab(&fstab);
    for entry in fs::read_dir(UNITS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".mount")
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            volumes.extend(plan::volume_in_unit(&name, &text));
        }
    }
    volumes.sort_by(|(one, _), (other, _)| one.at.cmp(&other.at));
    volumes
}

/// The command that mounts a volume that is recorded and not mounted.
pub(super) fn mount_command(volume: &Volume, record: &Record) -> String {
    match record {
        Record::Unit(unit) => format!("sudo systemctl start {}", shell_word(Path::new(unit))),
        Record::Line(_) => format!("sudo mount {}", shell_word(&volume.at)),
    }
}

/// What is wrong with a volume that is recorded and not mounted, and the way out.
pub(super) fn why_away(volume: &Volume, record: &Record) -> String {
    let Volume { at, image, .. } = volume;
    // An image that calve may not look at is left to the command that mounts it.
    match fs::symlink_metadata(image) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => format!(
            "its image {} is gone: move it back there, or forget the volume with 'calve volume remove --force {}'",
            shown(image),
            shell_word(at)
        ),
        _ => format!("it is not mounted; to mount it: {}", mount_command(volume, record)),
    }
}

/// Why the volume of a path is not mounted, and the way out; `None` if it is mounted.
pub(crate) fn volume_away(path: &Path) -> Option<String> {
    // Most machines have no volume.
    let mounts = LazyCell::new(mounted);
    let is_away =
        |volume: &Volume| path.starts_with(&volume.at) && mount_at(&mounts, &volume.at).is_none();
    let (volume, record) = recorded().into_iter().find(|(volume, _)| is_away(volume))?;
    Some(why_away(&volume, &record))
}
