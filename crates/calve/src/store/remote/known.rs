//! The remotes that a store knows by names.
//!
//! ```text
//! calve known remote 1
//! name NAME
//! id ID             the remote's own id
//! url URL
//! key KEY           any number
//! project-key KEY   any number; from the project's own list
//! ```

use std::io;
use std::path::PathBuf;

use rustix::fs::CWD;

use super::super::Store;
use super::super::files::{listed_at, read_plain};
use super::super::id::is_token;
use super::super::locks;
use super::make::must_be_in_no_tree;
use super::name::{self, PublicKey};
use super::{Remote, RemoteSettings};
use crate::error::{Context as _, Error, ErrorKind, IfThere as _, Operation};
use crate::tree::staging::write_flushed;

const FIRST_LINE: &str = "calve known remote 1\n";
const MOST_BYTES: u64 = 256 << 10;

/// A remote that a store knows by a name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownRemote {
    /// Its name in this store.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// The remote's own id, by which it is known again.
    pub id: String,
    /// The keys with which the remote was added. A name must be signed by one of these or of
    /// `project_keys`. If there are none of either, it needs no signature.
    pub keys: Vec<PublicKey>,
    /// The keys that the project named when it was last asked; see
    /// [`KnownRemote::add_with_project_keys`].
    pub project_keys: Vec<PublicKey>,
}

impl KnownRemote {
    /// Lets `store` know a remote by a name, with the keys that the remote is [trusting]. If the
    /// store knows exactly that already, nothing is done.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`]; [`ErrorKind::RemoteUnfit`] if the remote is inside a project or a
    /// worktree; [`ErrorKind::RemoteExists`] if the store knows another remote by this name, or the
    /// same one with other keys; those of every operation, see [`Store`]. Nothing
    /// is changed.
    ///
    /// [trusting]: Remote::trusting
    pub fn add(store: &Store, name: &str, remote: &Remote) -> Result<Self, Error> {
        Self::add_with_project_keys(store, name, remote, &[])
    }

    /// The same, but beside the keys that the remote is trusting calve trusts those that the
    /// project names. If the store knows this remote by this name with the same keys of its own,
    /// `project` replaces the keys that it had from the project.
    ///
    /// The caller decides where a project names keys. A file that a pull brings must not be read
    /// without the user: a tree could authorise the user who pushed it.
    ///
    /// # Errors
    /// Those of [`KnownRemote::add`]; [`ErrorKind::RemoteExists`] also if no key were left where
    /// there was one, since then names would need no signature.
    pub fn add_with_project_keys(
        store: &Store,
        name: &str,
        remote: &Remote,
        project: &[PublicKey],
    ) -> Result<Self, Error> {
        store.must_be_writable(Operation::AddRemote)?;
        must_be_in_no_tree(remote.url(), Operation::AddRemote)?;
        let known = Self {
            name: name.to_owned(),
            url: remote.url().to_owned(),
            id: remote.id().to_owned(),
            keys: remote.keys.clone(),
            project_keys: project.to_vec(),
        };
        let path = path_of(store, name)?;
        let _guard = locks::one_at_the_remotes(store.path())?;
        match Self::read(&path) {
            Ok(there) if there == known => return Ok(known),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(there) if known.may_replace(&there) => {}
            there => {
                let is_unsigned = known.trusted().is_empty();
                let why = match there.is_ok_and(|there| there.is_same_remote(&known)) {
                    true if is_unsigned => {
                        "its names need a signature, and would need none any more"
                    }
                    true => "the store knows this remote with other keys",
                    false => "the store knows another remote by this name",
                };
                let cause = io::Error::new(io::ErrorKind::AlreadyExists, why);
                return Err(Error::new(ErrorKind::RemoteExists, Operation::AddRemote, name, cause));
            }
        }
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(store.layout().known_remotes())?;
            write_flushed(&store.layout().stage(), &path, known.text().as_bytes())
        };
        write().context(Operation::AddRemote, || &path)?;
        Ok(known)
    }

    fn is_same_remote(&self, other: &Self) -> bool {
        (&self.name, &self.url, &self.id) == (&other.name, &other.url, &other.id)
    }

    /// Whether only the project's keys differ, and some key is left.
    fn may_replace(&self, there: &Self) -> bool {
        self.is_same_remote(there)
            && self.keys == there.keys
            && (!self.trusted().is_empty() || there.trusted().is_empty())
    }

    /// All keys of which one must have signed a name. Empty: a name needs no signature.
    #[must_use]
    pub fn trusted(&self) -> Vec<PublicKey> {
        let mut all = self.keys.clone();
        all.extend(self.project_keys.iter().filter(|key| !self.keys.contains(key)));
        all
    }

    /// All remotes that `store` knows, by name.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`].
    pub fn all(store: &Store) -> Result<Vec<Self>, Error> {
        let folder = store.layout().known_remotes();
        let listed = listed_at(&folder).context(Operation::ReadDirectory, || &folder)?;
        let mut all = Vec::new();
        for name in listed.iter().filter_map(|(name, _)| name::decoded(name.to_str()?)) {
            match Self::find(store, &name) {
                // Somebody has removed it meanwhile.
                Err(error) if error.kind() == ErrorKind::RemoteNotFound => {}
                found => all.push(found?),
            }
        }
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The remote that `store` knows by this name.
    ///
    /// # Errors
    /// [`ErrorKind::RemoteNotFound`]; those of every operation, see [`Store`].
    pub fn find(store: &Store, name: &str) -> Result<Self, Error> {
        let path = path_of(store, name)?;
        Self::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                let cause = io::Error::new(
                    io::ErrorKind::NotFound,
                    "the store knows no remote by this name",
                );
                Error::new(ErrorKind::RemoteNotFound, Operation::FindRemote, name, cause)
            }
            io::ErrorKind::InvalidData => {
                Error::new(ErrorKind::Damaged, Operation::FindRemote, path, error)
            }
            _ => Error::io(Operation::FindRemote, path, error),
        })
    }

    /// Lets `store` forget the remote with this name. The remote itself stays as it is, and so does
    /// what the store has seen of its names. Returns whether there was one.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`]; those of every operation, see [`Store`].
    pub fn remove(store: &Store, name: &str) -> Result<bool, Error> {
        store.must_be_writable(Operation::Remove)?;
        let path = path_of(store, name)?;
        let removed = std::fs::remove_file(&path).if_there();
        Ok(removed.context(Operation::Remove, || path)?.is_some())
    }

    /// Opens it. It must be the remote that it was.
    ///
    /// # Errors
    /// As for [`Remote::open`]; [`ErrorKind::Untrusted`] if another remote is at the URL.
    pub fn open(&self, settings: &RemoteSettings) -> Result<Remote, Error> {
        let remote = Remote::open(&self.url, settings)?;
        if remote.id() != self.id {
            let cause = io::Error::new(
                io::ErrorKind::InvalidData,
                format!("another remote is there: its id is {}, not {}", remote.id(), self.id),
            );
            return Err(Error::new(ErrorKind::Untrusted, Operation::OpenRemote, &self.url, cause));
        }
        Ok(remote.trusting(self.trusted()))
    }

    pub(crate) fn text(&self) -> String {
        let Self { name, url, id, keys, project_keys } = self;
        let mut text = format!("{FIRST_LINE}name {name}\nid {id}\nurl {url}\n");
        for key in keys {
            text += &format!("key {key}\n");
        }
        for key in project_keys {
            text += &format!("project-key {key}\n");
        }
        text
    }

    fn read(path: &std::path::Path) -> io::Result<Self> {
        let bytes = read_plain(CWD, path, MOST_BYTES)?;
        let wrong =
            || io::Error::new(io::ErrorKind::InvalidData, "it does not say what remote is meant");
        let known = std::str::from_utf8(&bytes).ok().and_then(Self::parse).ok_or_else(wrong)?;
        // It is found by its name only.
        let part = name::encoded(&known.name).map_err(|_| wrong())?;
        if path.file_name().is_some_and(|name| name == part.as_str()) {
            Ok(known)
        } else {
            Err(wrong())
        }
    }

    /// Reads what `text` writes, and nothing else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_prefix(FIRST_LINE)?.lines();
        let mut value = |word: &str| Some(lines.next()?.strip_prefix(word)?.to_owned());
        let (name, id, url) = (value("name ")?, value("id ")?, value("url ")?);
        let (mut keys, mut project_keys) = (Vec::new(), Vec::new());
        for line in lines {
            match line.strip_prefix("project-key ") {
                Some(key) => project_keys.push(key.parse().ok()?),
                None => keys.push(line.strip_prefix("key ")?.parse().ok()?),
            }
        }
        let known = Self { name, url, id, keys, project_keys };
        (is_token(&known.id) && known.text() == text).then_some(known)
    }
}

fn path_of(store: &Store, name: &str) -> Result<PathBuf, Error> {
    Ok(store.layout().known_remotes().join(name::encoded(name)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::remote::SigningKey;

    #[test]
    fn only_the_keys_of_the_project_are_replaced_and_never_by_none() {
        let key = |number| SigningKey::from_bytes(&[number; 32]).public();
        let known = |keys: &[u8], project: &[u8]| KnownRemote {
            name: "team".to_owned(),
            url: "file:///srv".to_owned(),
            id: "0123456789abcdef0123456789abcdef".to_owned(),
            keys: keys.iter().map(|number| key(*number)).collect(),
            project_keys: project.iter().map(|number| key(*number)).collect(),
        };
        for (row, there, new, expected) in [
            ("the first keys", known(&[], &[]), known(&[], &[1]), true),
            ("somebody was added", known(&[], &[1]), known(&[], &[1, 2]), true),
            ("somebody left", known(&[], &[1, 2]), known(&[], &[2]), true),
            ("all left", known(&[], &[1]), known(&[], &[]), false),
            ("all left but one that was named", known(&[3], &[1]), known(&[3], &[]), true),
            ("another was named", known(&[3], &[1]), known(&[4], &[1]), false),
            ("one is named no more", known(&[3], &[1]), known(&[], &[1]), false),
            ("one is named now", known(&[], &[1]), known(&[1], &[1]), false),
            (
                "another remote",
                known(&[], &[1]),
                KnownRemote { id: "f".repeat(32), ..known(&[], &[1]) },
                false,
            ),
            (
                "another place",
                known(&[], &[1]),
                KnownRemote { url: "file:///tmp".to_owned(), ..known(&[], &[1]) },
                false,
            ),
        ] {
            assert_eq!(new.may_replace(&there), expected, "{row}");
        }
        assert_eq!(known(&[1, 2], &[2, 3]).trusted(), [key(1), key(2), key(3)]);
    }

    #[test]
    fn what_a_store_knows_of_a_remote_is_read_as_it_was_written_and_nothing_else_is() {
        let known = KnownRemote {
            name: "team".to_owned(),
            url: "file:///srv/a b".to_owned(),
            id: "0123456789abcdef0123456789abcdef".to_owned(),
            keys: vec![SigningKey::from_bytes(&[1; 32]).public()],
            project_keys: vec![SigningKey::from_bytes(&[2; 32]).public()],
        };
        let text = known.text();
        assert_eq!(KnownRemote::parse(&text), Some(known));
        for wrong in [
            String::new(),
            text[..text.len() - 1].to_owned(),
            format!("{text}more\n"),
            text.replace("remote 1", "remote 2"),
            text.replace("id 01", "id ../"),
            text.replace("key ", "key 0"),
            text.replace("\nkey ", "\nX ")
                .replace("\nproject-key ", "\nkey ")
                .replace("\nX ", "\nproject-key "),
            text.replace("url ", "url"),
        ] {
            assert_eq!(KnownRemote::parse(&wrong), None, "{wrong}");
        }
    }
}
