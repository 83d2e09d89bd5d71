//! The routes of a listener, as one service.

use super::call::{RequestBody, Route};
use axum::{Router, body::Body, response::IntoResponse};
use http::{Method, Request, Response};
use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tower::{Service, ServiceExt};

/// The routes of a listener.
///
/// A call is found by its path and method, and is answered at once. All else goes through the router, which moves each
/// request and its answer through several boxes: that would cost a call as much as its way through the session.
#[derive(Clone)]
pub struct App(Arc<Routes>);

struct Routes {
    calls: Calls,
    router: Router,
}

/// The routes to functions, by path.
#[derive(Default)]
pub(super) struct Calls(HashMap<String, Vec<(Method, Arc<Route>)>>);

impl Calls {
    /// Adds a route. Of two with the same path and method the router refuses the second.
    pub(super) fn add(&mut self, path: &str, method: Method, route: &Arc<Route>) {
        self.0.entry(path.to_owned()).or_default().push((method, route.clone()));
    }

    fn find<B>(&self, request: &Request<B>) -> Option<&Route> {
        let of_path = self.0.get(request.uri().path())?;
        of_path.iter().find(|(method, _)| method == request.method()).map(|(_, route)| &**route)
    }
}

impl App {
    /// A router, and the calls of which it need not be asked.
    pub(super) fn new(router: Router, calls: Calls) -> Self {
        Self(Arc::new(Routes { calls, router }))
    }

    pub(super) async fn answer(&self, request: Request<impl RequestBody>) -> Response<Body> {
        match self.0.calls.find(&request) {
            Some(route) => route.answer(request).await.unwrap_or_else(IntoResponse::into_response),
            None => self.0.router.clone().oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {}),
        }
    }
}

impl<B: RequestBody> Service<Request<B>> for App {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let app = self.clone();
        Box::pin(async move { Ok(app.answer(request).await) })
    }
}
