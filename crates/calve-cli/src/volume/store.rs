//! Stores on volumes: the place of a new one, and the room that is left for one.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use calve::{ErrorKind, ReflinkOutcome, Store};

use super::facts::volume_away;
use super::found::{is_there, is_volume};
use super::machine::room_of;
use super::plan::Room;
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::output::Output;
use crate::text::{shell_word, shown};

/// Fails if the host of the volume has hardly any room left: the next writes would end in I/O
/// errors. Warns if there is little room.
pub(crate) fn must_have_room(store: &Path, output: Output) -> Result<(), Failure> {
    match room_of(store, is_volume) {
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
    room_of(path, is_volume).map(|(_, advice)| advice)
}

/// Fails if something would be made below a volume that is not mounted, which then hides it.
pub(crate) fn must_be_mounted(operation: &'static str, made: &Path) -> Result<(), Failure> {
    let real = std::path::absolute(made).and_then(|path| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
        _ => Ok(path),
    });
    match real.ok().and_then(|path| volume_away(&path)) {
        Some(hint) => {
            let why = "a volume belongs there";
            Err(own(operation, made, ErrorKind::SourceNotFound, why, hint))
        }
        None => Ok(()),
    }
}

/// The error for a volume that is inside a project or a worktree.
pub(super) fn inside_tree(operation: &'static str, at: &Path, root: &Path) -> Failure {
    let why = format!(
        "it is inside {}: snapshots there would have its image, and a restore would replace the image",
        shown(root)
    );
    own(operation, at, ErrorKind::Overlap, &why, "choose a folder outside of it")
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
    let hint = || match volume_away(&fs::canonicalize(at).unwrap_or_else(|_| at.to_owned())) {
        Some(why) => format!("a volume belongs there: {why}"),
        None => format!("'calve volume create {word}' makes a volume"),
    };
    match probe {
        Ok(probe) if probe.outcome == ReflinkOutcome::Cloned => {}
        Ok(_) => {
            return fails(ErrorKind::ReflinkRefused, "files there cannot share blocks", hint());
        }
        Err(error) => {
            let failure = Failure::io("make store on", vec![at.to_owned()], &error);
            return Err(failure.hinted(hint()));
        }
    }
    let project = fs::canonicalize(project)
        .map_err(|error| Failure::io("open project", vec![project.to_owned()], &error))?;
    let real = fs::canonicalize(at).unwrap_or_else(|_| at.to_owned());
    if real.starts_with(&project) {
        return Err(inside_tree("make store on", at, &project));
    }
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
