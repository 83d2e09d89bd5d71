//! Files that a configuration names.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

/// Reads a file that has no more than so many bytes.
///
/// # Errors
///
/// It cannot be read. [`io::ErrorKind::FileTooLarge`]: it has more bytes. What is no file may have no end, or wait for
/// somebody who writes to it: that is not read either.
pub(crate) fn read(file: &Path, most: usize) -> io::Result<Vec<u8>> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    read_any(file, most)
}

/// Like `read`, of anything that can be read, such as `/dev/stdin`, and that may have to be waited for.
pub(super) fn read_any(file: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// A text without the byte order mark that some editors put before it.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}
