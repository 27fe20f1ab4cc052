//! Asks the machine about volumes, and runs the steps of [`plan`].

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use calve::{Cancel, ErrorKind};

use super::facts::{backing_file, mount_at};
use super::inside::must_be_empty;
use super::plan::{self, AtBoot, FSTAB, Filesystem, LABEL, Room, Space, Spaces, Step, Undoable};
use crate::failure::stored::own;
use crate::failure::{Failure, Kind};
use crate::mounts::{mount_of, mounted};
use crate::system::{OTHER_MOST, lock_within};

/// Folders of programs that the `PATH` of a plain user often lacks.
const MORE_PATHS: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];

/// The path of a program.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A program in the current folder must not get root's rights.
    let folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    folders.chain(MORE_PATHS.map(PathBuf::from)).map(|folder| folder.join(name)).find(|path| {
        fs::metadata(path)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// The path of a program; an error if it is not installed.
pub(super) fn needed(name: &'static str) -> Result<PathBuf, Failure> {
    program(name).ok_or_else(|| {
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        own(
            "run",
            Path::new(name),
            ErrorKind::SourceNotFound,
            "it is not installed",
            plan::install_command(name, &os_release),
        )
    })
}

/// Runs a program to its end and returns its output. If the program fails, its output is the cause
/// of the error.
pub(super) fn output(name: &'static str, words: &[OsString]) -> Result<String, Failure> {
    let path = needed(name)?;
    let ran = calve::output_of(Command::new(&path).args(words).env("LC_ALL", "C"))
        .map_err(|error| Failure::io("run", vec![path], &error))?;
    if ran.status.success() {
        return Ok(String::from_utf8_lossy(&ran.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let cause = match lines[..] {
        [] => ran.status.to_string(),
        _ => lines.join("; "),
    };
    let mut failure = own("run", Path::new(name), ErrorKind::Io, &cause, "");
    failure.hint = None;
    Err(failure)
}

fn words<const N: usize>(words: [&OsStr; N]) -> Vec<OsString> {
    words.map(OsStr::to_owned).into()
}

/// The way in which a new volume will be mounted at boot.
pub(super) fn at_boot(at: &Path) -> Result<AtBoot, Failure> {
    // sd_booted(3) tests the same.
    if !fs::symlink_metadata("/run/systemd/system").is_ok_and(|meta| meta.is_dir()) {
        return Ok(AtBoot::Fstab);
    }
    let given = ["-p".as_ref(), "--suffix=mount".as_ref(), at.as_os_str()];
    let unit = output("systemd-escape", &words(given))?;
    Ok(AtBoot::Systemd(unit.trim_end().to_owned()))
}

/// The filesystem in an image that calve made; `None` if the file is anything else.
pub(super) fn made_by_us(image: &Path) -> Result<Option<Filesystem>, Failure> {
    let given = ["-p".as_ref(), "-o".as_ref(), "export".as_ref(), image.as_os_str()];
    // blkid ends with 2 if it finds nothing.
    let Ok(text) = output("blkid", &words(given)) else { return needed("blkid").map(|_| None) };
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Ok(Filesystem::named(value("TYPE").unwrap_or_default())
        .filter(|_| value("LABEL") == Some(LABEL)))
}

/// The size and the free space of the filesystem of a path.
pub(super) fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space { size: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
}

/// The room on the loop device of a path and on the host of that device, with the mount and the
/// image. `None` if the path is on no loop device. `is_volume` says whether one of calve's volumes
/// is mounted at a folder.
pub(super) fn room_of(path: &Path, is_volume: fn(&Path) -> bool) -> Option<(Room, String)> {
    let path = fs::canonicalize(path).ok()?;
    let mounts = mounted();
    let mount = mount_of(&mounts, &path)?;
    let image = backing_file(mount)?;
    let (volume, host) = (space(&mount.at).ok()?, space(image.parent()?).ok()?);
    let room = plan::room(volume, host);
    let is_volume = || is_volume(&mount.at);
    let spaces = Spaces { at: &mount.at, image: &image, volume, host };
    Some((room, plan::advice(room, &spaces, is_volume)?))
}

/// Runs the steps as root. If one fails or a signal came, this undoes the earlier ones, the last
/// first.
pub(super) fn do_all(steps: &[Undoable], cancel: &Cancel) -> Result<(), Failure> {
    let mut done: Vec<&Step> = Vec::new();
    for (step, undo) in steps {
        let result = match cancel.is_cancelled() {
            true => Err(Failure::cancelled("change volume", Vec::new())),
            // The failed step is undone, too: a unit may be enabled although it could not be
            // started.
            false => {
                done.extend(undo);
                do_one(step)
            }
        };
        if let Err(failure) = result {
            for step in done.iter().rev() {
                // The error names the first failure.
                let _ = do_one(step);
            }
            return Err(failure);
        }
    }
    Ok(())
}

fn do_one(step: &Step) -> Result<(), Failure> {
    let device = |at: &Path| {
        let mount = mount_at(&mounted(), at);
        mount.map(|mount| OsString::from(mount.source)).ok_or_else(|| {
            let why = "no loop device is mounted there";
            own("change volume", at, ErrorKind::Io, why, "'calve volume status' says what is there")
        })
    };
    let write = |path: &Path, error: io::Error| Failure::writing("write", path, &error);
    match step {
        // A volume is remounted to be removed.
        Step::Run(name @ "umount", words) => when_idle(name, words),
        Step::Run(name @ "mount", words) if words.len() > 1 => when_idle(name, words),
        Step::Run(name, words) => output(name, words).map(drop),
        Step::DirectIo(at) => {
            let _ = output("losetup", &["--direct-io=on".into(), device(at)?]);
            Ok(())
        }
        Step::NewSize(at) => output("losetup", &["-c".into(), device(at)?]).map(drop),
        Step::IsEmpty(at) => {
            device(at)?;
            must_be_empty(at)
        }
        Step::Write(path, text) => replace(path, text, 0o644).map_err(|error| write(path, error)),
        Step::Remove(path) => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::io("remove", vec![path.clone()], &error))
            }
            _ => Ok(()),
        },
        Step::AddLine(line) => change_fstab(|text| with_line(text, line)),
        Step::RemoveLine(line) => change_fstab(|text| without_line(text, line)),
    }
}

/// Changes a mount, and waits some seconds for processes that are about to end: `calve drop` deletes
/// files in the background.
fn when_idle(name: &'static str, words: &[OsString]) -> Result<(), Failure> {
    const TRIES: u32 = 50;
    for _ in 1..TRIES {
        match output(name, words) {
            Err(failure) if failure.cause.contains("busy") => {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            result => return result.map(drop),
        }
    }
    output(name, words).map(drop)
}

/// The text with the line at its end, unless the text already has it.
fn with_line(text: &str, line: &str) -> String {
    let mut text = text.to_owned();
    if text.lines().any(|there| there == line) {
        return text;
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
    text
}

fn without_line(text: &str, line: &str) -> String {
    text.split_inclusive('\n').filter(|there| there.trim_end_matches('\n') != line).collect()
}

/// Replaces `/etc/fstab` as a whole, or not at all. Another calve waits; and if another program
/// changed the file meanwhile, this begins again with that text.
fn change_fstab(change: impl Fn(&str) -> String) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::writing("write", Path::new(FSTAB), &error);
    // The file may be a link, which stays.
    let path = fs::canonicalize(FSTAB).unwrap_or_else(|_| FSTAB.into());
    let folder = fs::File::open(path.parent().unwrap_or(&path)).map_err(failed)?;
    lock_within(&folder, OTHER_MOST).map_err(failed)?;
    let read = || match fs::read_to_string(&path) {
        Ok(text) => Ok((text, fs::metadata(&path)?.mode() & 0o7777)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((String::new(), 0o644)),
        Err(error) => Err(error),
    };
    loop {
        let (text, mode) = read().map_err(failed)?;
        let changed = change(&text);
        if changed == text {
            return Ok(());
        }
        let staged = stage(&path, &changed, mode).map_err(failed)?;
        if read().map_err(failed)?.0 == text {
            return fs::rename(&staged, &path).map_err(failed);
        }
    }
}

fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    fs::rename(stage(path, text, mode)?, path)
}

/// Writes a file that will replace the one at `path`.
fn stage(path: &Path, text: &str, mode: u32) -> io::Result<PathBuf> {
    let staged = plan::with_suffix(path, ".calve-new");
    let _ = fs::remove_file(&staged);
    let mut file = fs::File::create_new(&staged)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(staged)
}

/// Runs calve once more as root, which does the part that only root can do.
pub(super) fn as_root(words: &[OsString]) -> Result<(), Failure> {
    let calve = std::env::current_exe()
        .map_err(|error| Failure::io("find the program", Vec::new(), &error))?;
    let sudo = needed("sudo")?;
    // The password is asked for on the terminal.
    let ended = Command::new(&sudo)
        .arg("--")
        .arg(calve)
        .args(words)
        .stdout(Stdio::null())
        .status()
        .map_err(|error| Failure::io("run", vec![sudo.clone()], &error))?;
    if ended.success() {
        return Ok(());
    }
    let why = "the part that needs root was not done";
    let hint = "--no-sudo prints the lines for root, to be run by hand";
    Err(own("run", &sudo, ErrorKind::PermissionDenied, why, hint))
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The owner of a new volume: the user who runs calve, with or without sudo.
pub(super) fn owner() -> plan::Owner {
    let of_sudo = |name: &str| std::env::var(name).ok()?.parse().ok();
    match (is_root(), of_sudo("SUDO_UID"), of_sudo("SUDO_GID")) {
        (true, Some(uid), Some(gid)) => plan::Owner { uid, gid },
        _ => plan::Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        },
    }
}

/// Whether an error says no more than that a program is missing.
pub(super) fn is_missing_program(failure: &Failure) -> bool {
    failure.operation == "run" && failure.kind == Kind::Library(ErrorKind::SourceNotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_added_once_and_removed_without_a_trace() {
        for (text, with) in [
            ("", "new\n"),
            ("old\n", "old\nnew\n"),
            ("old", "old\nnew\n"),
            ("new\n", "new\n"),
            ("# new\n", "# new\nnew\n"),
        ] {
            assert_eq!(with_line(text, "new"), with, "{text:?}");
        }
        for (text, without) in [
            ("", ""),
            ("new\n", ""),
            ("old\nnew\nlast\n", "old\nlast\n"),
            ("new x\n# new", "new x\n# new"),
            ("a\nnew", "a\n"),
        ] {
            assert_eq!(without_line(text, "new"), without, "{text:?}");
        }
    }
}
