//! `calve volume remove`, and what a removal would lose.

use std::fs;
use std::io;
use std::path::Path;

use calve::ErrorKind;

use super::facts::{mount_at, why_away};
use super::found::{Found, is_there, place, unmounting};
use super::inside::must_be_empty;
use super::machine::owner;
use super::plan::{self, RootAction};
use super::root::by_root;
use crate::args::RemoveArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::mounts::mounted;
use crate::output::PathFields;
use crate::session::Session;
use crate::text::{shell_word, shown};

pub(super) fn run(args: &RemoveArgs, session: Session<'_>) -> Result<Exit, Failure> {
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
    let must_be_kept = !goes_on && !args.force;
    if must_be_kept {
        may_be_removed(&found)?;
    }
    let action = match must_be_kept && !args.no_sudo {
        true => RootAction::UnmountEmpty,
        false => RootAction::Unmount,
    };
    let is_mounted = found.mount.is_some();
    let steps = plan::steps_to_unmount(&found.volume, found.record.as_ref(), is_mounted, action);
    if args.no_sudo {
        by_root(action, &at, owner(), &steps, true, session)?;
        let file = if goes_on { &old } else { &image };
        let lines = format!("rm {}\nrmdir {}\n", shell_word(file), shell_word(&at));
        return output.results(lines.as_bytes()).map(|()| Exit::Done);
    }
    let failed = |error: io::Error| Failure::writing("remove volume", &at, &error);
    if !goes_on && is_there(&image)? {
        fs::rename(&image, &old).map_err(failed)?;
    }
    if !steps.is_empty() {
        let by_hand = by_root(action, &at, owner(), &steps, false, session);
        if !matches!(by_hand, Ok(None)) {
            // The mount point must not get another name.
            if !goes_on && mount_at(&mounted(), &at).is_some() {
                // If that fails, the next `remove` finds the image under the other name.
                let _ = fs::rename(&old, &image);
                if must_be_kept {
                    must_be_empty(&at)?;
                }
            }
            let by_hand = by_hand.map(|exit| exit.unwrap_or(Exit::Findings));
            return by_hand.map_err(|failure| {
                failure.hinted(format!(
                    "if a program or a shell still uses the volume, end it ('fuser -vm {}' names \
                     them), and try again",
                    shell_word(&at)
                ))
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
        output.document(&PathFields::new(at))?;
    }
    Ok(Exit::Done)
}

/// Fails if the removal would lose something.
fn may_be_removed(found: &Found) -> Result<(), Failure> {
    let at = &found.volume.at;
    let word = shell_word(at);
    if found.mount.is_none() {
        let how = found.record.as_ref().map_or_else(
            || format!("'calve volume create {word}' mounts it"),
            |record| why_away(&found.volume, record),
        );
        let is_gone = !is_there(&found.volume.image)?;
        let hint = if is_gone { how } else { format!("{how}; --force removes it anyway") };
        let why = "it is not mounted, so calve cannot see what is in it";
        return Err(own("remove volume", at, ErrorKind::Overlap, why, hint));
    }
    must_be_empty(at)
}
