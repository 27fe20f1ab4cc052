//! What a remote says, and what a store has written down of one. Nobody vouches for a remote, so
//! all of this is the input of somebody else.

use crate::store::id::BlobId;
use crate::store::remote::known::KnownRemote;
use crate::store::remote::name::{self, Named};
use crate::store::remote::record::{self, Recipe, Record, decode_part};

/// The first byte chooses the decoder: records with their own hash and with the right one, recipes,
/// parts as they are stored and by their items, changes of names, keys of names, and what a store
/// knows of a remote.
pub fn remote(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 7 {
        0 => read_record(data),
        1 => {
            let mut sealed = [&record::RECORD_MAGIC[..], data].concat();
            let hash = blake3::hash(&sealed);
            sealed.extend(hash.as_bytes());
            read_record(&sealed);
        }
        2 => {
            if let Ok(recipe) = Recipe::decode(data) {
                assert_eq!(recipe.encode(), data);
                assert!(recipe.size() >= recipe.chunks.len() as u64);
            }
        }
        3 => read_part(data),
        4 => {
            if let Ok(packed) = zstd::bulk::compress(data, 1) {
                read_part(&packed);
            }
        }
        5 => {
            if let Some((named, _)) = Named::decode(data) {
                // Signatures follow, of which any may be wrong.
                let text = named.encode(None);
                assert!(data.starts_with(text.as_bytes()));
                if let Ok(part) = name::encoded(&named.name) {
                    let key = name::key_of(&part, named.sequence);
                    assert_eq!(name::of_key(&key), Some((named.name, named.sequence)));
                }
            }
        }
        _ => {
            let Ok(text) = std::str::from_utf8(data) else { return };
            if let Some((name, sequence)) = name::of_key(text) {
                let part = name::encoded(&name).expect("it was decoded");
                assert_eq!(name::key_of(&part, sequence), text);
                assert!(!part.contains('/'));
            }
            if let Some(known) = KnownRemote::parse(text) {
                assert_eq!(known.text(), text);
            }
        }
    }
}

fn read_record(bytes: &[u8]) {
    if let Ok(record) = Record::decode(bytes) {
        assert_eq!(record.encode(), bytes);
    }
}

fn read_part(packed: &[u8]) {
    let part = [&record::PART_MAGIC[..], packed].concat();
    let mut items = 0;
    let read = decode_part(BlobId::of(&part), &part, |item| {
        items += item.len();
        Ok(())
    });
    assert!(read.is_err() || items as u64 <= record::PART_MOST_BYTES);
}
