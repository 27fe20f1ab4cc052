//! The steps that need root, and `calve volume as-root`, which runs them.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use calve::ErrorKind;
use clap::ValueEnum;

use super::found::{Found, no_volume, unmounting};
use super::machine::{self, do_all, is_root};
use super::plan::{self, Owner, RootAction, Undoable};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::session::Session;

/// Shows the steps that need root, and runs them with sudo. Without sudo, prints the lines to run
/// by hand and returns the exit code.
pub(super) fn by_root(
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
pub(super) fn as_root(
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
        RootAction::Unmount | RootAction::UnmountEmpty => unmounting(at)?,
        _ => Found::at(at)?.ok_or_else(|| no_volume(at))?,
    };
    let is_mounted = found.mount.is_some();
    let steps = match action {
        RootAction::Mount => {
            plan::steps_to_mount(&found.volume, &machine::at_boot(at)?, owner, is_mounted)
        }
        RootAction::Unmount | RootAction::UnmountEmpty => {
            plan::steps_to_unmount(&found.volume, found.record.as_ref(), is_mounted, action)
        }
        RootAction::Grow => plan::steps_to_grow(&found.volume),
    };
    do_all(&steps, &session.signals.cancel()).map(|()| Exit::Done)
}
