//! The name of an entry in memory.
//!
//! A snapshot of a million files is a million names in memory. As a pointer to memory of its own, a
//! short name takes 48 bytes or more. So a name of up to [`INLINE_MOST_BYTES`] bytes, which nearly
//! every name is, takes the place of the pointer.

use std::fmt;
use std::ops::Deref;

/// With the length and the kind of name, as long as the pointer and a length that it replaces.
const INLINE_MOST_BYTES: usize = 22;

/// A sequence of bytes that never changes.
#[derive(Clone)]
pub(crate) struct Name(Bytes);

#[derive(Clone)]
enum Bytes {
    Inline { length: u8, bytes: [u8; INLINE_MOST_BYTES] },
    Allocated(Box<[u8]>),
}

impl From<&[u8]> for Name {
    fn from(name: &[u8]) -> Self {
        let mut bytes = [0; INLINE_MOST_BYTES];
        Self(match (bytes.get_mut(..name.len()), u8::try_from(name.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(name);
                Bytes::Inline { length, bytes }
            }
            _ => Bytes::Allocated(name.into()),
        })
    }
}

impl From<Vec<u8>> for Name {
    fn from(name: Vec<u8>) -> Self {
        match name.len() {
            ..=INLINE_MOST_BYTES => name.as_slice().into(),
            _ => Self(Bytes::Allocated(name.into())),
        }
    }
}

impl Default for Name {
    fn default() -> Self {
        Self(Bytes::Inline { length: 0, bytes: [0; INLINE_MOST_BYTES] })
    }
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Bytes::Allocated(bytes) => bytes,
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::super::object::Entry;
    use super::*;

    #[test]
    fn a_name_is_its_bytes_however_many_they_are() {
        for length in 0..64_u8 {
            let bytes: Vec<u8> = (0..length).collect();
            let (one, other) = (Name::from(bytes.as_slice()), Name::from(bytes.clone()));
            assert_eq!((&*one, &*other), (bytes.as_slice(), bytes.as_slice()));
            assert_eq!(one, other);
            assert_ne!(one, Name::from([&bytes[..], b"\0"].concat()));
        }
        assert_eq!(Name::default(), Name::from(&b""[..]));
    }

    /// `docs/design/scale.md` says how much memory a million files take.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn an_entry_with_its_name_takes_112_bytes() {
        assert_eq!((size_of::<Name>(), size_of::<Entry>()), (24, 112));
    }
}
