//! Remotes: one file for each verb. Here are `calve remote init`, `add`, `list` and `remove`.

use std::path::Path;

use calve::{ErrorKind, KnownRemote, PublicKey, Remote};
use serde::Serialize;

use crate::args::RemoteVerb;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::output::{Output, document};
use crate::session::Session;
use crate::table::{Cell, Column, Table};
use crate::text::{self, counted, harmless};

pub(crate) mod checkout;
mod gc;
mod key;
mod keys;
mod names;
mod open;
pub(crate) mod pull;
pub(crate) mod push;
mod verify;

use open::{settings, warn_of_plain_http};

pub(crate) fn run(verb: &RemoteVerb, session: Session<'_>) -> Result<Exit, Failure> {
    match verb {
        RemoteVerb::Init { url } => init(url, session.output),
        RemoteVerb::Add { name, url, keys } => add(name, url, keys, session),
        RemoteVerb::Key(args) => key::run(args, session),
        RemoteVerb::List => list(session),
        RemoteVerb::Remove { name } => remove(name, session),
        RemoteVerb::Names { remote } => names::names(remote.as_deref(), session),
        RemoteVerb::Log { name, from } => names::log(name, from.as_deref(), session),
        RemoteVerb::Verify { remote, quick } => verify::run(remote.as_deref(), *quick, session),
        RemoteVerb::Gc(args) => gc::run(args, session),
    }
}

fn init(url: &str, output: Output) -> Result<Exit, Failure> {
    #[cfg(target_os = "linux")]
    if let Some(folder) = url.strip_prefix("file://") {
        crate::volume::store::must_be_mounted("make remote", Path::new(folder))?;
    }
    let remote = Remote::init(url, &settings())?;
    let url = remote.url();
    output.summary(format_args!(
        "made a remote: in a project with a store, 'calve remote add NAME {}' lets that know it",
        harmless(url)
    ));
    if output.json {
        output.document(&InitDocument { url, id: remote.id() })?;
    } else {
        output.results(format!("{}\n", harmless(url)).as_bytes())?;
    }
    Ok(Exit::Done)
}

fn add(name: &str, url: &str, keys: &[PublicKey], session: Session<'_>) -> Result<Exit, Failure> {
    let store = session.store()?;
    let file = keys::file_of(&store.project()?);
    let project = keys::read(&store, &file)?;
    let remote = Remote::open(url, &settings())?.trusting(keys.iter().copied());
    let known = KnownRemote::add_with_project_keys(&store, name, &remote, &project)?;
    let output = session.output;
    let trusted = known.trusted().len();
    warn_of_plain_http(&remote, trusted > 0, output);
    let mut line = match trusted {
        0 => {
            "its names need no signature: whoever can write there decides what they mean".to_owned()
        }
        1 => "its names need the signature of one key".to_owned(),
        more => format!("its names need the signature of one of {more} keys"),
    };
    if !project.is_empty() {
        line += &format!(
            ", {} from {}: {}",
            text::count(project.len() as u64),
            text::shown(&file),
            keys::listed(&project)
        );
    }
    output.summary(format_args!("{} is {}; {line}", harmless(name), harmless(&known.url)));
    if output.json {
        output.document(&RemoteDocument::new(&known))?;
    }
    Ok(Exit::Done)
}

fn list(session: Session<'_>) -> Result<Exit, Failure> {
    let all = KnownRemote::all(&session.store()?)?;
    let output = session.output;
    if output.json {
        let remotes: Vec<RemoteDocument> = all.iter().map(RemoteDocument::new).collect();
        output.document_of("remotes", &remotes)?;
        return Ok(Exit::Done);
    }
    if all.is_empty() {
        output.summary("no remotes: 'calve remote add NAME URL' adds one");
    }
    let mut table = Table::new(vec![Column::Left, Column::Left, Column::Text]);
    for known in &all {
        let keys = match known.trusted().len() {
            0 => "unsigned".to_owned(),
            keys => counted(keys as u64, "key"),
        };
        let (name, url) = (harmless(&known.name).into_owned(), harmless(&known.url).into_owned());
        table.row(vec![Cell::from(name), Cell::from(keys), Cell::from(url)]);
    }
    output.table(&table)?;
    Ok(Exit::Done)
}

fn remove(name: &str, session: Session<'_>) -> Result<Exit, Failure> {
    if !KnownRemote::remove(&session.store()?, name)? {
        return Err(own(
            "find remote",
            Path::new(name),
            ErrorKind::RemoteNotFound,
            "the store knows no remote by this name",
            "'calve remote list' lists them",
        ));
    }
    let output = session.output;
    output.summary(format_args!("forgot {}; the remote stays as it is", harmless(name)));
    if output.json {
        output.document_of("name", &name)?;
    }
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct InitDocument<'a> {
    url: &'a str,
    id: &'a str,
}

document! {
    struct RemoteDocument<'a>(known: &'a KnownRemote) {
        name: &'a str = &known.name,
        url: &'a str = &known.url,
        id: &'a str = &known.id,
        keys: Vec<String> = known.trusted().iter().map(PublicKey::to_string).collect(),
        project_keys: Vec<String> = known.project_keys.iter().map(PublicKey::to_string).collect(),
    }
}
