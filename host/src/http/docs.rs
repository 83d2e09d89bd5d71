//! `GET /docs`: Swagger UI, from the binary.
//!
//! The assets come from a crate that has a page of its own too; that page puts the request's address into its HTML
//! unescaped, so the page is ours and only the assets are theirs.

use super::{error::Error, plain_path};
use crate::Host;
use axum::{
    Router,
    body::Body,
    response::{Html, IntoResponse},
    routing::get,
};
use http::{Request, Response, Uri};
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
