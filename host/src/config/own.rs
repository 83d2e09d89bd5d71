//! The routes of the host's own.

/// A route of the host's own. The router, the paths that no endpoint may have, the API's description and the list at the
/// start are made of [`Own::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    /// The state of the host.
    Health,
    /// The list of routes.
    Start,
    /// Figures for Prometheus.
    Metrics,
    /// Users and what they use.
    Users,
    /// Session cookies.
    Session,
    /// The API's description.
    OpenApi,
    /// The same, for a browser.
    Docs,
}

impl Own {
    pub(crate) const ALL: [Self; 7] =
        [Self::Health, Self::Start, Self::Metrics, Self::Users, Self::Session, Self::OpenApi, Self::Docs];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Health => "/health",
            Self::Start => "/",
            Self::Metrics => "/metrics",
            Self::Users => "/monitor/users",
            Self::Session => "/session",
            Self::OpenApi => "/openapi.json",
            Self::Docs => "/docs",
        }
    }
}
