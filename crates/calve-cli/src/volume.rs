//! `calve volume`: a filesystem that can share blocks, in an image file, for machines that have
//! none.
//!
//! The user makes the image; root only mounts it. The programs of the filesystems do the work.
//! [`plan`] decides what happens, and [`machine`] does it.
//!
//! # Killed at any moment
//! An image has its name only when it is whole. What a killed `create` leaves is found by its name,
//! and the next `create` goes on: every step may be done twice. `remove` first gives the image
//! another name; the next `remove` goes on from there.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use calve::{ErrorKind, ReflinkOutcome, Store};
use clap::ValueEnum;
use serde::Serialize;

pub(crate) mod facts;
mod machine;
pub(crate) mod plan;

use crate::args::{CreateArgs, GrowArgs, RemoveArgs, VolumeVerb};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::output::{Output, PathFields};
use crate::session::Session;
use crate::table::{Cell, Column, Table};
use crate::text::{counted, shell_word, shown};
use facts::{how_to_mount, mount_at, mount_command, mounted, recorded};
use machine::{do_all, is_root, needed};
use plan::{Filesystem, Mount, Owner, Record, Room, RootAction, Undoable, Volume};

pub(crate) fn run(verb: &VolumeVerb, session: Session<'_>) -> Result<Exit, Failure> {
    match verb {
        VolumeVerb::Create(args) => create(args, session),
        VolumeVerb::List => list(session),
        VolumeVerb::Status { at } => status(at.as_deref(), session),
        VolumeVerb::Grow(args) => grow(args, session),
        VolumeVerb::Check { at, repair } => check(at, *repair, session),
        VolumeVerb::Remove(args) => remove(args, session),
        VolumeVerb::AsRoot { action, at, owner } => as_root(*action, at, *owner, session),
    }
}

/// A volume as it was found on this machine.
struct Found {
    volume: Volume,
    record: Option<Record>,
    mount: Option<Mount>,
}

impl Found {
    /// Finds the volume at a folder: `/etc` records it, or its image exists.
    fn at(at: &Path) -> Result<Option<Self>, Failure> {
        let mount = mount_at(&mounted(), at);
        let known = recorded().into_iter().find(|(volume, _)| volume.at == at);
        if let Some((volume, record)) = known {
            return Ok(Some(Self { volume, record: Some(record), mount }));
        }
        let image = plan::image_of(at);
        if !is_there(&image)? {
            return Ok(None);
        }
        Ok(machine::made_by_us(&image)?.map(|filesystem| {
            let volume = Volume { at: at.to_owned(), image, filesystem };
            Self { volume, record: None, mount }
        }))
    }

    /// Finds the volume that an argument names.
    fn named(word: &Path, session: Session<'_>) -> Result<Self, Failure> {
        let at = place(word, session)?;
        Self::at(&at)?.ok_or_else(|| no_volume(&at))
    }
}

/// Whether a volume of calve's is at this folder, and not any other image on a loop device.
fn is_volume(at: &Path) -> bool {
    Found::at(at).is_ok_and(|found| found.is_some())
}

fn no_volume(at: &Path) -> Failure {
    own(
        "find volume",
        at,
        ErrorKind::SourceNotFound,
        "no volume is there",
        "'calve volume list' lists the volumes",
    )
}

/// The path of a folder without links above the folder. The folder need not exist.
fn place(word: &Path, session: Session<'_>) -> Result<PathBuf, Failure> {
    let given = session.common.resolve(word);
    let failed = |error: io::Error| Failure::io("find volume", vec![given.clone()], &error);
    let absolute = std::path::absolute(&given).map_err(failed)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        let why = "it is no folder that something could be mounted at";
        return Err(own("find volume", &given, ErrorKind::InvalidName, why, "choose a new folder"));
    };
    let parent = fs::canonicalize(parent)
        .map_err(|error| Failure::writing("find the folder of volume", &given, &error))?;
    Ok(parent.join(name))
}

fn is_there(path: &Path) -> Result<bool, Failure> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::io("look at", vec![path.to_owned()], &error)),
    }
}

fn create(args: &CreateArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let at = place(&args.at, session)?;
    if !plan::is_plain(&at) {
        let why = "a path in /etc/fstab and in units has no spaces or special characters";
        let hint = "choose a folder of letters, digits and '._-+@'";
        return Err(own("make volume", &at, ErrorKind::InvalidName, why, hint));
    }
    let old = plan::old_image_of(&at);
    if is_there(&old)? {
        let hint = format!("'calve volume remove {}' completes that", shell_word(&at));
        let why = "a volume that was there is being removed";
        return Err(own("make volume", &at, ErrorKind::DestinationExists, why, hint));
    }
    for name in ["mount", "losetup", "blkid"] {
        needed(name)?;
    }
    let owner = machine::owner();
    let output = session.output;
    let mut made = Made::default();
    let found = match Found::at(&at)? {
        Some(found) => {
            let is_owned = || fs::metadata(&at).is_ok_and(|meta| meta.uid() == owner.uid);
            if found.mount.is_some() && found.record.is_some() && is_owned() {
                output.summary(format_args!("nothing to do: the volume {} is there", shown(&at)));
                return told_as_made(found, session);
            }
            output.summary(format_args!(
                "going on with {}, which an unfinished calve volume create left",
                shown(&found.volume.image)
            ));
            found
        }
        None => {
            let volume = make_image(args, &at, owner, &mut made, session)?;
            Found { volume, record: None, mount: None }
        }
    };
    made.folder(&at)?;
    let boot = machine::at_boot(&at)?;
    let steps = plan::steps_to_mount(&found.volume, &boot, owner, found.mount.is_some());
    let by_hand = match by_root(RootAction::Mount, &at, owner, &steps, args.no_sudo, session) {
        Ok(by_hand) => by_hand,
        Err(failure) => {
            made.undo();
            return Err(failure);
        }
    };
    if let Some(exit) = by_hand {
        return Ok(exit);
    }
    let found = Found::at(&at)?.filter(|found| found.mount.is_some());
    let found = found.ok_or_else(|| {
        let hint = "'calve volume status' says what is there";
        own("mount volume", &at, ErrorKind::Io, "it is not mounted after all", hint)
    })?;
    output.summary(format_args!(
        "made a volume: in a project, 'calve init --volume {}' puts its store and worktrees there",
        shell_word(&at)
    ));
    told_as_made(found, session)
}

fn told_as_made(found: Found, session: Session<'_>) -> Result<Exit, Failure> {
    let output = session.output;
    if output.json {
        output.document(&VolumeDocument::new(&Standing::of(found)))?;
    } else {
        output.results(&output.path_lines([found.volume.at.as_path()]))?;
    }
    Ok(Exit::Done)
}

/// The files that `create` makes without root.
#[derive(Default)]
struct Made {
    image: Option<PathBuf>,
    folder: Option<PathBuf>,
}

impl Made {
    /// Makes the folder that the volume is mounted at. While nothing is mounted there, its mode
    /// keeps users from writing into it by mistake.
    fn folder(&mut self, at: &Path) -> Result<(), Failure> {
        match fs::DirBuilder::new().mode(0o555).create(at) {
            Ok(()) => self.folder = Some(at.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                self.undo();
                return Err(Failure::writing("make folder", at, &error));
            }
        }
        Ok(())
    }

    fn undo(&self) {
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir(folder);
        }
        if let Some(image) = &self.image {
            let _ = fs::remove_file(image);
        }
    }
}

/// Makes the image. It gets its name when it is whole.
fn make_image(
    args: &CreateArgs,
    at: &Path,
    owner: Owner,
    made: &mut Made,
    session: Session<'_>,
) -> Result<Volume, Failure> {
    let fails = |kind, why: &str, hint: String| Err(own("make volume", at, kind, why, hint));
    let image = plan::image_of(at);
    if is_there(&image)? {
        let why = "another file has the name of its image";
        return fails(
            ErrorKind::DestinationExists,
            why,
            format!("move {} away, or choose another folder", shell_word(&image)),
        );
    }
    match fs::read_dir(at).map(|mut entries| entries.next().is_none()) {
        Ok(true) if mount_at(&mounted(), at).is_none() => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() != io::ErrorKind::NotADirectory => {
            return Err(Failure::io("look at", vec![at.to_owned()], &error));
        }
        _ => {
            let why = "something is there already";
            let hint = "choose a new or an empty folder".to_owned();
            return fails(ErrorKind::DestinationExists, why, hint);
        }
    }
    let folder = at.parent().unwrap_or(at);
    let probe = calve::probe(folder).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Failure {
            hint: Some(format!(
                "choose a folder of yours, such as ~/trees, or run it as root: sudo calve volume create {}",
                shell_word(at)
            )),
            ..Failure::io("make volume", vec![at.to_owned()], &error)
        },
        _ => Failure::writing("make volume", at, &error),
    })?;
    if probe.outcome == ReflinkOutcome::Cloned {
        let why = "the filesystem there can share blocks, so no volume is needed";
        return fails(
            ErrorKind::DestinationExists,
            why,
            format!(
                "'calve init --store {}' puts a store there",
                shell_word(&folder.join("NAME.calve"))
            ),
        );
    }
    let host = machine::space(folder)
        .map_err(|error| Failure::io("look at", vec![folder.to_owned()], &error))?;
    let Some(size) = args.size.or_else(|| plan::default_size(host.free)) else {
        let why = "there is too little room: a volume has at least 1 GiB";
        let kind = ErrorKind::StorageFull;
        return fails(kind, why, format!("free some space; df -h {}", shell_word(folder)));
    };
    if size > host.free {
        session.output.warning(format_args!(
            "the volume may grow to {}, and the disk below it has {} free: 'calve volume status' says when it gets short",
            session.output.size(size),
            session.output.size(host.free)
        ));
    }
    let filesystem = args.filesystem.unwrap_or(Filesystem::Btrfs);
    needed(filesystem.mkfs())?;
    let new = plan::new_image_of(at);
    match fs::remove_file(&new) {
        Ok(()) => session.output.summary(format_args!(
            "removed {}, which an unfinished calve volume create left",
            shown(&new)
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::io("remove", vec![new], &error)),
    }
    let failed = |error: io::Error| Failure::writing("make the image of volume", &new, &error);
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(failed)?;
    made.image = Some(new.clone());
    let protofile = plan::protofile_of(at);
    let fill = || -> Result<(), Failure> {
        file.set_len(size).map_err(failed)?;
        fs::write(&protofile, plan::protofile(owner)).map_err(failed)?;
        machine::output(filesystem.mkfs(), &filesystem.make(&new, &protofile))?;
        if is_root() {
            std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid)).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        if session.signals.cancel().is_cancelled() {
            return Err(Failure::cancelled("make volume", vec![at.to_owned()]));
        }
        fs::rename(&new, &image).map_err(failed)
    };
    let filled = fill();
    let _ = fs::remove_file(&protofile);
    if let Err(failure) = filled {
        made.undo();
        return Err(failure);
    }
    made.image = Some(image.clone());
    Ok(Volume { at: at.to_owned(), image, filesystem })
}

/// Shows the steps that need root, and runs them with sudo. Without sudo, prints the lines to run
/// by hand and returns the exit code.
fn by_root(
    action: RootAction,
    at: &Path,
    owner: Owner,
    steps: &[Undoable],
    no_sudo: bool,
    session: Session<'_>,
) -> Result<Option<Exit>, Failure> {
    let output = session.output;
    let lines = plan::shell_lines(steps);
    if no_sudo {
        output.say("as root, run:");
        output.results(
            lines
                .iter()
                .flat_map(|line| [line.as_bytes(), b"\n"].concat())
                .collect::<Vec<u8>>()
                .as_slice(),
        )?;
        return Ok(Some(Exit::Done));
    }
    let has_sudo = is_root() || machine::program("sudo").is_some();
    output.say(if has_sudo { "root does this:" } else { "there is no sudo here; as root, run:" });
    for line in &lines {
        output.say(format_args!("  {line}"));
    }
    if !has_sudo {
        return Ok(Some(Exit::Findings));
    }
    if is_root() {
        return do_all(steps, &session.signals.cancel()).map(|()| None);
    }
    let action = action.to_possible_value().map(|value| value.get_name().to_owned());
    let words: [&OsStr; 6] = [
        "volume".as_ref(),
        "as-root".as_ref(),
        action.as_deref().unwrap_or_default().as_ref(),
        at.as_os_str(),
        "--owner".as_ref(),
        &OsString::from(owner.to_string()),
    ];
    machine::as_root(&words.map(OsStr::to_owned)).map(|()| None)
}

/// `calve volume as-root`: root plans the same steps once more and runs them.
fn as_root(
    action: RootAction,
    at: &Path,
    owner: Owner,
    session: Session<'_>,
) -> Result<Exit, Failure> {
    if !is_root() {
        let hint = "'calve help volume' lists the commands for users";
        return Err(own(
            "change volume",
            at,
            ErrorKind::PermissionDenied,
            "you are not root",
            hint,
        ));
    }
    let found = match action {
        RootAction::Unmount => unmounting(at)?,
        _ => Found::at(at)?.ok_or_else(|| no_volume(at))?,
    };
    let is_mounted = found.mount.is_some();
    let steps = match action {
        RootAction::Mount => {
            plan::steps_to_mount(&found.volume, &machine::at_boot(at)?, owner, is_mounted)
        }
        RootAction::Unmount => {
            plan::steps_to_unmount(&found.volume, found.record.as_ref(), is_mounted)
        }
        RootAction::Grow => plan::steps_to_grow(&found.volume),
    };
    do_all(&steps, &session.signals.cancel()).map(|()| Exit::Done)
}

/// Finds a volume whose removal may have begun: the image may already have its other name.
fn unmounting(at: &Path) -> Result<Found, Failure> {
    if let Some(found) = Found::at(at)? {
        return Ok(found);
    }
    let image = plan::old_image_of(at);
    if !is_there(&image)? {
        return Err(no_volume(at));
    }
    // The filesystem no longer matters.
    let volume = Volume { at: at.to_owned(), image, filesystem: Filesystem::Xfs };
    Ok(Found { volume, record: None, mount: mount_at(&mounted(), at) })
}

fn remove(args: &RemoveArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let at = place(&args.at, session)?;
    let (new, old) = (plan::new_image_of(&at), plan::old_image_of(&at));
    let output = session.output;
    // A killed `create` left it, and nobody can have used it.
    let _ = fs::remove_file(plan::protofile_of(&at));
    let had_new = is_there(&new)?;
    if had_new {
        fs::remove_file(&new).map_err(|error| Failure::io("remove", vec![new], &error))?;
    }
    let found = match unmounting(&at) {
        Err(_) if had_new => return removed(&at, session),
        found => found?,
    };
    let goes_on = is_there(&old)?;
    let image = plan::image_of(&at);
    if !goes_on && !args.force {
        may_be_removed(&found)?;
    }
    let steps = plan::steps_to_unmount(&found.volume, found.record.as_ref(), found.mount.is_some());
    if args.no_sudo {
        by_root(RootAction::Unmount, &at, machine::owner(), &steps, true, session)?;
        let file = if goes_on { &old } else { &image };
        let lines = format!("rm {}\nrmdir {}\n", shell_word(file), shell_word(&at));
        return output.results(lines.as_bytes()).map(|()| Exit::Done);
    }
    let failed = |error: io::Error| Failure::writing("remove volume", &at, &error);
    if !goes_on && is_there(&image)? {
        fs::rename(&image, &old).map_err(failed)?;
    }
    if !steps.is_empty() {
        let by_hand = by_root(RootAction::Unmount, &at, machine::owner(), &steps, false, session);
        if !matches!(by_hand, Ok(None)) {
            // The mount point must not get another name.
            if !goes_on && mount_at(&mounted(), &at).is_some() {
                let _ = fs::rename(&old, &image);
            }
            return by_hand.map(|exit| exit.unwrap_or(Exit::Findings)).map_err(|failure| Failure {
                hint: Some(format!(
                    "if a program or a shell still uses the volume, end it ('fuser -vm {}' names them), and try again",
                    shell_word(&at)
                )),
                ..failure
            });
        }
    }
    match fs::remove_file(&old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Failure::io("remove", vec![old], &error));
        }
        _ => {}
    }
    removed(&at, session)
}

fn removed(at: &Path, session: Session<'_>) -> Result<Exit, Failure> {
    // The folder is empty, unless somebody used it while nothing was mounted.
    let _ = fs::remove_dir(at);
    let output = session.output;
    output.summary(format_args!("removed the volume {}", shown(at)));
    if output.json {
        output.document(&RemovedDocument { path: PathFields::new(at) })?;
    }
    Ok(Exit::Done)
}

/// Fails if the removal would lose something.
fn may_be_removed(found: &Found) -> Result<(), Failure> {
    let at = &found.volume.at;
    let word = shell_word(at);
    let refuse = |why: &str, hint: String, details: Vec<PathBuf>| {
        Err(Failure {
            details: details.into(),
            ..own("remove volume", at, ErrorKind::Overlap, why, hint)
        })
    };
    if found.mount.is_none() {
        let how = found.record.as_ref().map_or_else(
            || format!("'calve volume create {word}' mounts it"),
            |record| format!("'{}' mounts it", mount_command(&found.volume, record)),
        );
        let hint = format!("{how}; --force removes it anyway");
        return refuse("it is not mounted, so calve cannot see what is in it", hint, Vec::new());
    }
    let inside = Inside::of(at)?;
    if inside.is_empty() {
        return Ok(());
    }
    let first = |paths: &[PathBuf]| paths.first().map(|path| shell_word(path));
    let worktree = first(&inside.worktrees)
        .map(|path| format!("'calve drop {path}' removes a worktree; "))
        .unwrap_or_default();
    let store = first(&inside.stores)
        .map(|path| format!("'rm -rf {path}' removes a store and its snapshots; "))
        .unwrap_or_default();
    let hint =
        format!("{worktree}{store}'calve volume remove --force {word}' deletes everything in it");
    refuse(&inside.text(), hint, inside.paths())
}

/// The contents of a volume that a removal would lose.
#[derive(Default)]
struct Inside {
    worktrees: Vec<PathBuf>,
    stores: Vec<PathBuf>,
    others: Vec<PathBuf>,
}

impl Inside {
    fn of(at: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io("look at", vec![at.to_owned()], &error);
        let mut inside = Self::default();
        let mut explained = Vec::new();
        let mut paths = Vec::new();
        for entry in fs::read_dir(at).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            paths.extend((!path.ends_with("lost+found")).then_some(path));
        }
        paths.sort();
        for path in &paths {
            // calve does not open a store that belongs to another user.
            let is_own = fs::symlink_metadata(path).is_ok_and(|meta| {
                meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw()
            });
            let Some(store) = is_own.then(|| Store::open(path).ok()).flatten() else { continue };
            // A store that does not say what it has is one of the other things there.
            let Ok(worktrees) = store.worktrees() else { continue };
            explained.push(path.clone());
            inside.stores.push(path.clone());
            for worktree in worktrees {
                if worktree.path().starts_with(at) && fs::symlink_metadata(worktree.path()).is_ok()
                {
                    explained.extend(worktree.path().parent().map(Path::to_owned));
                    inside.worktrees.push(worktree.path().to_owned());
                }
            }
        }
        // Dropped worktrees leave an empty folder, which is no loss.
        let is_empty =
            |path: &Path| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        let is_other = |path: &PathBuf| !explained.contains(path) && !is_empty(path);
        inside.others = paths.into_iter().filter(is_other).collect();
        Ok(inside)
    }

    fn is_empty(&self) -> bool {
        self.worktrees.is_empty() && self.stores.is_empty() && self.others.is_empty()
    }

    fn text(&self) -> String {
        let all = [
            (self.worktrees.len(), "worktree"),
            (self.stores.len(), "store"),
            (self.others.len(), "other file or folder"),
        ];
        let parts: Vec<String> = all
            .iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, what)| match (number, *what) {
                (2.., "other file or folder") => format!("{number} other files and folders"),
                _ => counted(*number as u64, what),
            })
            .collect();
        format!("in it: {}", parts.join(", "))
    }

    fn paths(self) -> Vec<PathBuf> {
        [self.worktrees, self.stores, self.others].concat()
    }
}

fn grow(args: &GrowArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let found = Found::named(&args.at, session)?;
    let Volume { at, image, .. } = &found.volume;
    let failed = |error: io::Error| Failure::writing("grow volume", image, &error);
    if found.mount.is_none() {
        let hint = "'calve volume status' says how to mount it";
        return Err(own("grow volume", at, ErrorKind::Io, "it is not mounted", hint));
    }
    let before = fs::metadata(image).map_err(failed)?.len();
    if args.size < before {
        let why = format!("it has {} already", session.output.size(before));
        let hint =
            "a volume can grow and not shrink: make another one, and move the projects there";
        return Err(own("grow volume", at, ErrorKind::DestinationExists, &why, hint));
    }
    // If a later step fails, the image only has unused room. The same command, run again, goes on.
    let file = fs::OpenOptions::new().write(true).open(image).map_err(failed)?;
    file.set_len(args.size).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    let steps = plan::steps_to_grow(&found.volume);
    let by_hand = by_root(RootAction::Grow, at, machine::owner(), &steps, args.no_sudo, session)?;
    if let Some(exit) = by_hand {
        return Ok(exit);
    }
    session.output.summary(format_args!(
        "the volume {} may hold {}",
        shown(at),
        session.output.size(args.size)
    ));
    told_as_made(found, session)
}

fn check(at: &Path, repair: bool, session: Session<'_>) -> Result<Exit, Failure> {
    let found = Found::named(at, session)?;
    let Volume { at, image, filesystem } = &found.volume;
    let word = shell_word(at);
    if found.mount.is_some() {
        let hint = format!("sudo umount {word} && calve volume check {word}");
        return Err(own("check volume", at, ErrorKind::Busy, "it is mounted", hint));
    }
    let Some((name, words)) = filesystem.check(image, repair) else {
        let why = "btrfs has no repair that is safe to run unasked";
        let hint = "move what can be read to a new volume; 'btrfs check' has a manual page";
        return Err(own("repair volume", at, ErrorKind::Io, why, hint));
    };
    let output = session.output;
    let said = match machine::output(name, &words) {
        Ok(_) => None,
        Err(failure) if machine::is_missing_program(&failure) => return Err(failure),
        Err(failure) => Some(failure.cause.into_string()),
    };
    match &said {
        None => output.summary(format_args!("{}: no damage", shown(at))),
        Some(said) => {
            output.warning(format_args!("{}: {name} found damage: {said}", shown(at)));
            if *filesystem == Filesystem::Xfs && !repair {
                output.say(format_args!(
                    "'calve volume check --repair {word}' mends what can be mended"
                ));
            }
        }
    }
    if let Some(record) = &found.record {
        output.summary(format_args!("to mount it again: {}", mount_command(&found.volume, record)));
    }
    if output.json {
        output.document(&CheckDocument {
            path: PathFields::new(at),
            sound: said.is_none(),
            said: said.as_deref(),
        })?;
    }
    Ok(if said.is_none() { Exit::Done } else { Exit::Findings })
}

/// A volume with its state.
struct Standing {
    found: Found,
    /// The size of the image, and the space that it takes on the host.
    image: Option<(u64, u64)>,
    space: Option<plan::Space>,
    host: Option<plan::Space>,
    has_direct_io: Option<bool>,
    advice: Vec<String>,
}

impl Standing {
    fn of(found: Found) -> Self {
        let Volume { at, image, .. } = &found.volume;
        let meta = fs::metadata(image).ok();
        let space = found.mount.as_ref().and_then(|_| machine::space(at).ok());
        let host = image.parent().and_then(|folder| machine::space(folder).ok());
        let has_direct_io = found.mount.as_ref().and_then(facts::has_direct_io);
        let word = shell_word(at);
        let mut advice = Vec::new();
        if let (Some(space), Some(host)) = (space, host) {
            let room = plan::room(space, host);
            advice.extend(plan::advice(room, space, host, (at, image), || true));
        }
        let is_old = is_there(&plan::old_image_of(at)).unwrap_or(false);
        match (&found.record, &found.mount) {
            _ if is_old => advice.push(format!(
                "it is being removed: 'calve volume remove {word}' completes that"
            )),
            (None, _) => advice.push(format!(
                "an unfinished calve volume create left it: 'calve volume create {word}' completes it, 'calve volume \
                 remove {word}' removes it"
            )),
            (Some(_), None) if meta.is_none() => {
                advice.push(format!("its image {} is gone", shown(image)));
            }
            (Some(record), None) => advice.push(format!(
                "it is not mounted; to mount it: {}",
                mount_command(&found.volume, record)
            )),
            _ => {}
        }
        let image = meta.map(|meta| (meta.len(), meta.blocks().saturating_mul(512)));
        Self { found, image, space, host, has_direct_io, advice }
    }

    fn all() -> Vec<Self> {
        let mounts = mounted();
        let found = |(volume, record): (Volume, Record)| {
            let mount = mount_at(&mounts, &volume.at);
            Self::of(Found { volume, record: Some(record), mount })
        };
        recorded().into_iter().map(found).collect()
    }
}

fn list(session: Session<'_>) -> Result<Exit, Failure> {
    let all = Standing::all();
    let output = session.output;
    if output.json {
        let volumes = all.iter().map(VolumeDocument::new).collect();
        return output.document(&ListDocument { volumes }).map(|()| Exit::Done);
    }
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |it| output.size(it));
    let mut table =
        Table::new([Column::Left, Column::Left, Column::Left, Column::Left, Column::Name]);
    for standing in &all {
        let volume = &standing.found.volume;
        let state = if standing.found.mount.is_some() { "mounted" } else { "not mounted" };
        table.row([
            Cell::from(volume.filesystem.name()),
            size(standing.image.map(|(size, _)| size)).into(),
            format!("{} free", size(standing.space.map(|space| space.free))).into(),
            state.into(),
            output.path(&volume.at).into(),
        ]);
    }
    output.table(&table)?;
    Ok(Exit::Done)
}

fn status(at: Option<&Path>, session: Session<'_>) -> Result<Exit, Failure> {
    let all = match at {
        Some(at) => {
            let at = place(at, session)?;
            let found = match Found::at(&at)? {
                Some(found) => found,
                None => unmounting(&at)?,
            };
            vec![Standing::of(found)]
        }
        None => Standing::all(),
    };
    let output = session.output;
    let is_well = all.iter().all(|standing| standing.advice.is_empty());
    if output.json {
        let volumes = all.iter().map(VolumeDocument::new).collect();
        output.document(&ListDocument { volumes })?;
    } else {
        if all.is_empty() {
            output.summary("there are no volumes; 'calve volume create DIR' makes one");
        }
        let mut table = Table::new([Column::Left, Column::Name]);
        for standing in &all {
            for (what, value) in standing.rows(session) {
                table.row([Cell::from(what), value.into()]);
            }
        }
        output.table(&table)?;
    }
    let advice: Vec<String> = all.iter().flat_map(|standing| standing.advice.clone()).collect();
    output.warnings(&advice);
    Ok(if is_well { Exit::Done } else { Exit::Findings })
}

impl Standing {
    fn rows(&self, session: Session<'_>) -> Vec<(&'static str, Vec<u8>)> {
        let output = session.output;
        let size = |bytes| output.size(bytes);
        let Volume { at, image, filesystem } = &self.found.volume;
        let mut rows = vec![("volume", output.path(at)), ("image", output.path(image))];
        let mut add = |what, text: String| rows.push((what, text.into_bytes()));
        add("filesystem", filesystem.name().to_owned());
        if let Some(space) = self.space {
            add("room", format!("{} free of {}", size(space.free), size(space.size)));
        }
        if let Some((_, taken)) = self.image {
            let host = self.host.map(|host| format!(", which has {} free", size(host.free)));
            add(
                "on the disk",
                format!("{} of the disk below{}", size(taken), host.unwrap_or_default()),
            );
        }
        let at_boot = match &self.found.record {
            Some(Record::Unit(unit)) => format!("by {unit}"),
            Some(Record::Line(_)) => format!("by {}", plan::FSTAB),
            None => "no".to_owned(),
        };
        add("mounted", if self.found.mount.is_some() { "yes" } else { "no" }.to_owned());
        add("at boot", at_boot);
        match (self.has_direct_io, &self.found.mount) {
            (Some(true), _) => add("direct I/O", "yes".to_owned()),
            (Some(false), Some(mount)) => {
                let command = format!("sudo losetup --direct-io=on {}", mount.source);
                add(
                    "direct I/O",
                    format!("no, so files are in memory twice; to turn it on: {command}"),
                );
            }
            _ => {}
        }
        rows
    }
}

/// Fails if the host of the volume has hardly any room left: the next writes would end in I/O
/// errors. Warns if there is little room.
pub(crate) fn must_have_room(store: &Path, output: Output) -> Result<(), Failure> {
    match machine::room_of(store, is_volume) {
        Some((Room::HostFull, advice)) => {
            let why = "the disk below its volume is full";
            Err(own("start worktrees of", store, ErrorKind::StorageFull, why, advice))
        }
        Some((_, advice)) => {
            output.warning(advice);
            Ok(())
        }
        None => Ok(()),
    }
}

/// The warning about the room of the volume that a path is on, if any.
pub(crate) fn warning(path: &Path) -> Option<String> {
    machine::room_of(path, is_volume).map(|(_, advice)| advice)
}

/// The place of a project's store on a volume: the first name that is free or already belongs to
/// this project.
pub(crate) fn store_on(at: &Path, project: &Path) -> Result<PathBuf, Failure> {
    let fails = |kind, why: &str, hint: String| Err(own("make store on", at, kind, why, hint));
    let word = shell_word(at);
    let probe = match fs::metadata(at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let hint = format!("'calve volume create {word}' makes a volume");
            return fails(ErrorKind::SourceNotFound, "nothing is there", hint);
        }
        _ => calve::probe(at),
    };
    let hint = || match how_to_mount(&fs::canonicalize(at).unwrap_or_else(|_| at.to_owned())) {
        Some(command) => format!("the volume is not mounted; to mount it: {command}"),
        None => format!("'calve volume create {word}' makes a volume"),
    };
    match probe {
        Ok(probe) if probe.outcome == ReflinkOutcome::Cloned => {}
        Ok(_) => {
            return fails(ErrorKind::ReflinkRefused, "files there cannot share blocks", hint());
        }
        Err(error) => {
            let failure = Failure::io("make store on", vec![at.to_owned()], &error);
            return Err(Failure { hint: Some(hint()), ..failure });
        }
    }
    let project = fs::canonicalize(project)
        .map_err(|error| Failure::io("open project", vec![project.to_owned()], &error))?;
    let name = project.file_name().unwrap_or(OsStr::new("project"));
    // The project already names a store.
    let known = Store::discover(&project).ok().filter(|found| found.root == project);
    for number in 1.. {
        let mut name = name.to_owned();
        if number > 1 {
            name.push(format!("-{number}"));
        }
        name.push(".calve");
        let path = at.join(name);
        let is_known = || {
            let path = fs::canonicalize(&path).ok();
            known.as_ref().is_some_and(|found| Some(found.store.path()) == path.as_deref())
        };
        let is_this_projects =
            || Store::open(&path).and_then(|store| store.project()).is_ok_and(|of| of == project);
        if !is_there(&path)? || is_known() || is_this_projects() {
            return Ok(path);
        }
    }
    Ok(at.join(name))
}

/// The JSON documents of `volume`; docs/json.md says what each field means.
#[derive(Serialize)]
struct ListDocument {
    volumes: Vec<VolumeDocument>,
}

#[derive(Serialize)]
struct VolumeDocument {
    #[serde(flatten)]
    path: PathFields,
    image: String,
    filesystem: &'static str,
    size_bytes: Option<u64>,
    image_bytes: Option<u64>,
    free_bytes: Option<u64>,
    host_free_bytes: Option<u64>,
    mounted: bool,
    at_boot: Option<&'static str>,
    direct_io: Option<bool>,
    advice: Vec<String>,
}

impl VolumeDocument {
    fn new(standing: &Standing) -> Self {
        let Volume { at, image, filesystem } = &standing.found.volume;
        Self {
            path: PathFields::new(at),
            image: image.display().to_string(),
            filesystem: filesystem.name(),
            size_bytes: standing.image.map(|(size, _)| size),
            image_bytes: standing.image.map(|(_, taken)| taken),
            free_bytes: standing.space.map(|space| space.free),
            host_free_bytes: standing.host.map(|host| host.free),
            mounted: standing.found.mount.is_some(),
            at_boot: standing.found.record.as_ref().map(|record| match record {
                Record::Unit(_) => "systemd",
                Record::Line(_) => "fstab",
            }),
            direct_io: standing.has_direct_io,
            advice: standing.advice.clone(),
        }
    }
}

#[derive(Serialize)]
struct RemovedDocument {
    #[serde(flatten)]
    path: PathFields,
}

#[derive(Serialize)]
struct CheckDocument<'a> {
    #[serde(flatten)]
    path: PathFields,
    sound: bool,
    said: Option<&'a str>,
}
