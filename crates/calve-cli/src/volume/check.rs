//! `calve volume check`.

use std::path::Path;

use calve::ErrorKind;
use serde::Serialize;

use super::facts::{device_of, mount_command, why_away};
use super::found::{Found, is_there};
use super::machine::{is_missing_program, output as output_of};
use super::plan::{Filesystem, Volume};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::mounts::mounted;
use crate::output::PathFields;
use crate::session::Session;
use crate::text::{shell_word, shown};

pub(super) fn run(at: &Path, repair: bool, session: Session<'_>) -> Result<Exit, Failure> {
    let found = Found::named(at, session)?;
    let Volume { at, image, filesystem } = &found.volume;
    let word = shell_word(at);
    // Nobody may check a filesystem that is in use, wherever it is mounted.
    if let Some(device) = device_of(image) {
        let mount = mounted().into_iter().rev().find(|mount| mount.source == device);
        let (why, end) = match &mount {
            Some(mount) if mount.at == *at => {
                ("it is mounted".to_owned(), format!("umount {word}"))
            }
            Some(mount) => {
                let other = shell_word(&mount.at);
                (format!("its image is mounted at {other}"), format!("umount {other}"))
            }
            None => {
                let why = format!("{device} has its image, which another process may have mounted");
                (why, format!("losetup -d {device}"))
            }
        };
        let hint = format!("sudo {end} && calve volume check {word}");
        return Err(own("check volume", at, ErrorKind::Busy, &why, hint));
    }
    if !is_there(image)? {
        let hint = found.record.as_ref().map_or_else(
            || "'calve volume list' lists the volumes".to_owned(),
            |record| why_away(&found.volume, record),
        );
        return Err(own("check volume", at, ErrorKind::SourceNotFound, "it has no image", hint));
    }
    let Some((name, words)) = filesystem.check(image, repair) else {
        let why = "btrfs has no repair that is safe to run unasked";
        let hint = "move what can be read to a new volume; 'btrfs check' has a manual page";
        return Err(own("repair volume", at, ErrorKind::Io, why, hint));
    };
    let output = session.output;
    let said = match output_of(name, &words) {
        Ok(_) => None,
        Err(failure) if is_missing_program(&failure) => return Err(failure),
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

#[derive(Serialize)]
struct CheckDocument<'a> {
    #[serde(flatten)]
    path: PathFields,
    sound: bool,
    said: Option<&'a str>,
}
