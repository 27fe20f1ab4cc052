//! Files that look like secrets: a table of kinds. git does not track them, so a worktree, or a
//! remote where nothing is encrypted, may be the first other place that they reach.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use memchr::memmem;
use rustix::fs;

use super::kinds::{NameEnds, RowsByEnds};
use super::local::known_tracked;
use crate::macros::named;
use crate::store::files::read_plain;
use crate::store::id::BlobId;
use crate::store::layout;
use crate::store::manifest::Manifest;
use crate::store::object::Kind;

/// Larger files are no keys and no settings.
const MOST_BYTES: u64 = 256 * 1024;
/// How many files are read for their content. Further ones count by their names.
const READ_MOST: usize = 256;
/// Folders of packages, whose files came from elsewhere and are examples.
const PACKAGES: [&str; 4] = ["node_modules", "site-packages", "dist-packages", ".git"];
/// What a file's name has if it is the example of another.
const TEMPLATES: [&str; 7] =
    ["example", "sample", "template", "tmpl", "dist", "defaults", "schema"];

named! {
    listed:
    /// What kind of secret a file looks like.
    // A kind's place here is its number in a store.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[non_exhaustive]
    pub enum SecretKind {
        /// Settings that a program takes from its environment, such as `.env`.
        Settings = "settings",
        /// A private key, or a store of keys.
        PrivateKey = "private_key",
        /// A token of a package registry.
        Token = "token",
        /// Credentials of a service.
        Credentials = "credentials",
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

/// Each scan asks about each name.
static BY_ENDS: LazyLock<RowsByEnds> =
    LazyLock::new(|| RowsByEnds::of(TABLE.iter().map(|row| row.0.ends())));

impl SecretFiles {
    /// What the names begin and end with, as far as the row says.
    fn ends(&self) -> NameEnds {
        match *self {
            Self::Begins(it) => NameEnds::of(it, ""),
            Self::Ends(it) => NameEnds::of("", it),
            Self::In(_, it) if it.starts_with('.') => NameEnds::of("", it),
            Self::Named(it) | Self::In(_, it) => NameEnds::of(it, it),
        }
    }

    /// Whether a file may be it, as far as its name says.
    fn may_be(&self, name: &[u8]) -> bool {
        let is = |part: &[u8], it: &str| part.eq_ignore_ascii_case(it.as_bytes());
        let begins = |it: &str| name.get(..it.len()).is_some_and(|part| is(part, it));
        let ends = |it: &str| name.len() > it.len() && is(&name[name.len() - it.len()..], it);
        match *self {
            Self::Named(it) => is(name, it),
            Self::Begins(it) => begins(it),
            Self::Ends(it) => ends(it),
            Self::In(_, it) => is(name, it) || it.starts_with('.') && ends(it),
        }
    }

    fn is(&self, folder: Option<&OsStr>, name: &[u8]) -> bool {
        let is_there = match *self {
            Self::In(of, _) => folder.is_some_and(|folder| folder.eq_ignore_ascii_case(of)),
            _ => true,
        };
        is_there && self.may_be(name)
    }
}

/// The kind of a file by its path, and the texts of which it must have one.
fn kind_of(path: &Path) -> Option<(SecretKind, &'static [&'static str])> {
    let (folder, name) = (path.parent()?, path.file_name()?);
    let row = TABLE.iter().find(|row| row.0.is(folder.file_name(), name.as_bytes()))?;
    let name = name.to_string_lossy().to_ascii_lowercase();
    let is_template =
        name.split(['.', '-', '_']).any(|part| TEMPLATES.contains(&part)) || name.ends_with(".pub");
    let is_of_package = folder.iter().any(|part| PACKAGES.iter().any(|it| part == *it));
    (!is_template && !is_of_package).then_some((row.1, row.2))
}

/// Whether a file of this name may look like a secret, wherever it is.
fn may_be(name: &[u8]) -> bool {
    BY_ENDS.rows(name).any(|row| TABLE[row].0.may_be(name))
}

/// A file whose name is that of a secret. It is one if it has one of the texts.
#[derive(Debug)]
pub(crate) struct SecretCandidate {
    pub(crate) secret: Secret,
    pub(crate) blob: BlobId,
    pub(crate) size: u64,
    texts: &'static [&'static str],
}

impl SecretCandidate {
    /// Whether the content, which `read` gives, is that of a secret. A file that cannot be read
    /// counts by its name; one that is too large has none of the texts.
    pub(crate) fn is_secret<E>(
        &self,
        read: impl FnOnce() -> Result<Option<Vec<u8>>, E>,
    ) -> Result<bool, E> {
        if self.texts.is_empty() {
            return Ok(true);
        }
        if self.size > MOST_BYTES {
            return Ok(false);
        }
        Ok(read()?.is_none_or(|text| has_one_of(&text, self.texts)))
    }
}

fn has_one_of(text: &[u8], texts: &[&str]) -> bool {
    texts.iter().any(|it| memmem::find(text, it.as_bytes()).is_some())
}

/// The files of a tree whose names are those of secrets, without those of which too many would have
/// to be read: these count by their names.
pub(crate) fn candidates(manifest: &Manifest) -> Vec<SecretCandidate> {
    let (mut found, mut read) = (Vec::new(), 0);
    for (place, slot, entry) in manifest.entries() {
        let Kind::File { size: size @ 1.., blob, .. } = entry.kind else { continue };
        if !may_be(&entry.name) {
            continue;
        }
        let path = manifest.path_of(place, slot);
        let Some((kind, mut texts)) = kind_of(&path) else { continue };
        if !texts.is_empty() && read == READ_MOST {
            texts = &[];
        }
        read += usize::from(!texts.is_empty());
        found.push(SecretCandidate { secret: Secret { path, kind }, blob, size, texts });
    }
    found
}

/// What kind of secret the file at `path` below `root` looks like now. It must not be tracked.
pub(crate) fn kind_at(root: &Path, path: &Path) -> Option<SecretKind> {
    let name = path.file_name()?.as_bytes();
    let (kind, texts) = may_be(name).then(|| kind_of(path)).flatten()?;
    let has_text = || match read_plain(fs::CWD, &root.join(path), MOST_BYTES) {
        Ok(text) => has_one_of(&text, texts),
        // A folder, a pipe, or a file that is too large.
        Err(error) => error.kind() != io::ErrorKind::InvalidData,
    };
    (texts.is_empty() || has_text()).then_some(kind)
}

/// Those of the paths in `tree` that git tracks, in the tree's repository or in one inside of it.
/// `has`: whether the tree has an entry. `None` if git cannot say it of the tree's repository.
pub(crate) fn tracked_within<'p>(
    tree: &Path,
    has: impl Fn(&Path) -> bool,
    paths: impl Iterator<Item = &'p Path>,
) -> Option<HashSet<PathBuf>> {
    let mut repositories: BTreeMap<&Path, Vec<&Path>> = BTreeMap::new();
    for path in paths {
        let inner = path.ancestors().skip(1).find(|above| has(&above.join(layout::GIT)));
        let inner = inner.unwrap_or(Path::new(""));
        repositories.entry(inner).or_default().extend(path.strip_prefix(inner));
    }
    let mut found = HashSet::new();
    for (inner, paths) in repositories {
        match known_tracked(&tree.join(inner), &paths) {
            Some(tracked) => found.extend(tracked.iter().map(|path| inner.join(path))),
            None if inner.as_os_str().is_empty() => return None,
            None => {}
        }
    }
    Some(found)
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
            let found = kind_of(Path::new(path));
            let found = found.map(|(kind, texts)| (kind, !texts.is_empty()));
            assert_eq!(found, expected, "{path}");
            let name = path.rsplit('/').next().unwrap_or(path);
            assert!(found.is_none() || may_be(name.as_bytes()), "{path}");
        }
    }
}
