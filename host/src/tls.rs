//! TLS, as a client: for requests that guests send, and for keys that the host fetches.

use std::sync::{Arc, LazyLock};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, Error, RootCertStore, crypto::aws_lc_rs},
};

/// The certificates that browsers trust.
static CONNECTOR: LazyLock<Result<TlsConnector, Error>> = LazyLock::new(|| {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
});

/// The connector that encrypts connections. `None`, for which no cause is known, means that nothing is encrypted, and
/// so nothing sent.
pub(crate) fn connector() -> Option<&'static TlsConnector> {
    CONNECTOR.as_ref().ok()
}
