//! `GET /docs`: Swagger UI, from the binary; `GET /`, which leads there.
//!
//! The assets come from a crate that has a page of its own too; that page puts the request's address into its HTML
//! unescaped, so the page is ours and only the assets are theirs.

use super::described::own;
use crate::{
    Host,
    http::{
        accept::{self, Form},
        answer::{JSON, json},
        endpoints::endpoints,
        error::Error,
        paths::plain_path,
    },
};
use axum::{
    Router,
    body::Body,
    extract::State,
    response::{Html, IntoResponse},
    routing::get,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use serde_json::{Value, json};
use std::sync::Arc;
use swagger_ui_dist::{ApiDefinition, OpenApiSource};
use tower::ServiceExt;

const PAGE: &str = r##"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Carrel</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true});</script>
</body>
</html>
"##;

/// `GET /`: sends a browser to the documentation, and tells others what is here.
pub(super) async fn start(State(host): State<Arc<Host>>, headers: HeaderMap) -> Response<Body> {
    let html = accept::wanted(&headers, Form { ty: "text", subtype: "html", version: None });
    let as_json = accept::wanted(&headers, Form { ty: "application", subtype: "json", version: None });
    let mut response = match html.is_named() && html > as_json {
        true => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            // Relative, so that it leads there behind a proxy's prefix as well.
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("docs"));
            response
        }
        false => json(StatusCode::OK, what_is_here(&host)),
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// The operations of the start, for the API's description.
pub(super) fn describe() -> Value {
    let mut get = own("start", "What is here.", &[(JSON, json!({"type": "object"}))]);
    get["responses"]["307"] = json!({"description": "A browser is sent to the documentation"});
    json!({"get": get})
}

fn what_is_here(host: &Host) -> String {
    let prefix = &host.config().general.front_end.root_path;
    let routes = endpoints(host).into_iter().map(|endpoint| {
        json!({
            "method": endpoint.method.as_str(),
            "path": format!("{prefix}{}", endpoint.path),
            "stream": format!("{prefix}{}/stream", endpoint.path),
            "function": endpoint.function,
        })
    });
    json!({
        "name": "Carrel",
        "version": env!("CARGO_PKG_VERSION"),
        "routes": routes.collect::<Vec<_>>(),
        "docs": format!("{prefix}/docs"),
        "openapi": format!("{prefix}/openapi.json"),
        "health": format!("{prefix}/health"),
    })
    .to_string()
}

pub(super) fn routes() -> Router<Arc<Host>> {
    let source = ApiDefinition { uri_prefix: "/assets", api_definition: OpenApiSource::Uri(""), title: None };
    let assets = swagger_ui_dist::generate_routes(source);
    Router::new().route("/docs", get(async || Html(PAGE))).route(
        "/docs/{asset}",
        get(async move |uri: Uri| {
            let plain = plain_path(uri.path());
            let path = plain.as_deref().unwrap_or(uri.path());
            asset_of(assets, path.trim_start_matches("/docs/")).await
        }),
    )
}

async fn asset_of(assets: Router, name: &str) -> Result<Response<Body>, Error> {
    let known = ["swagger-ui.css", "swagger-ui-bundle.js"].into_iter().find(|known| *known == name);
    let path = format!("/assets/{}", known.ok_or_else(Error::not_found)?);
    let request = Request::get(path).body(Body::empty()).map_err(|_| Error::not_found())?;
    match assets.oneshot(request).await {
        Ok(response) => Ok(response.into_response()),
        Err(never) => match never {},
    }
}
