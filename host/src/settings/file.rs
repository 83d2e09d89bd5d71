//! Files that a configuration names.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

/// Reads a regular file of at most the given number of bytes.
///
/// # Errors
///
/// The file cannot be read. [`io::ErrorKind::FileTooLarge`]: it has more bytes. Anything but a regular file is
/// refused too, since it may have no end, or wait for a writer.
pub(crate) fn read_file(file: &Path, most: usize) -> io::Result<Vec<u8>> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    read_any(file, most)
}

/// Like `read`, but also reads things other than regular files, such as `/dev/stdin`, and waits for them.
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
