//! Files of a snapshot that look like secrets: a table of kinds. git does not track them, so a
//! remote may be the first place outside the machine that they reach, and nothing there is
//! encrypted.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use memchr::memmem;

use super::super::Store;
use super::super::blobs::Intake;
use super::super::id::{BlobId, SnapshotId};
use super::super::manifest::os;
use super::super::object::Kind;
use super::super::paths::local::known_tracked;
use super::super::scan::files::read_small;
use crate::error::{Context as _, Error, Operation};

/// Larger files are no keys and no settings.
const MOST_BYTES: u64 = 256 * 1024;
/// How many files are read for their content. Further ones count by their names.
const READ_MOST: usize = 256;
/// Folders of packages, whose files came from elsewhere and are examples.
const PACKAGES: [&str; 4] = ["node_modules", "site-packages", "dist-packages", ".git"];
/// What a file's name has if it is the example of another.
const TEMPLATES: [&str; 7] =
    ["example", "sample", "template", "tmpl", "dist", "defaults", "schema"];

/// What kind of secret a file looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SecretKind {
    /// Settings that a program takes from its environment, such as `.env`.
    Settings,
    /// A private key, or a store of keys.
    PrivateKey,
    /// A token of a package registry.
    Token,
    /// Credentials of a service.
    Credentials,
}

impl SecretKind {
    /// The kind's name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::PrivateKey => "private_key",
            Self::Token => "token",
            Self::Credentials => "credentials",
        }
    }
}

/// A file that looks like a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Secret {
    /// The path from the tree's root.
    pub path: PathBuf,
    /// What it looks like.
    pub kind: SecretKind,
}

/// Which files a row is about. Names are compared without regard to case.
enum SecretFiles {
    Named(&'static str),
    Begins(&'static str),
    Ends(&'static str),
    /// A file in a folder.
    In(&'static str, &'static str),
}

/// A row: files, their kind, and texts of which one must be in the file. Without such a text the
/// name is enough.
struct SecretRow(SecretFiles, SecretKind, &'static [&'static str]);

static TABLE: &[SecretRow] = {
    use SecretFiles::{Begins, Ends, In, Named};
    use SecretKind::{Credentials, PrivateKey, Settings, Token};
    const KEY: &[&str] = &["PRIVATE KEY"];
    const WORDS: &[&str] = &["password", "passwd", "secret", "token", "private_key", "auth"];
    &[
        SecretRow(Named(".env"), Settings, &[]),
        SecretRow(Begins(".env."), Settings, &[]),
        SecretRow(Ends(".env"), Settings, &[]),
        SecretRow(Named(".envrc"), Settings, &[]),
        SecretRow(Named(".dev.vars"), Settings, &[]),
        SecretRow(Named(".secrets"), Settings, &[]),
        SecretRow(Named("local.settings.json"), Settings, &[]),
        SecretRow(Ends(".tfvars"), Settings, &[]),
        SecretRow(Ends(".tfvars.json"), Settings, &[]),
        SecretRow(Named("id_rsa"), PrivateKey, &[]),
        SecretRow(Named("id_dsa"), PrivateKey, &[]),
        SecretRow(Named("id_ecdsa"), PrivateKey, &[]),
        SecretRow(Named("id_ed25519"), PrivateKey, &[]),
        SecretRow(Named("master.key"), PrivateKey, &[]),
        SecretRow(In("credentials", ".key"), PrivateKey, &[]),
        SecretRow(Ends(".pem"), PrivateKey, KEY),
        SecretRow(Ends(".key"), PrivateKey, KEY),
        SecretRow(Ends(".asc"), PrivateKey, KEY),
        SecretRow(Ends(".p8"), PrivateKey, KEY),
        SecretRow(Ends(".p12"), PrivateKey, &[]),
        SecretRow(Ends(".pfx"), PrivateKey, &[]),
        SecretRow(Ends(".ppk"), PrivateKey, &[]),
        SecretRow(Ends(".jks"), PrivateKey, &[]),
        SecretRow(Ends(".keystore"), PrivateKey, &[]),
        SecretRow(Ends(".kdbx"), PrivateKey, &[]),
        SecretRow(Ends(".ovpn"), PrivateKey, KEY),
        SecretRow(Named(".npmrc"), Token, &["_auth", "_password"]),
        SecretRow(Named(".yarnrc.yml"), Token, &["npmAuth"]),
        SecretRow(Named(".pypirc"), Token, &["password"]),
        SecretRow(Named("pip.conf"), Token, &["@"]),
        SecretRow(In(".cargo", "credentials"), Token, &[]),
        SecretRow(Named("credentials.toml"), Token, &[]),
        SecretRow(In(".gem", "credentials"), Token, &[]),
        SecretRow(Named("auth.json"), Token, WORDS),
        SecretRow(Named(".netrc"), Credentials, &[]),
        SecretRow(Named("_netrc"), Credentials, &[]),
        SecretRow(Named(".git-credentials"), Credentials, &[]),
        SecretRow(Named(".pgpass"), Credentials, &[]),
        SecretRow(Named(".my.cnf"), Credentials, &["password"]),
        SecretRow(Named(".htpasswd"), Credentials, &[]),
        SecretRow(Named(".vault-token"), Credentials, &[]),
        SecretRow(Named(".s3cfg"), Credentials, &[]),
        SecretRow(Named(".boto"), Credentials, &[]),
        SecretRow(Named(".dockercfg"), Credentials, &["auth"]),
        SecretRow(In(".docker", "config.json"), Credentials, &["auth"]),
        SecretRow(In(".aws", "credentials"), Credentials, &[]),
        SecretRow(In(".aws", "config"), Credentials, &["secret"]),
        SecretRow(In(".azure", "accessTokens.json"), Credentials, &[]),
        SecretRow(In(".kube", "config"), Credentials, &[]),
        SecretRow(Ends("kubeconfig"), Credentials, &[]),
        SecretRow(Named("kubeconfig.yaml"), Credentials, &[]),
        SecretRow(Named("application_default_credentials.json"), Credentials, &[]),
        SecretRow(Named("credentials.json"), Credentials, WORDS),
        SecretRow(Begins("client_secret"), Credentials, &[]),
        SecretRow(Begins("service-account"), Credentials, KEY),
        SecretRow(Begins("service_account"), Credentials, KEY),
        SecretRow(Begins("serviceaccount"), Credentials, KEY),
        SecretRow(Named("credentials.tfrc.json"), Credentials, &[]),
        SecretRow(Begins("terraform.tfstate"), Credentials, WORDS),
        SecretRow(Begins("secrets."), Credentials, &[]),
        SecretRow(Begins("secret."), Credentials, &[]),
    ]
};

impl SecretFiles {
    /// Whether a file is it; `name` has small letters.
    fn is(&self, folder: Option<&OsStr>, name: &str) -> bool {
        match *self {
            Self::Named(it) => name.eq_ignore_ascii_case(it),
            Self::Begins(it) => name.starts_with(it),
            Self::Ends(it) => name.len() > it.len() && name.ends_with(it),
            Self::In(of, it) => {
                (name.eq_ignore_ascii_case(it) || it.starts_with('.') && name.ends_with(it))
                    && folder.is_some_and(|folder| folder.eq_ignore_ascii_case(of))
            }
        }
    }
}

/// The kind of a file by its path, and the texts of which it must have one.
fn kind_of(folder: &Path, name: &[u8]) -> Option<(SecretKind, &'static [&'static str])> {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let row = TABLE.iter().find(|row| row.0.is(folder.file_name(), &name))?;
    let is_template =
        name.split(['.', '-', '_']).any(|part| TEMPLATES.contains(&part)) || name.ends_with(".pub");
    let is_of_package = folder.iter().any(|part| PACKAGES.iter().any(|it| part == *it));
    (!is_template && !is_of_package).then_some((row.1, row.2))
}

/// The files of a snapshot that look like secrets and that git does not track in the project, sorted
/// by path. calve knows them by their names, and some by what is in them. If git cannot be asked,
/// none of them is taken for tracked.
///
/// # Errors
/// Those of every operation, see [`Store`]. Nothing is changed.
pub fn secrets_in(store: &Store, id: SnapshotId) -> Result<Vec<Secret>, Error> {
    let manifest = store.catalog().manifest(id, &store.catalog().object(id)?)?;
    let mut found = Vec::new();
    let mut read = 0;
    let mut folder = (0, PathBuf::new());
    for (place, _, entry) in manifest.entries() {
        let Kind::File { size: size @ 1.., blob, .. } = entry.kind else { continue };
        if folder.0 != place {
            folder = (place, manifest.path(place));
        }
        let Some((kind, texts)) = kind_of(&folder.1, &entry.name) else { continue };
        let path = folder.1.join(os(&entry.name));
        if texts.is_empty() || read == READ_MOST || has_one_of(store, blob, size, texts, &path)? {
            found.push(Secret { path, kind });
        }
        read = READ_MOST.min(read + usize::from(!texts.is_empty()));
    }
    if !found.is_empty() {
        let paths: Vec<&Path> = found.iter().map(|secret| secret.path.as_path()).collect();
        if let Some(tracked) = known_tracked(&store.project()?, &paths) {
            found.retain(|secret| !tracked.contains(&secret.path));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a file has one of the texts. A large one has none.
fn has_one_of(
    store: &Store,
    blob: BlobId,
    size: u64,
    texts: &[&str],
    path: &Path,
) -> Result<bool, Error> {
    if size > MOST_BYTES {
        return Ok(false);
    }
    let never = || false;
    let (file, _) = store.contents().get(&mut Intake::new(), blob, size, &never)?;
    let text = read_small(&file, size).context(Operation::Read, || path)?;
    Ok(text.is_some_and(|text| texts.iter().any(|it| memmem::find(&text, it.as_bytes()).is_some())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_knows_secrets_and_no_templates() {
        use SecretKind::{Credentials, PrivateKey, Settings, Token};
        for (path, expected) in [
            (".env", Some((Settings, false))),
            ("app/.env.local", Some((Settings, false))),
            (".env.production", Some((Settings, false))),
            ("prod.env", Some((Settings, false))),
            (".ENV", Some((Settings, false))),
            (".env.example", None),
            (".env.sample", None),
            (".env.local.template", None),
            ("example.env", None),
            (".environment", None),
            ("id_rsa", Some((PrivateKey, false))),
            ("id_rsa.pub", None),
            ("keys/server.pem", Some((PrivateKey, true))),
            ("config/credentials/production.key", Some((PrivateKey, false))),
            ("config/master.key", Some((PrivateKey, false))),
            ("node_modules/x/test/key.pem", None),
            (".venv/lib/python3/site-packages/certifi/cacert.pem", None),
            (".npmrc", Some((Token, true))),
            (".cargo/credentials", Some((Token, false))),
            (".aws/credentials", Some((Credentials, false))),
            ("credentials", None),
            (".kube/config", Some((Credentials, false))),
            ("config", None),
            (".azure/accessTokens.json", Some((Credentials, false))),
            ("service-account-prod.json", Some((Credentials, true))),
            ("terraform.tfstate.backup", Some((Credentials, true))),
            ("src/main.rs", None),
        ] {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            let found = kind_of(Path::new(folder), name.as_bytes());
            let found = found.map(|(kind, texts)| (kind, !texts.is_empty()));
            assert_eq!(found, expected, "{path}");
        }
    }
}
