//! The imports offered to guests: `carrel:function`, and WASI 0.2, closed but for what is granted.

use super::{
    CallError, Chunk, Context, Phase, Services, StopKind,
    contract::carrel::function::log::Level,
    files,
    pay::{pay, pay_for_bytes, pay_for_call},
    polls::Polls,
    siblings, stops,
};
use crate::grants::TEXT;
use wasmtime::{
    StoreContextMut,
    component::{HasData, Linker, Resource},
};
use wasmtime_wasi::p2::bindings::io::poll;
use wasmtime_wasi_http::{
    WasiHttpView,
    p2::{
        self,
        bindings::http::{
            outgoing_handler::Host as _,
            types::{
                ErrorCode, FutureIncomingResponse, HostOutgoingRequest as _, Method, OutgoingRequest, RequestOptions,
            },
        },
    },
};

/// The linker for all guests.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Context>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    p2::add_only_http_to_linker_async(&mut linker)?;
    linker.allow_shadowing(true);
    bound_requests(&mut linker)?;
    free_options(&mut linker)?;
    files::bound(&mut linker)?;
    poll::add_to_linker::<_, Polling>(&mut linker, Context::polls)?;
    linker.allow_shadowing(false);

    let mut functions = linker.instance("carrel:function/functions@0.1.0")?;
    functions.func_wrap("exists", |mut cx: StoreContextMut<'_, Context>, (name,): (String,)| {
        pay_for_call(&mut cx, name.len())?;
        cx.data().tells_of_functions();
        Ok((services(&cx).is_some_and(|services| services.has_function(&name)),))
    })?;
    functions.func_wrap_async("call", |mut cx: StoreContextMut<'_, Context>, (name, input): (String, String)| {
        Box::new(async move {
            // The input is copied for the host, and then for the sibling.
            pay_for_call(&mut cx, name.len() + 2 * input.len())?;
            let answer: Result<String, CallError> = siblings::call(cx, &name, input).await?;
            Ok((answer,))
        })
    })?;

    let mut stops = linker.instance("carrel:function/stops@0.1.0")?;
    stops.func_wrap("last", |cx: StoreContextMut<'_, Context>, (): ()| Ok((stops::last(cx)?,)))?;
    stops.func_wrap("pass-on", |cx: StoreContextMut<'_, Context>, (number,): (u64,)| {
        Ok((stops::pass_on(cx, number)?,))
    })?;

    let mut session = linker.instance("carrel:function/session@0.1.0")?;
    session.func_wrap("user-id", |mut cx: StoreContextMut<'_, Context>, (): ()| {
        pay_for_call(&mut cx, 0)?;
        cx.data().differs();
        Ok((services(&cx).map_or_else(String::new, |services| services.user().to_string()),))
    })?;

    let mut log = linker.instance("carrel:function/log@0.1.0")?;
    log.func_wrap("write", |mut cx: StoreContextMut<'_, Context>, (level, text): (Level, String)| {
        pay_for_bytes(&mut cx, text.len())?;
        cx.data_mut().log(level, &text);
        // The call itself is owed, as WASI's are.
        pay(&mut cx, 0)
    })?;

    let mut output = linker.instance("carrel:function/output@0.1.0")?;
    output.func_wrap_async("emit", |mut cx: StoreContextMut<'_, Context>, (chunk,): (String,)| {
        Box::new(async move {
            pay_for_call(&mut cx, chunk.len())?;
            cx.data().differs();
            // What a guest emits while it is configured is nobody's.
            let in_call = cx.data().running.as_ref().is_some_and(|running| running.phase == Phase::Call);
            let Some(services) = services(&cx).filter(|_| in_call) else { return Ok(()) };
            let listener = services.emitter().take(chunk.len()).map_err(|kind| cx.data().stop(kind))?;
            if let Some(listener) = listener {
                let held = services.memory().try_charge(chunk.len());
                let held = held.map_err(|full| cx.data().stop(StopKind::from(full)))?;
                // A listener that is gone hears nothing; the call goes on.
                let _ = listener.send(Chunk { text: chunk, _held: held }).await;
            }
            Ok(())
        })
    })?;
    Ok(linker)
}

/// The versions of `wasi:http` that its crate gives. Guests may be built against any that is compatible.
const HTTP_TYPES: &str = "wasi:http/types@0.2.12";
const HTTP_HANDLER: &str = "wasi:http/outgoing-handler@0.2.12";

/// Bounds the texts of a request, which the host keeps until it is sent or dropped. A longer text gets the error that
/// these functions have for an invalid one.
fn bound_requests(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    type Request = Resource<OutgoingRequest>;
    let fits = |text: &Option<String>| text.as_ref().is_none_or(|text| text.len() <= TEXT);
    let mut types = linker.instance(HTTP_TYPES)?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut cx: StoreContextMut<'_, Context>, (request, method): (Request, Method)| {
            let mut http = cx.data_mut().http();
            match &method {
                Method::Other(name) if name.len() > TEXT => Ok((Err(()),)),
                _ => Ok((http.set_method(request, method)?,)),
            }
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        move |mut cx: StoreContextMut<'_, Context>, (request, text): (Request, Option<String>)| {
            let mut http = cx.data_mut().http();
            Ok((if fits(&text) { http.set_authority(request, text)? } else { Err(()) },))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        move |mut cx: StoreContextMut<'_, Context>, (request, text): (Request, Option<String>)| {
            let mut http = cx.data_mut().http();
            Ok((if fits(&text) { http.set_path_with_query(request, text)? } else { Err(()) },))
        },
    )
}

/// Frees a request's options once it is sent. The crate would keep them for ever: an instance that sends some would
/// soon have no room for handles, and could never be parked.
fn free_options(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    type Options = Option<Resource<RequestOptions>>;
    type Sent = Result<Resource<FutureIncomingResponse>, ErrorCode>;
    linker.instance(HTTP_HANDLER)?.func_wrap(
        "handle",
        |mut cx: StoreContextMut<'_, Context>, (request, options): (Resource<OutgoingRequest>, Options)| {
            let mut http = cx.data_mut().http();
            let kept: Options = options.as_ref().map(|options| Resource::new_own(options.rep()));
            let sent: Sent = match http.handle(request, options) {
                Ok(answer) => Ok(answer),
                Err(error) => Err(error.downcast()?),
            };
            if let Some(kept) = kept {
                http.table.delete(kept)?;
            }
            Ok((sent,))
        },
    )
}

/// `wasi:io/poll` as WASI has it, but that each pollable in a list is paid for: one call can name a hundred thousand.
struct Polling;

impl HasData for Polling {
    type Data<'a> = Polls<'a>;
}

/// The services of the call that runs; none while a guest is described.
fn services<'a>(cx: &'a StoreContextMut<'_, Context>) -> Option<&'a dyn Services> {
    cx.data().running.as_ref()?.services.as_deref()
}

/// The interfaces that [`linker`] gives, without versions: for the message to an author who imports another.
pub(crate) const OFFERED: [&str; 35] = [
    "carrel:function/functions",
    "carrel:function/log",
    "carrel:function/output",
    "carrel:function/session",
    "carrel:function/stops",
    "carrel:function/types",
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Returns true if the host offers an import, as far as its name and version tell.
pub(crate) fn is_offered(name: &str) -> bool {
    let (interface, version) = name.split_once('@').unwrap_or((name, ""));
    let right_version = match interface.split_once(':') {
        Some(("carrel", _)) => version.starts_with("0.1."),
        _ => version.starts_with("0.2."),
    };
    right_version && OFFERED.contains(&interface)
}
