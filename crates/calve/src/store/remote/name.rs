//! The names of a remote, and who vouches for them.
//!
//! ```text
//! calve name 1
//! remote ID               the remote's own id
//! name NAME
//! sequence N              1, 2, 3, … for each name
//! snapshot ID
//! made SECONDS            since 1970
//! found ID                optional: the object that says which files name the project's root
//! signature KEY SIGNATURE any number: ed25519 over everything before the first signature
//! ```
//! Every change of a name is an object of its own, `names/NAME/N`, which nobody can write again. So
//! of two who change a name at once, one is first and the other one second, and the history of the
//! name stays. The highest N is what the name means.

use std::fmt;
use std::io;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, VerifyingKey};

use super::super::files::percent_encoded;
use super::super::id::{BlobId, ID_BYTES, SnapshotId, from_hex};
use super::super::snapshot::check_name;
use crate::error::{Error, ErrorKind, Operation};

/// No change of a name is longer.
pub(crate) const NAME_MOST_BYTES: u64 = 64 << 10;

/// A key as long as a file name can be, and one for the number.
const ENCODED_MOST_BYTES: usize = 200;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key that says who changed a name: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn no_key(text: &str, why: &str) -> Error {
    let cause = io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    Error::new(ErrorKind::InvalidName, Operation::ReadKey, text, cause)
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes =
            from_hex(text).ok_or_else(|| no_key(text, "a public key has 64 hexadecimal digits"))?;
        VerifyingKey::from_bytes(&bytes).ok().filter(|key| !key.is_weak()).map(Self).ok_or_else(
            || no_key(text, "no secret key belongs to it: there is a wrong digit in it"),
        )
    }
}

/// The secret half of a key, which signs what a push says of a name. Its text is never printed by
/// `Debug`.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the secret of {}", self.public())
    }
}

impl SigningKey {
    /// The key with these secret bytes.
    #[must_use]
    pub fn from_bytes(secret: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(secret))
    }

    /// A new key, from the system's source of random bytes.
    ///
    /// # Errors
    /// Those of reading `/dev/urandom`.
    pub fn generate() -> Result<Self, Error> {
        let path = "/dev/urandom";
        let mut secret = [0; ID_BYTES];
        std::fs::File::open(path)
            .and_then(|mut file| io::Read::read_exact(&mut file, &mut secret))
            .map_err(|error| Error::io(Operation::MakeKey, path, error))?;
        Ok(Self::from_bytes(&secret))
    }

    /// The secret bytes. Whoever has them can sign.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }
}

/// What a name meant at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) remote: String,
    pub(crate) name: String,
    pub(crate) sequence: u64,
    pub(crate) snapshot: SnapshotId,
    pub(crate) made: i64,
    pub(crate) found: Option<BlobId>,
}

/// A change of a name, and the keys whose signatures of it are right.
pub(crate) type VouchedName = (Named, Vec<PublicKey>);

impl Named {
    fn signed_part(&self) -> String {
        let Self { remote, name, sequence, snapshot, made, found } = self;
        let mut text = format!(
            "calve name 1\nremote {remote}\nname {name}\nsequence {sequence}\nsnapshot {snapshot}\nmade {made}\n"
        );
        if let Some(found) = found {
            text += &format!("found {found}\n");
        }
        text
    }

    pub(crate) fn encode(&self, key: Option<&SigningKey>) -> String {
        let mut text = self.signed_part();
        if let Some(key) = key {
            let signature = hex(&key.0.sign(text.as_bytes()).to_bytes());
            text += &format!("signature {} {signature}\n", key.public());
        }
        text
    }

    /// Reads what `encode` writes, and nothing else; with the public keys whose signatures are
    /// right.
    pub(crate) fn decode(bytes: &[u8]) -> Option<VouchedName> {
        let text = std::str::from_utf8(bytes).ok()?;
        let signed = text.find("\nsignature ").map_or(text.len(), |at| at + 1);
        let (signed, signatures) = text.split_at(signed);
        let mut lines = signed.lines();
        let mut value = |word: &str| lines.next()?.strip_prefix(word)?.strip_prefix(' ');
        value("calve").filter(|rest| *rest == "name 1")?;
        let remote = value("remote")?.to_owned();
        let name = value("name")?.to_owned();
        let sequence = value("sequence")?.parse().ok()?;
        let snapshot = SnapshotId::from_bytes(from_hex(value("snapshot")?)?);
        let made = value("made")?.parse().ok()?;
        let found = match lines.next() {
            None => None,
            Some(line) => Some(BlobId::from_bytes(from_hex(line.strip_prefix("found ")?)?)),
        };
        let named = Self { remote, name, sequence, snapshot, made, found };
        // One meaning has one text: leading zeros, another case or a further line are refused.
        if named.signed_part() != signed {
            return None;
        }
        let mut signers = Vec::new();
        for line in signatures.lines() {
            let (key, signature) = line.strip_prefix("signature ")?.split_once(' ')?;
            let (first, second) = signature.split_at_checked(2 * ID_BYTES)?;
            let signature = Signature::from_components(from_hex(first)?, from_hex(second)?);
            let Ok(key) = key.parse::<PublicKey>() else { continue };
            if key.0.verify_strict(signed.as_bytes(), &signature).is_ok() {
                signers.push(key);
            }
        }
        Some((named, signers))
    }
}

/// A name as a part of a key: what is no letter, digit, dash, dot or underscore is `%XX`.
///
/// # Errors
/// [`ErrorKind::InvalidName`] if no snapshot can have the name, or the result is too long.
pub(crate) fn encoded(name: &str) -> Result<String, Error> {
    check_name(name)?;
    let is_kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let out = percent_encoded(name.as_bytes(), is_kept);
    if out.len() > ENCODED_MOST_BYTES {
        let cause = io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is too long for a remote: more than 200 bytes, where most characters take three",
        );
        return Err(Error::new(ErrorKind::InvalidName, Operation::UseName, name, cause));
    }
    Ok(out)
}

/// The name that `encoded` was given. `None`: it was given no such name.
pub(crate) fn decoded(part: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), part.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    let name = String::from_utf8(bytes).ok()?;
    (encoded(&name).ok()?.as_str() == part).then_some(name)
}

/// The key of a change of a name.
pub(crate) fn key_of(encoded: &str, sequence: u64) -> String {
    format!("names/{encoded}/{sequence:020}")
}

/// The name and the number in a key.
pub(crate) fn of_key(key: &str) -> Option<(String, u64)> {
    let (part, number) = key.strip_prefix("names/")?.split_once('/')?;
    let sequence = number.parse().ok()?;
    let name = decoded(part)?;
    (key_of(part, sequence) == key).then_some((name, sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> Named {
        Named {
            remote: "0123".to_owned(),
            name: "ready".to_owned(),
            sequence: 7,
            snapshot: SnapshotId::from_bytes([3; 32]),
            made: 1_700_000_000,
            found: None,
        }
    }

    #[test]
    fn a_signature_vouches_for_every_byte_before_it() {
        let (key, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        for named in [named(), Named { found: Some(BlobId::from_bytes([5; 32])), ..named() }] {
            let text = named.encode(Some(&key));
            let (read, signers) = Named::decode(text.as_bytes()).unwrap();
            assert_eq!((&read, signers), (&named, vec![key.public()]));
            let (read, signers) = Named::decode(named.encode(None).as_bytes()).unwrap();
            assert_eq!((read, signers), (named.clone(), vec![]));
            for at in 0..text.len() {
                let mut wrong = text.clone().into_bytes();
                wrong[at] ^= 1;
                let signers = Named::decode(&wrong).map(|(_, signers)| signers);
                assert!(signers.unwrap_or_default().is_empty(), "byte {at}");
            }
            // Somebody else's signature under this one's key.
            let forged = text.replace(&key.public().to_string(), &other.public().to_string());
            assert!(Named::decode(forged.as_bytes()).unwrap().1.is_empty());
        }
    }

    #[test]
    fn a_change_of_a_name_has_one_text() {
        let text = named().encode(None);
        for (row, wrong) in [
            ("nothing", String::new()),
            ("cut", text[..text.len() - 1].to_owned()),
            ("a leading zero", text.replace("sequence 7", "sequence 07")),
            ("a sign", text.replace("sequence 7", "sequence +7")),
            ("a further line", format!("{text}more\n")),
            ("a carriage return", text.replace('\n', "\r\n")),
            ("another version", text.replace("name 1", "name 2")),
            ("no digits", text.replace("0303", "03x3")),
            ("half a signature", format!("{text}signature {}\n", "00".repeat(32))),
        ] {
            assert!(Named::decode(wrong.as_bytes()).is_none(), "{row}");
        }
    }

    #[test]
    fn a_name_is_read_from_its_key_and_no_key_leads_elsewhere() {
        for name in ["ready", "v1.2_x-y", "größe", "a%b", "名前", "a\\b", "~"] {
            let part = encoded(name).unwrap();
            assert!(part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'), "{part}");
            assert_eq!(decoded(&part).as_deref(), Some(name));
            assert_eq!(of_key(&key_of(&part, 12)), Some((name.to_owned(), 12)));
        }
        for name in ["", "..", ".", "a/b", "-x", &"ü".repeat(100)] {
            encoded(name).unwrap_err();
        }
        for part in ["", "..", "%", "%4", "%41", "%zz", "%2e%2e", "a%2Fb", "%FF", "a/b"] {
            assert_eq!(decoded(part), None, "{part}");
        }
        for key in ["names/a/12", "names/a", "names/../00000000000000000001", "a/b"] {
            assert_eq!(of_key(key), None, "{key}");
        }
    }

    #[test]
    fn a_key_is_read_as_it_is_printed_and_its_secret_is_not_printed() {
        let key = SigningKey::generate().unwrap();
        let public = key.public();
        assert_eq!(public.to_string().parse::<PublicKey>().unwrap(), public);
        assert_eq!(SigningKey::from_bytes(&key.to_bytes()).public(), public);
        assert!(!format!("{key:?}").contains(&hex(&key.to_bytes())));
        for wrong in ["", "00", &"00".repeat(32), &"zz".repeat(32)] {
            wrong.parse::<PublicKey>().unwrap_err();
        }
    }
}
