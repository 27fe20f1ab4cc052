//! `calve volume list` and `volume status`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::facts::{self, mount_at, recorded, why_away};
use super::found::{Found, is_there, place, unmounting};
use super::machine::space as space_of;
use super::plan::{self, Record, Spaces, Volume};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::mounts::mounted;
use crate::output::{PathFields, document};
use crate::session::Session;
use crate::table::{Cell, Column, Table};
use crate::text::shell_word;

pub(super) fn list(session: Session<'_>) -> Result<Exit, Failure> {
    let all = Standing::all();
    let output = session.output;
    if output.json {
        let volumes: Vec<VolumeDocument> = all.iter().map(VolumeDocument::new).collect();
        return output.document_of("volumes", &volumes).map(|()| Exit::Done);
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

pub(super) fn status(at: Option<&Path>, session: Session<'_>) -> Result<Exit, Failure> {
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
        let volumes: Vec<VolumeDocument> = all.iter().map(VolumeDocument::new).collect();
        output.document_of("volumes", &volumes)?;
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
        let space = found.mount.as_ref().and_then(|_| space_of(at).ok());
        let host = image.parent().and_then(|folder| space_of(folder).ok());
        let has_direct_io = found.mount.as_ref().and_then(facts::has_direct_io);
        let word = shell_word(at);
        let mut advice = Vec::new();
        if let (Some(space), Some(host)) = (space, host) {
            let room = plan::room(space, host);
            advice.extend(plan::advice(room, &Spaces { at, image, volume: space, host }, || true));
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
            (Some(record), None) => advice.push(why_away(&found.volume, record)),
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

pub(super) fn told_as_made(found: Found, session: Session<'_>) -> Result<Exit, Failure> {
    let output = session.output;
    let at = found.volume.at.clone();
    output.document_or_paths(&VolumeDocument::new(&Standing::of(found)), [at.as_path()])?;
    Ok(Exit::Done)
}

document! {
    /// The JSON document of a volume; docs/json.md says what each field means.
    struct VolumeDocument(standing: &Standing) {
        #[serde(flatten)]
        path: PathFields = PathFields::new(&standing.found.volume.at),
        image: String = standing.found.volume.image.display().to_string(),
        filesystem: &'static str = standing.found.volume.filesystem.name(),
        size_bytes: Option<u64> = standing.image.map(|(size, _)| size),
        image_bytes: Option<u64> = standing.image.map(|(_, taken)| taken),
        free_bytes: Option<u64> = standing.space.map(|space| space.free),
        host_free_bytes: Option<u64> = standing.host.map(|host| host.free),
        mounted: bool = standing.found.mount.is_some(),
        at_boot: Option<&'static str> = standing.found.record.as_ref().map(|record| match record {
            Record::Unit(_) => "systemd",
            Record::Line(_) => "fstab",
        }),
        direct_io: Option<bool> = standing.has_direct_io,
        advice: Vec<String> = standing.advice.clone(),
    }
}
