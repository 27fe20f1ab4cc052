//! `calve checkout`.

use std::path::Path;

use calve::{CheckoutOptions, CheckoutReport, ErrorKind, Operation, Remote};

use super::open::{limited, settings, warn_of_plain_http};
use super::pull::{PullDocument, tell_pull};
use crate::args::CheckoutArgs;
use crate::clone::findings;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::{is_web, own, store_failure};
use crate::filesystems;
use crate::output::{PathFields, document};
use crate::paths::MentionDocument;
use crate::progress::Total;
use crate::session::Session;
use crate::summary::Summary;
use crate::text::{harmless, shown};

pub(crate) fn run(args: &CheckoutArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let root = session.common.resolve(&args.root);
    let output = session.output;
    if let Some(store) = session.common.store() {
        return Err(own(
            Operation::CheckOutInto.as_str(),
            &root,
            ErrorKind::StoreExists,
            &format!("the new project has a store of its own, and {} is named", shown(&store)),
            "use neither --store nor CALVE_STORE",
        ));
    }
    #[cfg(target_os = "linux")]
    crate::volume::store::must_be_mounted(Operation::CheckOutInto.as_str(), &root)?;
    let failed = |error: calve::Error| failure(&error);
    let remote = Remote::open(&args.url, &settings()).map_err(failed)?;
    let remote = remote.trusting(args.keys.iter().copied());
    let remote = limited(remote, &args.transfer, session);
    warn_of_plain_http(&remote, !args.keys.is_empty(), output);
    let parent = root.parent().filter(|parent| *parent != Path::new(""));
    if let Some(warning) = filesystems::price_of_unknown(parent.unwrap_or(Path::new("."))) {
        output.warning(warning);
    }
    let options = CheckoutOptions::new().remote(&args.remote);
    let done = session
        .work(Total::Transfer, |common| remote.checkout(&root, &args.name, &options, common))
        .map_err(failed)?;
    tell_pull(&done.pulled, output);
    let path = &done.report.path;
    let trees = std::slice::from_ref(&done.report);
    let exit = output.warnings(&findings(trees, |_| false));
    crate::paths::tell_checkout(&done.mentions, path, output);
    output.summary(Summary::of(trees, done.store.path(), done.elapsed, output).text());
    output.summary(format_args!(
        "its store knows the remote as {}; snapshots have no .git, so the project is no git repository",
        harmless(&args.remote)
    ));
    output.document_or_paths(&CheckoutDocument::new(&done, args), [path.as_path()])?;
    Ok(exit)
}

/// There is no store yet, so a hint must not name a command that needs one.
fn failure(error: &calve::Error) -> Failure {
    let hint = match error.kind() {
        ErrorKind::DestinationExists
            if error.io_error().kind() != std::io::ErrorKind::ResourceBusy =>
        {
            "choose a folder that is empty, or does not exist yet"
        }
        ErrorKind::SnapshotNotFound if error.other_path().is_none_or(|url| !is_web(url)) => {
            "where a store knows the remote, 'calve remote names' lists its names; ids must be whole"
        }
        ErrorKind::Untrusted => {
            "'calve remote key' prints the key of who pushes; --key names those whom you trust"
        }
        _ => return store_failure(error),
    };
    store_failure(error).hinted(hint)
}

document! {
    /// The JSON document of `checkout`; docs/json.md says what each field means.
    struct CheckoutDocument<'a>(done: &CheckoutReport, args: &'a CheckoutArgs) {
        #[serde(flatten)]
        path: PathFields = PathFields::new(&done.report.path),
        remote: &'a str = &args.remote,
        url: &'a str = &args.url,
        pulled: PullDocument = PullDocument::new(&done.pulled),
        method: &'static str = done.report.method.as_str(),
        files: u64 = done.report.files,
        bytes: u64 = done.bytes,
        mentions: Vec<MentionDocument> = MentionDocument::all(&done.mentions),
        elapsed_seconds: f64 = done.elapsed.as_secs_f64(),
    }
}
