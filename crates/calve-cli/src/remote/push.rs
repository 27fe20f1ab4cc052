//! `calve push`.

use std::path::Path;

use calve::{ErrorKind, KnownRemote, PushOptions, PushReport, SigningKey, SnapshotId, Store};
use serde::Serialize;

use super::key::{read_key, usual_key};
use super::keys::tell_differences;
use super::open::{limited, open};
use crate::args::PushArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Kind};
use crate::output::{Output, document};
use crate::progress::Total;
use crate::secrets::{SecretDocument, check_push};
use crate::session::Session;
use crate::text::{self, counted, harmless, shell_word, short};

pub(crate) fn run(args: &PushArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let (store, snapshots) = pushed(args, session)?;
    let key = match &args.key {
        Some(file) => Some(read_key(&session.common.resolve(file))?),
        None => usual_key()?.map(|file| read_key(&file)).transpose()?,
    };
    let (known, remote) = open(&store, args.to.as_deref())?;
    tell_differences(&store, &known, session.output);
    let remote = limited(remote, &args.transfer, session);
    let output = session.output;
    let is_named = snapshots.iter().any(|(_, name)| name.is_some());
    let mut exit = Exit::Done;
    if let Some(warning) = not_trusted(&known, key.as_ref()).filter(|_| is_named) {
        output.warning(warning);
        exit = Exit::Findings;
    }
    let mut secrets = Vec::with_capacity(snapshots.len());
    for (id, _) in &snapshots {
        secrets.push(calve::secrets_in(&store, *id)?);
    }
    check_push(&secrets, &known, args.with_secrets, output)?;
    let mut documents = Vec::new();
    for ((id, name), secrets) in snapshots.into_iter().zip(secrets) {
        let mut options = PushOptions::new();
        if let Some(name) = &name {
            options = options.name(name);
        }
        if let Some(key) = &key {
            options = options.key(key.clone());
        }
        let report =
            session.work(Total::Transfer, |common| remote.push(&store, id, &options, common))?;
        tell_push(&report, name.as_deref(), &known, output);
        if !output.json {
            output.results(format!("{id}\n").as_bytes())?;
        }
        documents.push(PushDocument::new(&report, name, &secrets));
    }
    if output.json {
        output.document(&PushesDocument { remote: &known.name, pushed: documents })?;
    }
    Ok(exit)
}

/// The warning before a push if this store itself would not trust the name.
fn not_trusted(known: &KnownRemote, key: Option<&SigningKey>) -> Option<String> {
    let public = key.map(SigningKey::public);
    let trusted = known.trusted();
    if trusted.is_empty() || public.is_some_and(|public| trusted.contains(&public)) {
        return None;
    }
    let signed = match public {
        Some(public) => format!("signed with {public}, which is none of the keys"),
        None => "not signed with any of the keys".to_owned(),
    };
    Some(format!(
        "the name will be {signed} that this store trusts for {}: stores with the same keys refuse to pull it",
        harmless(&known.name)
    ))
}

/// A snapshot to push, and the name that it gets.
type Pushed = (SnapshotId, Option<String>);

/// The snapshots to push.
fn pushed(args: &PushArgs, session: Session<'_>) -> Result<(Store, Vec<Pushed>), Failure> {
    if args.snapshots.is_empty() {
        let (store, id) = session.snapshot_here()?;
        return Ok((store, vec![(id, args.name.clone())]));
    }
    let store = session.store()?;
    let mut snapshots = Vec::new();
    for word in &args.snapshots {
        let id = session
            .resolve(&store, word)
            .map_err(|failure| meant_as_remote(&store, word, failure))?;
        let names = store.show(id)?.names;
        let name = args.name.clone().or_else(|| names.contains(word).then(|| word.clone()));
        snapshots.push((id, name));
    }
    Ok((store, snapshots))
}

/// Explains an error that `git push` users make: there the remote comes first, and `start --from`
/// takes `REMOTE/NAME`.
fn meant_as_remote(store: &Store, word: &str, failure: Failure) -> Failure {
    let (remote, name) = word.split_once('/').unwrap_or((word, ""));
    let is_remote = failure.kind == Kind::Library(ErrorKind::SnapshotNotFound)
        && KnownRemote::find(store, remote).is_ok();
    if !is_remote {
        return failure;
    }
    let what = match name {
        "" => "[SNAPSHOT]".into(),
        name => shell_word(Path::new(name)),
    };
    let hint = format!(
        "{} is a remote: 'calve push {what} --to {}' pushes there",
        harmless(remote),
        shell_word(Path::new(remote))
    );
    failure.hinted(hint)
}

fn tell_push(report: &PushReport, name: Option<&str>, known: &KnownRemote, output: Output) {
    let remote = harmless(&known.name);
    let id = short(report.snapshot);
    let mut line = match (name, report.unchanged) {
        (Some(name), true) => {
            format!("nothing to do: {remote}/{} is snapshot {id} already", harmless(name))
        }
        (Some(name), false) => format!("{remote}/{} is now snapshot {id}", harmless(name)),
        (None, _) => format!("{remote} has snapshot {id}, without a name"),
    };
    if !report.unchanged {
        line += &format!(
            ": sent {} for {} ({})",
            output.size(report.sent_bytes),
            counted(report.contents, "content"),
            output.size(report.content_bytes)
        );
    }
    if report.resumed_packs > 0 {
        line += &format!(", {} had arrived before", counted(report.resumed_packs, "pack"));
    }
    output.summary(format_args!("{line}, {}", text::duration(report.elapsed)));
}

#[derive(Serialize)]
struct PushesDocument<'a> {
    remote: &'a str,
    pushed: Vec<PushDocument>,
}

document! {
    struct PushDocument(report: &PushReport, name: Option<String>, secrets: &[calve::Secret]) {
        snapshot: String = report.snapshot.to_string(),
        name: Option<String> = name,
        sequence: Option<u64> = report.sequence,
        unchanged: bool = report.unchanged,
        contents: u64 = report.contents,
        content_bytes: u64 = report.content_bytes,
        packs: u64 = report.packs,
        resumed_packs: u64 = report.resumed_packs,
        sent_bytes: u64 = report.sent_bytes,
        requests: u64 = report.requests,
        secrets: Vec<SecretDocument> = SecretDocument::all(secrets),
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}
