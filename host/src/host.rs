//! The host: everything that a configuration makes, ready to serve.

use crate::{
    config::{self, Config, Problem},
    function::Catalog,
    http::openapi_of,
    identity::User,
    instance::{Engine, Instance, StopKind},
    limits::{Allowance, Lane, Limits},
    session::{Registry, Session, Shared},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// A host that has checked its configuration, loaded its guests, and tried each function once.
pub struct Host {
    config: Config,
    engine: Engine,
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    draining: AtomicBool,
    openapi: String,
}

impl Host {
    /// Makes a host, whose calls will run on so many threads.
    ///
    /// # Errors
    ///
    /// All that is wrong with the configuration and its guests.
    pub async fn start(config: Config, threads: usize) -> Result<Arc<Self>, config::Error> {
        let lane = Lane::new(threads);
        let engine = Engine::new(config.limits.memory_per_instance, &lane);
        let engine = engine.map_err(|why| config.source.error(vec![Problem::new(Default::default(), why)]))?;
        let catalog = Catalog::load(&config, &engine, &lane).await?;
        let shared = Arc::new(Shared { catalog, limits: config.limits.clone(), lane });
        try_out(&shared).await.map_err(|problems| config.source.error(problems))?;
        let registry = Arc::new(Registry::new(shared.clone()));
        let mut host =
            Self { config, engine, shared, registry, draining: AtomicBool::new(false), openapi: String::new() };
        host.openapi = openapi_of(&host);
        Ok(Arc::new(host))
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What runs the guests.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The functions.
    pub fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// The sessions.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// From now on, requests are refused.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn sweep_interval(&self) -> Duration {
        self.config.general.per_user_workflow_cleanup_interval
    }

    pub(crate) fn openapi(&self) -> String {
        self.openapi.clone()
    }
}

/// Makes and configures one instance of each function, in a session of its own that is dropped after it.
async fn try_out(shared: &Arc<Shared>) -> Result<(), Vec<Problem>> {
    let session = Session::new(User::from_credential("carrel: trying out"), shared.clone());
    let mut problems = Vec::new();
    for function in shared.catalog.functions() {
        let limits = &shared.limits;
        let allowance = Allowance { fuel: limits.fuel_per_call, deadline: Instant::now() + limits.deadline };
        let made = Instance::create(function, &session, limits, allowance, 1).await;
        session.permit().give_back();
        if let Err(stop) = made.result {
            let (why, hint) = match &stop.kind {
                StopKind::Unconfigurable(why) => (
                    format!("the guest `{}` does not take this configuration: {why}", function.guest.name),
                    "`carrel info --config_file=..` shows what it takes".to_owned(),
                ),
                kind => {
                    let setting = kind.setting().map(|setting| format!("; {setting} is for this, too"));
                    let hint = format!("the guest is {}{}", function.guest.source, setting.unwrap_or_default());
                    (format!("the function could not be set up: it {kind}"), hint)
                }
            };
            problems.push(Problem::new(function.key.clone(), why).hint(hint));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}
