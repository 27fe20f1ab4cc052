//! Finds and opens the remote that the user means.

use calve::{ErrorKind, KnownRemote, Remote, RemoteSettings, Store};

use crate::args::TransferArgs;
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::output::Output;
use crate::session::Session;

/// The remote with this name, or the only remote.
fn known(store: &Store, name: Option<&str>) -> Result<KnownRemote, Failure> {
    if let Some(name) = name {
        return Ok(KnownRemote::find(store, name)?);
    }
    let mut all = KnownRemote::all(store)?;
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
pub(super) fn settings() -> RemoteSettings {
    std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(key, _)| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|start| key.starts_with(start)))
        .fold(RemoteSettings::new(), |settings, (key, value)| {
            settings.set(key.to_ascii_lowercase(), value)
        })
}

pub(super) fn open(store: &Store, name: Option<&str>) -> Result<(KnownRemote, Remote), Failure> {
    let known = known(store, name)?;
    let remote = known.open(&settings())?;
    Ok((known, remote))
}

/// The remote with the bandwidth that it may use.
pub(super) fn limited(remote: Remote, args: &TransferArgs, session: Session<'_>) -> Remote {
    match args.limit_rate {
        Some(rate) => remote.limited(rate, &session.signals.cancel()),
        None => remote,
    }
}

/// Warns about a remote over `http://`, before calve uses it.
pub(super) fn warn_of_plain_http(remote: &Remote, is_signed: bool, output: Output) {
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

/// Splits `REMOTE/NAME`. A name alone has no slash.
pub(super) fn remote_and_name<'a>(
    from: Option<&'a str>,
    word: &'a str,
) -> (Option<&'a str>, &'a str) {
    match word.split_once('/') {
        Some((remote, name)) if from.is_none() => (Some(remote), name),
        _ => (from, word),
    }
}
