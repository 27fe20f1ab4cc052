//! Makes a tree of many small files, to measure the cost per file.

use std::fs;
use std::io;
use std::path::Path;

const FILES_PER_DIRECTORY: u64 = 100;
const SMALLEST_BYTES: usize = 100;
const LARGEST_BYTES: usize = 4000;

/// Makes `root`: `files` files of 100 to 4000 bytes, 100 to a directory, three levels of
/// directories. The same number gives the same tree, and no two files are equal.
///
/// # Errors
/// `root` exists, or an entry cannot be made. Entries that were made until then stay.
pub(crate) fn make(root: &Path, files: u64) -> io::Result<()> {
    let leaves = files.div_ceil(FILES_PER_DIRECTORY);
    let fan = (1..).find(|fan: &u64| fan.pow(3) >= leaves).unwrap_or(1);
    fs::create_dir(root)?;

    let mut random = Random(1);
    let mut content = Vec::with_capacity(LARGEST_BYTES);
    for leaf in 0..leaves {
        let directory = root
            .join((leaf / fan / fan).to_string())
            .join((leaf / fan % fan).to_string())
            .join((leaf % fan).to_string());
        fs::create_dir_all(&directory)?;
        let first = leaf * FILES_PER_DIRECTORY;
        for file in first..files.min(first + FILES_PER_DIRECTORY) {
            let size = SMALLEST_BYTES + random.below(LARGEST_BYTES - SMALLEST_BYTES + 1);
            content.clear();
            while content.len() < size {
                content.extend(random.next().to_le_bytes());
            }
            content.truncate(size);
            fs::write(directory.join(format!("file-{file}")), &content)?;
        }
    }
    Ok(())
}

/// Xorshift: the bytes need to differ, not to surprise.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the low bits will do")]
        let low = self.next() as u32;
        low as usize % end
    }
}
