//! The part of `wasi:filesystem` whose results take resources of the host for as long as they are kept.
//!
//! # What must always hold
//!
//! * Each descriptor of the process that a guest makes it open is one of `limits.open_files`, from before it is open
//!   until it is closed. A file is closed when neither its handle nor a stream of it is left.
//! * A listing is read as it is asked for, 64 names at a time: however many a folder has, one that is kept
//!   takes no more than 32 KiB.
//! * Memory held for handles is part of the instance's memory, and so of its user's: see [`price`](super::open_files::price).
//!
//! A guest that may have no more is told `insufficient-memory`, and decides what to make of it.

use super::{
    Context,
    open_files::{Listing, read_ahead},
};
use crate::limits::{Descriptor, Descriptors};
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
            DescriptorFlags, DirectoryEntry, ErrorCode, HostDescriptor as _, OpenFlags, PathFlags,
        },
    },
};

/// The version of `wasi:filesystem` that its crate gives.
const FILES: &str = "wasi:filesystem/types@0.2.12";

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

type FilesInterface<'a> = wasmtime::component::LinkerInstance<'a, Context>;
type OpenedHandle = Resource<Opened>;

fn open_at(files: &mut FilesInterface<'_>) -> wasmtime::Result<()> {
    type Params = (OpenedHandle, PathFlags, String, OpenFlags, DescriptorFlags);
    type Given = Result<OpenedHandle, ErrorCode>;
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

fn read_via_stream(files: &mut FilesInterface<'_>) -> wasmtime::Result<()> {
    type Given = Result<Resource<DynInputStream>, ErrorCode>;
    files.func_wrap_async(
        "[method]descriptor.read-via-stream",
        |mut cx: StoreContextMut<'_, Context>, (file, from): (OpenedHandle, u64)| {
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

fn listings(files: &mut FilesInterface<'_>) -> wasmtime::Result<()> {
    files.resource("directory-entry-stream", ResourceType::host::<Listing>(), |mut cx, rep| {
        cx.data_mut().filesystem().table.delete(Resource::<Listing>::new_own(rep))?;
        Ok(())
    })?;
    type Given = Result<Resource<Listing>, ErrorCode>;
    files.func_wrap_async(
        "[method]descriptor.read-directory",
        |mut cx: StoreContextMut<'_, Context>, (folder,): (OpenedHandle,)| {
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
