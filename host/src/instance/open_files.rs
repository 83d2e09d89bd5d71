//! Files and listings that an instance holds open, and the memory that the host holds for handles.

use crate::limits::Descriptor;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use std::{
    any::Any,
    collections::VecDeque,
    fs::File,
    io,
    sync::{Arc, Weak},
};
use wasmtime_wasi::p2::{
    DynInputStream,
    bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode},
};

/// Names of a listing that are read at once.
const BATCH: usize = 64;
/// Bytes that a listing takes: the names that were read and not yet asked for, of up to 255 bytes each, and what the
/// system gives at once.
const LISTING: usize = 32 << 10;
/// Bytes that a stream of a file takes: what was read and not yet asked for.
const STREAM: usize = 64 << 10;
/// Bytes that the host holds for a handle, at the most: what it is, and what it buffers.
pub(super) const HANDLE: usize = 1 << 10;

/// The files that an instance has opened, as far as they are not closed.
#[derive(Debug, Default)]
pub(super) struct OpenFiles(Vec<(Weak<File>, Descriptor)>);

impl OpenFiles {
    /// Notes a file that was opened.
    pub(super) fn add(&mut self, file: &Arc<File>, descriptor: Descriptor) {
        self.0.push((Arc::downgrade(file), descriptor));
    }

    /// Gives back the descriptors of those that were closed.
    pub(super) fn forget_closed(&mut self) {
        self.0.retain(|(file, _)| file.strong_count() > 0);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }
}

/// The most bytes that the host holds for a handle's resource.
pub(super) fn price(handle: &dyn Any) -> usize {
    if handle.is::<Listing>() {
        LISTING
    } else if handle.is::<DynInputStream>() {
        STREAM
    } else {
        HANDLE
    }
}

/// The names in a folder, some of them read ahead.
pub(super) struct Listing {
    /// None while it is read elsewhere, and when it has come to its end.
    pub(super) dir: Option<Dir>,
    pub(super) ahead: VecDeque<Result<DirectoryEntry, ErrorCode>>,
    _descriptor: Descriptor,
}

impl Listing {
    pub(super) fn open(folder: &File, descriptor: Descriptor) -> io::Result<Self> {
        // A descriptor of its own, so that it begins at the first name.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = Dir::new(openat(folder, ".", flags, Mode::empty())?)?;
        Ok(Self { dir: Some(dir), ahead: VecDeque::new(), _descriptor: descriptor })
    }
}

/// Reads more names; gives the folder back if there may be others.
pub(super) fn read_ahead(mut dir: Dir) -> (Option<Dir>, VecDeque<Result<DirectoryEntry, ErrorCode>>) {
    let mut ahead = VecDeque::new();
    while ahead.len() < BATCH {
        let Some(entry) = dir.read() else { return (None, ahead) };
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                ahead.push_back(Err(io::Error::from(error).into()));
                return (None, ahead);
            }
        };
        // On Linux a file's name is any bytes, and in WASI a text: a name that is none cannot be told. It is left
        // out, so that the guest sees the files after it.
        let Ok(name) = entry.file_name().to_str() else { continue };
        if matches!(name, "." | "..") {
            continue;
        }
        let kind = match entry.file_type() {
            // Some file systems do not tell it with the name.
            FileType::Unknown => dir
                .fd()
                .and_then(|folder| statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW))
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
            known => known,
        };
        ahead.push_back(Ok(DirectoryEntry { type_: kind_of(kind), name: name.to_owned() }));
    }
    (Some(dir), ahead)
}

pub(super) fn kind_of(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::Unknown => DescriptorType::Unknown,
    }
}
