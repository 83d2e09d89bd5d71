//! The part of `wasi:filesystem` whose results take resources of the host for as long as they are kept.
//!
//! # What must always hold
//!
//! * Each descriptor of the process that a guest makes it open is one of `limits.open_files`, from before it is open
//!   until it is closed. A file is closed when neither its handle nor a stream of it is left.
//! * A listing is read as it is asked for, [`BATCH`] names at a time: however many a folder has, one that is kept
//!   takes no more than [`LISTING`].
//! * Memory held for handles is part of the instance's memory, and so of its user's: see [`price`].
//!
//! A guest that may have no more is told `insufficient-memory`, and decides what to make of it.

use super::{Context, context::HANDLE};
use crate::limits::{Descriptor, Descriptors};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use std::{
    any::Any,
    collections::VecDeque,
    fs::File,
    io,
    sync::{Arc, Weak},
};
use tokio::task::spawn_blocking;
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceType},
};
use wasmtime_wasi::{
    filesystem::{Descriptor as Opened, WasiFilesystemView},
    p2::{
        DynInputStream,
        bindings::filesystem::types::{
            DescriptorFlags, DescriptorType, DirectoryEntry, ErrorCode, HostDescriptor as _, OpenFlags, PathFlags,
        },
    },
};

/// The version of `wasi:filesystem` that its crate gives.
const FILES: &str = "wasi:filesystem/types@0.2.12";
/// Names of a listing that are read at once.
const BATCH: usize = 64;
/// Bytes that a listing takes: the names that were read and not yet asked for, of up to 255 bytes each, and what the
/// system gives at once.
const LISTING: usize = 32 << 10;
/// Bytes that a stream of a file takes: what was read and not yet asked for.
const STREAM: usize = 64 << 10;

/// The files that an instance has opened, as far as they are not closed.
#[derive(Debug, Default)]
pub(super) struct OpenFiles(Vec<(Weak<File>, Descriptor)>);

impl OpenFiles {
    /// Notes a file that was opened.
    fn add(&mut self, file: &Arc<File>, descriptor: Descriptor) {
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
struct Listing {
    /// None while it is read elsewhere, and when it has come to its end.
    dir: Option<Dir>,
    ahead: VecDeque<Result<DirectoryEntry, ErrorCode>>,
    _descriptor: Descriptor,
}

impl Listing {
    fn open(folder: &File, descriptor: Descriptor) -> io::Result<Self> {
        // A descriptor of its own, so that it begins at the first name.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = Dir::new(openat(folder, ".", flags, Mode::empty())?)?;
        Ok(Self { dir: Some(dir), ahead: VecDeque::new(), _descriptor: descriptor })
    }
}

/// Reads more names; gives the folder back if there may be others.
fn read_ahead(mut dir: Dir) -> (Option<Dir>, VecDeque<Result<DirectoryEntry, ErrorCode>>) {
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

fn kind_of(kind: FileType) -> DescriptorType {
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

/// A descriptor for something that the guest opens.
fn take(cx: &StoreContextMut<'_, Context>) -> Option<Descriptor> {
    cx.data().descriptors().and_then(Descriptors::take)
}

/// Replaces the crate's own versions of these functions.
pub(super) fn bound(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    let mut files = linker.instance(FILES)?;
    open_at(&mut files)?;
    read_via_stream(&mut files)?;
    listings(&mut files)
}

type Instance<'a> = wasmtime::component::LinkerInstance<'a, Context>;
type Handle = Resource<Opened>;

fn open_at(files: &mut Instance<'_>) -> wasmtime::Result<()> {
    type Params = (Handle, PathFlags, String, OpenFlags, DescriptorFlags);
    type Given = Result<Handle, ErrorCode>;
    files.func_wrap_async(
        "[method]descriptor.open-at",
        |mut cx: StoreContextMut<'_, Context>, (folder, path_flags, path, open, flags): Params| {
            Box::new(async move {
                cx.data_mut().forget_closed_files();
                let Some(descriptor) = take(&cx) else { return Ok((Given::Err(ErrorCode::InsufficientMemory),)) };
                let mut files = cx.data_mut().filesystem();
                let opened = match files.open_at(folder, path_flags, path, open, flags).await {
                    Ok(opened) => opened,
                    Err(error) => return Ok((Given::Err(error.downcast()?),)),
                };
                let file = match files.table.get(&opened)? {
                    Opened::File(file) => file.file.clone(),
                    Opened::Dir(dir) => dir.dir.clone(),
                };
                cx.data_mut().open_files().add(&file, descriptor);
                Ok((Given::Ok(opened),))
            })
        },
    )
}

fn read_via_stream(files: &mut Instance<'_>) -> wasmtime::Result<()> {
    type Given = Result<Resource<DynInputStream>, ErrorCode>;
    files.func_wrap_async(
        "[method]descriptor.read-via-stream",
        |mut cx: StoreContextMut<'_, Context>, (file, from): (Handle, u64)| {
            Box::new(async move {
                let stream = match cx.data_mut().filesystem().read_via_stream(file, from) {
                    Ok(stream) => stream,
                    Err(error) => return Ok((Given::Err(error.downcast()?),)),
                };
                if !cx.data_mut().pay_for_handles() {
                    cx.data_mut().filesystem().table.delete(stream)?;
                    return Ok((Given::Err(ErrorCode::InsufficientMemory),));
                }
                Ok((Given::Ok(stream),))
            })
        },
    )
}

fn listings(files: &mut Instance<'_>) -> wasmtime::Result<()> {
    files.resource("directory-entry-stream", ResourceType::host::<Listing>(), |mut cx, rep| {
        cx.data_mut().filesystem().table.delete(Resource::<Listing>::new_own(rep))?;
        Ok(())
    })?;
    type Given = Result<Resource<Listing>, ErrorCode>;
    files.func_wrap_async(
        "[method]descriptor.read-directory",
        |mut cx: StoreContextMut<'_, Context>, (folder,): (Handle,)| {
            Box::new(async move {
                let refused = Ok((Given::Err(ErrorCode::InsufficientMemory),));
                let folder = match cx.data_mut().filesystem().table.get(&folder)? {
                    Opened::Dir(dir) => dir.dir.clone(),
                    Opened::File(_) => return Ok((Given::Err(ErrorCode::NotDirectory),)),
                };
                cx.data_mut().forget_closed_files();
                let Some(descriptor) = take(&cx) else { return refused };
                let listing = match spawn_blocking(move || Listing::open(&folder, descriptor)).await? {
                    Ok(listing) => listing,
                    Err(error) => return Ok((Given::Err(error.into()),)),
                };
                let listing = cx.data_mut().filesystem().table.push(listing)?;
                if !cx.data_mut().pay_for_handles() {
                    cx.data_mut().filesystem().table.delete(listing)?;
                    return refused;
                }
                Ok((Given::Ok(listing),))
            })
        },
    )?;
    type Entry = Result<Option<DirectoryEntry>, ErrorCode>;
    files.func_wrap_async(
        "[method]directory-entry-stream.read-directory-entry",
        |mut cx: StoreContextMut<'_, Context>, (listing,): (Resource<Listing>,)| {
            Box::new(async move {
                let files = cx.data_mut().filesystem();
                let listing = files.table.get_mut(&listing)?;
                while listing.ahead.is_empty() {
                    let Some(dir) = listing.dir.take() else { return Ok((Entry::Ok(None),)) };
                    (listing.dir, listing.ahead) = spawn_blocking(|| read_ahead(dir)).await?;
                }
                Ok((listing.ahead.pop_front().transpose(),))
            })
        },
    )
}
