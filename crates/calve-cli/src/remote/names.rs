//! `calve remote names` and `remote log`.

use std::path::Path;

use calve::{ErrorKind, PublicKey, RemoteName};

use super::open::{open, remote_and_name};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::{no_such_snapshot, own};
use crate::output::{Output, document};
use crate::session::Session;
use crate::table::{Cell, Column, Table};
use crate::text::{self, harmless, short};

pub(super) fn names(remote: Option<&str>, session: Session<'_>) -> Result<Exit, Failure> {
    let (_, remote) = open(&session.store()?, remote)?;
    tell_names(&remote.names()?, session.output)
}

pub(super) fn log(name: &str, from: Option<&str>, session: Session<'_>) -> Result<Exit, Failure> {
    let (from, name) = remote_and_name(from, name);
    let (known, remote) = open(&session.store()?, from)?;
    let log = remote.log(name)?;
    if log.is_empty() {
        return Err(no_such_name(name, &known.url));
    }
    tell_names(&log, session.output)
}

fn no_such_name(name: &str, url: &str) -> Failure {
    own(
        "find snapshot",
        Path::new(name),
        ErrorKind::SnapshotNotFound,
        "the remote has no such name",
        no_such_snapshot(url),
    )
}

fn tell_names(names: &[RemoteName], output: Output) -> Result<Exit, Failure> {
    if output.json {
        let names: Vec<NameDocument> = names.iter().map(NameDocument::new).collect();
        output.document_of("names", &names)?;
        return Ok(Exit::Done);
    }
    let columns = [Column::Left, Column::Right, Column::Left, Column::Left, Column::Text];
    let mut table = Table::new(columns.to_vec());
    for name in names {
        let id = if output.verbose { name.snapshot.to_string() } else { short(name.snapshot) };
        let signed = match name.signers.first() {
            None => "unsigned".to_owned(),
            Some(key) if output.verbose => format!("signed by {key}"),
            Some(key) => format!("signed by {}…", key.to_string().get(..12).unwrap_or_default()),
        };
        let collected = if name.collected { ", collected" } else { "" };
        table.row(vec![
            Cell::from(harmless(&name.name).into_owned()),
            Cell::from(name.sequence.to_string()),
            Cell::from(id),
            Cell::from(text::utc(name.made)),
            Cell::from(signed + collected),
        ]);
    }
    output.table(&table)?;
    Ok(Exit::Done)
}

document! {
    struct NameDocument<'a>(name: &'a RemoteName) {
        name: &'a str = &name.name,
        sequence: u64 = name.sequence,
        snapshot: String = name.snapshot.to_string(),
        made: String = text::utc(name.made),
        signers: Vec<String> = name.signers.iter().map(PublicKey::to_string).collect(),
        collected: bool = name.collected,
    }
}
