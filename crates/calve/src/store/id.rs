//! Ids name objects by their content: an id is a BLAKE3 hash.
//!
//! The id of a blob is the plain hash of its bytes, so that anyone can check it with `b3sum`.
//! Directories and snapshots are hashed in contexts of their own (BLAKE3's key derivation), so that
//! nobody can make a file that is taken for one of them.

use std::fmt;
use std::io;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Operation};

/// The length of every id, in bytes.
pub(crate) const ID_BYTES: usize = 32;

macro_rules! id {
    ($(#[$doc:meta])* $visibility:vis $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $visibility struct $name([u8; ID_BYTES]);

        impl $name {
            /// The id with these bytes.
            #[must_use]
            $visibility const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            #[must_use]
            $visibility const fn as_bytes(&self) -> &[u8; ID_BYTES] {
                &self.0
            }
        }

        /// 64 hexadecimal digits, in lower case.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        /// Parses all 64 digits, of either case. [`Store::resolve`](crate::Store::resolve) accepts
        /// the start of a snapshot's id.
        impl FromStr for $name {
            type Err = Error;

            fn from_str(hex: &str) -> Result<Self, Error> {
                from_hex(hex).map(Self).ok_or_else(|| {
                    let cause =
                        io::Error::new(io::ErrorKind::InvalidInput, "it is not 64 hexadecimal digits");
                    Error::new(ErrorKind::InvalidName, Operation::ReadId, hex, cause)
                })
            }
        }
    };
}

id! {
    /// The id of a file's content: BLAKE3 of its bytes.
    pub BlobId
}
id! {
    /// The id of a directory with all that is below it: BLAKE3 of its encoding.
    pub(crate) DirectoryId
}
id! {
    /// The id of a snapshot: what the tree held, where it came from, when and why.
    pub SnapshotId
}

impl BlobId {
    /// The id of `content`.
    pub(crate) fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }
}

impl DirectoryId {
    pub(crate) fn of(encoding: &[u8]) -> Self {
        Self(blake3::derive_key("calve directory 1", encoding))
    }
}

impl SnapshotId {
    pub(crate) fn of(encoding: &[u8]) -> Self {
        Self(blake3::derive_key("calve snapshot 1", encoding))
    }
}

/// The bytes that the hexadecimal digits `hex` (of either case) stand for. `None` if the length is
/// wrong or a character is no digit.
pub(crate) fn from_hex(hex: &str) -> Option<[u8; ID_BYTES]> {
    let hex = hex.as_bytes();
    if hex.len() != 2 * ID_BYTES {
        return None;
    }
    let mut bytes = [0; ID_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

/// Whether a name may be one of [`token`].
pub(crate) fn is_token(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A name that nothing else has.
pub(crate) fn token() -> String {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    let number = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", number(), number())
}

/// The start of an id needs at least this many digits.
pub(crate) const LEAST_DIGITS: usize = 4;

pub(crate) fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
