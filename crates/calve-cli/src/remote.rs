//! `calve push`, `pull`, `checkout`, `remote`, `key`.

use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use calve::{
    ErrorKind, KnownRemote, PublicKey, PullOptions, PullReport, PushOptions, PushReport, Remote,
    RemoteDamage, RemoteDamageKind, RemoteGarbage, RemoteGcOptions, RemoteGcReport, RemoteName,
    RemoteSettings, RemoteVerifyOptions, RemoteVerifyReport, SigningKey, SnapshotId, Store,
};
use serde::Serialize;

use crate::args::{KeyArgs, PullArgs, PushArgs, RemoteGcArgs, RemoteVerb, TransferArgs};
use crate::exit::Exit;
use crate::failure::stored::{no_such_snapshot, own, store_failure};
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::progress::Total;
use crate::session::Session;
use crate::table::{Cell, Column, Table};
use crate::text::{self, counted, harmless, shell_word, short};

pub(crate) mod checkout;
mod keys;
mod secrets;

/// A larger file is not a key.
const KEY_MOST_BYTES: u64 = 4096;

pub(crate) fn run(verb: &RemoteVerb, session: Session<'_>) -> Result<Exit, Failure> {
    match verb {
        RemoteVerb::Init { url } => init(url, session.output),
        RemoteVerb::Add { name, url, keys } => add(name, url, keys, session),
        RemoteVerb::List => list(session),
        RemoteVerb::Remove { name } => remove(name, session),
        RemoteVerb::Names { remote } => {
            let remote = open(&session.store()?, remote.as_deref())?.1;
            tell_names(&remote.names().map_err(failed)?, session.output)
        }
        RemoteVerb::Log { name, from } => {
            let (from, name) = remote_and_name(from.as_deref(), name);
            let (known, remote) = open(&session.store()?, from)?;
            let log = remote.log(name).map_err(failed)?;
            if log.is_empty() {
                return Err(no_such_name(name, &known.url));
            }
            tell_names(&log, session.output)
        }
        RemoteVerb::Verify { remote, quick } => verify(remote.as_deref(), *quick, session),
        RemoteVerb::Gc(args) => gc(args, session),
    }
}

fn failed(error: calve::Error) -> Failure {
    store_failure(&error)
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

/// Warns about a remote over `http://`, before calve uses it.
fn warn_of_plain_http(remote: &Remote, is_signed: bool, output: Output) {
    if remote.url().starts_with("http://") {
        output.warning(format_args!(
            "http:// is not private: whoever is on the way can read all files{}; use https://",
            match is_signed {
                true => "",
                false => ", and give names other meanings, since no --key is trusted",
            }
        ));
    }
}

/// The remote with this name, or the only remote.
fn known(store: &Store, name: Option<&str>) -> Result<KnownRemote, Failure> {
    if let Some(name) = name {
        return KnownRemote::find(store, name).map_err(failed);
    }
    let mut all = KnownRemote::all(store).map_err(failed)?;
    match (all.pop(), all.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(own(
            "find a remote of",
            store.path(),
            ErrorKind::RemoteNotFound,
            "the store knows none",
            "'calve remote add NAME URL' adds one, 'calve remote init URL' makes one",
        )),
        (Some(_), more) => Err(own(
            "find a remote of",
            store.path(),
            ErrorKind::RemoteNotFound,
            &format!("the store knows {}, and none is named", more + 1),
            "name one: --to REMOTE in a push, --from REMOTE in a pull or a log, else REMOTE alone; 'calve remote list' lists them",
        )),
    }
}

/// The settings of the providers' own tools, from the environment.
fn settings() -> RemoteSettings {
    std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(key, _)| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|start| key.starts_with(start)))
        .fold(RemoteSettings::new(), |settings, (key, value)| {
            settings.set(key.to_ascii_lowercase(), value)
        })
}

fn open(store: &Store, name: Option<&str>) -> Result<(KnownRemote, Remote), Failure> {
    let known = known(store, name)?;
    let remote = known.open(&settings()).map_err(failed)?;
    Ok((known, remote))
}

/// The remote with the bandwidth that it may use.
fn limited(remote: Remote, args: &TransferArgs, session: Session<'_>) -> Remote {
    match args.limit_rate {
        Some(rate) => remote.limited(rate, &session.signals.cancel()),
        None => remote,
    }
}

fn init(url: &str, output: Output) -> Result<Exit, Failure> {
    let remote = Remote::init(url, &settings()).map_err(failed)?;
    let url = remote.url();
    output.summary(format_args!(
        "made a remote: 'calve remote add NAME {}' in a project lets its store know it",
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
    let file = keys::file_of(&store.project().map_err(failed)?);
    let project = keys::read(&store, &file)?;
    let remote = Remote::open(url, &settings()).map_err(failed)?.trusting(keys.iter().copied());
    let known =
        KnownRemote::add_with_project_keys(&store, name, &remote, &project).map_err(failed)?;
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
    let all = KnownRemote::all(&session.store()?).map_err(failed)?;
    let output = session.output;
    if output.json {
        let remotes = all.iter().map(RemoteDocument::new).collect();
        output.document(&RemotesDocument { remotes })?;
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
    if !KnownRemote::remove(&session.store()?, name).map_err(failed)? {
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
        output.document(&RemovedDocument { name })?;
    }
    Ok(Exit::Done)
}

fn tell_names(names: &[RemoteName], output: Output) -> Result<Exit, Failure> {
    if output.json {
        let names = names.iter().map(NameDocument::new).collect();
        output.document(&NamesDocument { names })?;
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

fn verify(name: Option<&str>, quick: bool, session: Session<'_>) -> Result<Exit, Failure> {
    let (known, remote) = open(&session.store()?, name)?;
    let options = RemoteVerifyOptions::new().quick(quick);
    let report =
        session.work(Total::Contents, |common| remote.verify(&options, common)).map_err(failed)?;
    let output = session.output;
    let all = (report.whole.len() + report.broken.len()) as u64;
    let mut line = format!(
        "checked {} of {} and {} ({})",
        counted(all, "snapshot"),
        harmless(&known.name),
        counted(report.objects, "object"),
        output.size(report.object_bytes)
    );
    line += &match report.damage.len() as u64 {
        0 => ": no damage".to_owned(),
        found => {
            format!(": {found} damaged, {} broken", counted(report.broken.len() as u64, "snapshot"))
        }
    };
    if report.unreferenced > 0 {
        line += &format!(
            "; nobody needs {} ({})",
            counted(report.unreferenced, "further object"),
            output.size(report.unreferenced_bytes)
        );
    }
    output.summary(format_args!("{line}, {}", text::duration(report.elapsed)));
    for path in &report.unknown {
        output.warning(format_args!("{} is not calve's; calve leaves it alone", text::shown(path)));
    }
    if output.json {
        output.document(&VerifyDocument::new(&known.name, &report))?;
    } else {
        let mut lines = Vec::new();
        for damage in &report.damage {
            lines.extend(format!("{}  ", damage.kind.as_str()).bytes());
            lines.extend(output.path(&damage.path));
            lines.extend(format!("  {}\n", harmless(&damage.reason)).bytes());
        }
        for broken in &report.broken {
            let names: Vec<_> = broken.names.iter().map(|name| harmless(name)).collect();
            let line = format!("broken  {}  {}", short(broken.snapshot), names.join(", "));
            lines.extend(format!("{}\n", line.trim_end()).bytes());
        }
        output.results(&lines)?;
        if !report.damage.is_empty() {
            output.say(how_to_mend(&report.damage));
        }
    }
    Ok(if report.damage.is_empty() { Exit::Done } else { Exit::Findings })
}

/// What to do about damage. A push sends missing objects again, but first somebody must remove the
/// damaged objects that are in their place.
fn how_to_mend(damage: &[RemoteDamage]) -> String {
    /// A line names this many objects at most.
    const NAMED: usize = 8;
    let push = "push each broken snapshot again from a machine that has it: 'calve push SNAPSHOT'";
    let in_the_way: Vec<&RemoteDamage> =
        damage.iter().filter(|damage| damage.kind != RemoteDamageKind::Missing).collect();
    if in_the_way.is_empty() {
        return push.to_owned();
    }
    let file = |damage: &&RemoteDamage| {
        Some(shell_word(Path::new(damage.path.to_str()?.strip_prefix("file://")?)))
    };
    let files: Option<Vec<String>> = in_the_way.iter().map(file).collect();
    match files.filter(|files| files.len() <= NAMED) {
        Some(files) => format!("first rm {}; then {push}", files.join(" ")),
        None => format!("first remove the objects that are damaged or incomplete; then {push}"),
    }
}

fn gc(args: &RemoteGcArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let (known, remote) = open(&session.store()?, args.remote.as_deref())?;
    let mut options = RemoteGcOptions::new().dry_run(args.dry_run);
    if let Some(grace) = args.grace {
        options = options.grace(grace);
    }
    if let Some(keep) = args.keep {
        options = options.keep(keep);
    }
    let report =
        session.work(Total::Contents, |common| remote.gc(&options, common)).map_err(failed)?;
    let output = session.output;
    let garbage = |garbage: RemoteGarbage| {
        let RemoteGarbage { changes, snapshots, objects, bytes, .. } = garbage;
        let all = [
            (changes, "change of a name", "changes of names"),
            (snapshots, "snapshot", "snapshots"),
            (objects, "object", "objects"),
        ];
        let all: Vec<String> = all
            .into_iter()
            .filter(|(number, ..)| *number > 0)
            .map(|(number, one, more)| {
                format!("{} {}", text::count(number), if number == 1 { one } else { more })
            })
            .collect();
        (!all.is_empty()).then(|| format!("{} ({})", all.join(", "), output.size(bytes)))
    };
    let verb = if args.dry_run { "would remove" } else { "removed" };
    let mut line = match garbage(report.removed) {
        Some(removed) => format!("{verb} from {}: {removed}", harmless(&known.name)),
        None => format!("nothing to remove from {}", harmless(&known.name)),
    };
    if let Some(waiting) = garbage(report.waiting) {
        line += &format!("; a later run removes {waiting}, after the grace time");
    }
    output.summary(format_args!("{line}, {}", text::duration(report.elapsed)));
    for id in &report.missing {
        output.warning(format_args!(
            "the remote lacks snapshot {id}, which a name means: push it again from a machine that has it"
        ));
    }
    if output.json {
        output.document(&GcDocument::new(&known.name, args.dry_run, &report))?;
    }
    Ok(if report.missing.is_empty() { Exit::Done } else { Exit::Findings })
}

pub(crate) fn push(args: &PushArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let (store, snapshots) = pushed(args, session)?;
    let key = match &args.key {
        Some(file) => Some(read_key(&session.common.resolve(file))?),
        None => usual_key()?.map(|file| read_key(&file)).transpose()?,
    };
    let (known, remote) = open(&store, args.to.as_deref())?;
    keys::tell_differences(&store, &known, session.output);
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
        secrets.push(calve::secrets_in(&store, *id).map_err(failed)?);
    }
    output.warnings(&secrets::warnings(&secrets, &known));
    let mut documents = Vec::new();
    for ((id, name), secrets) in snapshots.into_iter().zip(secrets) {
        let mut options = PushOptions::new();
        if let Some(name) = &name {
            options = options.name(name);
        }
        if let Some(key) = &key {
            options = options.key(key.clone());
        }
        let report = session
            .work(Total::Transfer, |common| remote.push(&store, id, &options, common))
            .map_err(failed)?;
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
        let names = store.show(id).map_err(failed)?.names;
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
    Failure { hint: Some(hint), ..failure }
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

pub(crate) fn pull(args: &PullArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let store = session.store()?;
    let (from, name) = remote_and_name(args.from.as_deref(), &args.name);
    let (known, remote) = open(&store, from)?;
    keys::tell_differences(&store, &known, session.output);
    let remote = limited(remote, &args.transfer, session);
    let options =
        args.local.as_deref().map_or(PullOptions::new(), |local| PullOptions::new().name(local));
    let report = pull_from(&store, &remote, name, &options, session)?;
    let output = session.output;
    if output.json {
        output.document(&PullDocument::new(&report))?;
    } else {
        output.results(format!("{}\n", report.snapshot).as_bytes())?;
    }
    Ok(Exit::Done)
}

/// Pulls, and prints what calve fetched.
fn pull_from(
    store: &Store,
    remote: &Remote,
    what: &str,
    options: &PullOptions,
    session: Session<'_>,
) -> Result<PullReport, Failure> {
    let report = session
        .work(Total::Transfer, |common| remote.pull(store, what, options, common))
        .map_err(failed)?;
    tell_pull(&report, session.output);
    Ok(report)
}

fn tell_pull(report: &PullReport, output: Output) {
    let what = match report.fetched {
        0 => "everything was here".to_owned(),
        fetched => format!(
            "fetched {} of {} ({}), received {}",
            text::count(fetched),
            counted(report.contents, "content"),
            output.size(report.fetched_bytes),
            output.size(report.received_bytes)
        ),
    };
    output.summary(format_args!(
        "snapshot {}: {what}, {}",
        short(report.snapshot),
        text::duration(report.elapsed)
    ));
}

/// The snapshot that `word` of `--from` means: a snapshot of this store, or `REMOTE/NAME`, which
/// calve pulls first.
pub(crate) fn resolve(
    store: &Store,
    word: &str,
    session: Session<'_>,
) -> Result<SnapshotId, Failure> {
    match remote_and_name(None, word) {
        (Some(remote), name) => {
            let (known, remote) = open(store, Some(remote))?;
            keys::tell_differences(store, &known, session.output);
            Ok(pull_from(store, &remote, name, &PullOptions::new(), session)?.snapshot)
        }
        (None, _) => session.resolve(store, word),
    }
}

/// Splits `REMOTE/NAME`. A name alone has no slash.
fn remote_and_name<'a>(from: Option<&'a str>, word: &'a str) -> (Option<&'a str>, &'a str) {
    match word.split_once('/') {
        Some((remote, name)) if from.is_none() => (Some(remote), name),
        _ => (from, word),
    }
}

pub(crate) fn key(args: &KeyArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let path = match &args.file {
        Some(file) => session.common.resolve(file),
        None => key_file()?,
    };
    let (key, is_new) = match read_key(&path) {
        Err(failure) if failure.kind == Kind::Library(ErrorKind::SourceNotFound) => {
            (make_key(&path)?, true)
        }
        key => (key?, false),
    };
    let output = session.output;
    if is_new {
        output.summary(format_args!(
            "made a key in {}: keep this file secret; the public half is",
            text::shown(&path)
        ));
    }
    let public = key.public().to_string();
    if output.json {
        output.document(&KeyDocument { public })?;
    } else {
        output.results(format!("{public}\n").as_bytes())?;
    }
    Ok(Exit::Done)
}

/// The path of the user's key, whether or not it exists.
fn key_file() -> Result<PathBuf, Failure> {
    let variable =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let settings = || {
        let own = variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
        own.or_else(|| Some(variable("HOME")?.join(".config")))
    };
    variable("CALVE_KEY").or_else(|| Some(settings()?.join("calve/key"))).ok_or_else(|| {
        own(
            "find the key of",
            Path::new("the user"),
            ErrorKind::SourceNotFound,
            "neither CALVE_KEY nor HOME is set",
            "name the file: --file FILE, or CALVE_KEY",
        )
    })
}

/// The key that signs if the user names none. It need not exist, unless CALVE_KEY names it.
fn usual_key() -> Result<Option<PathBuf>, Failure> {
    let is_named = std::env::var_os("CALVE_KEY").is_some_and(|value| !value.is_empty());
    let Ok(file) = key_file() else { return Ok(None) };
    Ok((is_named || std::fs::symlink_metadata(&file).is_ok()).then_some(file))
}

fn read_key(path: &Path) -> Result<SigningKey, Failure> {
    let failure = |error: &io::Error| Failure::io("read the key", vec![path.to_owned()], error);
    let no_key =
        |cause: &str, hint: String| own("read the key", path, ErrorKind::InvalidName, cause, hint);
    // To open a pipe must not wait for a writer.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = std::fs::File::options().read(true).custom_flags(flags).open(path);
    let mut file = opened.map_err(|error| failure(&error))?;
    let meta = file.metadata().map_err(|error| failure(&error))?;
    if !meta.is_file() || meta.len() > KEY_MOST_BYTES {
        return Err(no_key("it is no file of a key", "'calve key' makes one".to_owned()));
    }
    if meta.mode() & 0o077 != 0 {
        let hint = format!("chmod 600 {}", text::shell_word(path));
        return Err(no_key("others may read or change it", hint));
    }
    let mut text = String::new();
    io::Read::read_to_string(&mut file, &mut text).map_err(|error| failure(&error))?;
    secret(text.trim_end()).map(|secret| SigningKey::from_bytes(&secret)).ok_or_else(|| {
        no_key(
            "it is no key: 64 hexadecimal digits",
            "restore the file, or remove it and make a new key with 'calve key'".to_owned(),
        )
    })
}

/// Decodes 64 hexadecimal digits.
fn secret(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Makes a key in a new file, which only its owner can read.
fn make_key(path: &Path) -> Result<SigningKey, Failure> {
    let key = SigningKey::generate().map_err(failed)?;
    let text: String = key.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent().filter(|folder| *folder != Path::new("")) {
            std::fs::create_dir_all(folder)?;
        }
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(format!("{text}\n").as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| Failure::writing("make the key", path, &error))?;
    Ok(key)
}

#[derive(Serialize)]
struct InitDocument<'a> {
    url: &'a str,
    id: &'a str,
}

#[derive(Serialize)]
struct RemoteDocument<'a> {
    name: &'a str,
    url: &'a str,
    id: &'a str,
    keys: Vec<String>,
    project_keys: Vec<String>,
}

impl<'a> RemoteDocument<'a> {
    fn new(known: &'a KnownRemote) -> Self {
        let KnownRemote { name, url, id, project_keys, .. } = known;
        let texts = |keys: &[PublicKey]| keys.iter().map(PublicKey::to_string).collect();
        let (keys, project_keys) = (texts(&known.trusted()), texts(project_keys));
        Self { name, url, id, keys, project_keys }
    }
}

#[derive(Serialize)]
struct RemotesDocument<'a> {
    remotes: Vec<RemoteDocument<'a>>,
}

#[derive(Serialize)]
struct RemovedDocument<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct NameDocument<'a> {
    name: &'a str,
    sequence: u64,
    snapshot: String,
    made: String,
    signers: Vec<String>,
    collected: bool,
}

impl<'a> NameDocument<'a> {
    fn new(name: &'a RemoteName) -> Self {
        Self {
            name: &name.name,
            sequence: name.sequence,
            snapshot: name.snapshot.to_string(),
            made: text::utc(name.made),
            signers: name.signers.iter().map(PublicKey::to_string).collect(),
            collected: name.collected,
        }
    }
}

#[derive(Serialize)]
struct NamesDocument<'a> {
    names: Vec<NameDocument<'a>>,
}

#[derive(Serialize)]
struct GarbageDocument {
    changes: u64,
    snapshots: u64,
    objects: u64,
    bytes: u64,
}

impl GarbageDocument {
    fn new(garbage: RemoteGarbage) -> Self {
        let RemoteGarbage { changes, snapshots, objects, bytes, .. } = garbage;
        Self { changes, snapshots, objects, bytes }
    }
}

#[derive(Serialize)]
struct GcDocument<'a> {
    remote: &'a str,
    dry_run: bool,
    removed: GarbageDocument,
    waiting: GarbageDocument,
    snapshots: u64,
    missing: Vec<String>,
    requests: u64,
    elapsed_seconds: f64,
}

impl<'a> GcDocument<'a> {
    fn new(remote: &'a str, dry_run: bool, report: &RemoteGcReport) -> Self {
        Self {
            remote,
            dry_run,
            removed: GarbageDocument::new(report.removed),
            waiting: GarbageDocument::new(report.waiting),
            snapshots: report.snapshots,
            missing: report.missing.iter().map(SnapshotId::to_string).collect(),
            requests: report.requests,
            elapsed_seconds: report.elapsed.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct DamageDocument {
    kind: &'static str,
    path: String,
    reason: String,
    snapshots: Vec<String>,
}

#[derive(Serialize)]
struct BrokenDocument {
    snapshot: String,
    names: Vec<String>,
}

#[derive(Serialize)]
struct VerifyDocument<'a> {
    remote: &'a str,
    changes: u64,
    collected: u64,
    whole: Vec<String>,
    broken: Vec<BrokenDocument>,
    damage: Vec<DamageDocument>,
    objects: u64,
    object_bytes: u64,
    unreferenced: u64,
    unreferenced_bytes: u64,
    unknown: Vec<String>,
    requests: u64,
    received_bytes: u64,
    elapsed_seconds: f64,
}

impl<'a> VerifyDocument<'a> {
    fn new(remote: &'a str, report: &RemoteVerifyReport) -> Self {
        let shown = |path: &PathBuf| path.to_string_lossy().into_owned();
        let ids = |ids: &[SnapshotId]| ids.iter().map(SnapshotId::to_string).collect();
        let broken = report.broken.iter().map(|broken| BrokenDocument {
            snapshot: broken.snapshot.to_string(),
            names: broken.names.clone(),
        });
        let damage = report.damage.iter().map(|damage| DamageDocument {
            kind: damage.kind.as_str(),
            path: shown(&damage.path),
            reason: damage.reason.clone(),
            snapshots: ids(&damage.snapshots),
        });
        Self {
            remote,
            changes: report.changes,
            collected: report.collected,
            whole: ids(&report.whole),
            broken: broken.collect(),
            damage: damage.collect(),
            objects: report.objects,
            object_bytes: report.object_bytes,
            unreferenced: report.unreferenced,
            unreferenced_bytes: report.unreferenced_bytes,
            unknown: report.unknown.iter().map(shown).collect(),
            requests: report.requests,
            received_bytes: report.received_bytes,
            elapsed_seconds: report.elapsed.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct PushDocument {
    snapshot: String,
    name: Option<String>,
    sequence: Option<u64>,
    unchanged: bool,
    contents: u64,
    content_bytes: u64,
    packs: u64,
    resumed_packs: u64,
    sent_bytes: u64,
    requests: u64,
    secrets: Vec<secrets::SecretDocument>,
    elapsed_seconds: f64,
}

impl PushDocument {
    fn new(report: &PushReport, name: Option<String>, secrets: &[calve::Secret]) -> Self {
        Self {
            snapshot: report.snapshot.to_string(),
            name,
            sequence: report.sequence,
            unchanged: report.unchanged,
            contents: report.contents,
            content_bytes: report.content_bytes,
            packs: report.packs,
            resumed_packs: report.resumed_packs,
            sent_bytes: report.sent_bytes,
            requests: report.requests,
            secrets: secrets::SecretDocument::all(secrets),
            elapsed_seconds: report.elapsed.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct PushesDocument<'a> {
    remote: &'a str,
    pushed: Vec<PushDocument>,
}

#[derive(Serialize)]
struct PullDocument {
    snapshot: String,
    sequence: Option<u64>,
    signers: Vec<String>,
    contents: u64,
    fetched: u64,
    fetched_bytes: u64,
    received_bytes: u64,
    requests: u64,
    elapsed_seconds: f64,
}

impl PullDocument {
    fn new(report: &PullReport) -> Self {
        Self {
            snapshot: report.snapshot.to_string(),
            sequence: report.sequence,
            signers: report.signers.iter().map(PublicKey::to_string).collect(),
            contents: report.contents,
            fetched: report.fetched,
            fetched_bytes: report.fetched_bytes,
            received_bytes: report.received_bytes,
            requests: report.requests,
            elapsed_seconds: report.elapsed.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct KeyDocument {
    public: String,
}
