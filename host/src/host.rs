//! The host: everything that a configuration makes, ready to serve.

mod figures;
mod try_out;

use crate::{
    config::{self, Config, Problem},
    function::{Catalog, Readings},
    instance::Engine,
    limits::{Descriptors, Limits, memory::Memory},
    observe::Metrics,
    scheduler::Lane,
    session::{self, Pressure, Registry, Shared, Tenant, Tidying},
    settings::reader::{list, nearest},
};
use figures::Figures;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::{sync::Notify, task::JoinSet};

/// A host that has checked its configuration, loaded its guests, and tried each function once.
pub struct Host {
    config: Config,
    engine: Engine,
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    leaving: AtomicBool,
    stop: Notify,
    metrics: Metrics,
    readings: Readings,
}

impl Host {
    /// Makes a host, whose calls will run on so many threads.
    ///
    /// # Errors
    ///
    /// All problems of the configuration and its guests.
    pub async fn start(config: Config, threads: usize) -> Result<Arc<Self>, config::Error> {
        let lane = Lane::new(threads, config.tenants.iter().map(|tenant| tenant.share));
        let limits = config.tenants.iter().map(|tenant| &tenant.limits).chain([&config.limits]);
        let largest = limits.map(|limits| limits.memory_per_instance).max().unwrap_or_default();
        let engine = Engine::new(largest, config.limits.memory, &lane);
        let engine = engine.map_err(|why| config.source.error(vec![Problem::new(Default::default(), why)]))?;
        Self::with_engine(config, engine, lane).await
    }

    async fn with_engine(config: Config, engine: Engine, lane: Lane) -> Result<Arc<Self>, config::Error> {
        let catalog = Catalog::load(config.wanted(), &engine, &lane).await?;
        unknown_functions(&config, &catalog).map_err(|problems| config.source.error(problems))?;
        let memory = Memory::new(config.limits.memory);
        let descriptors = Descriptors::new(config.limits.open_files);
        let mut metrics = Metrics::new();
        let tenants = config.tenants.iter();
        let tenants: Vec<_> = tenants
            .map(|it| {
                Arc::new(Tenant::new(it, catalog.functions(), &memory, &descriptors, metrics.of_tenant(&it.name)))
            })
            .collect();
        let shared = Arc::new(Shared {
            catalog,
            tenants: tenants.clone(),
            limits: config.limits.clone(),
            policy: config.sessions.clone(),
            lane,
            memory,
            descriptors,
            pressure: Pressure::new(config.tenants.len()),
            tidying: Tidying::default(),
        });
        try_out::try_out(&shared, &config.tenants).await.map_err(|problems| config.source.error(problems))?;
        let registry = Registry::new(shared.clone());
        metrics.register(Figures { sessions: registry.clone(), tenants, engine: engine.clone() });
        let leaving = AtomicBool::new(false);
        let readings = Readings::new(shared.tenants.len());
        let stop = Notify::new();
        Ok(Arc::new(Self { config, engine, shared, registry, leaving, stop, metrics, readings }))
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The engine that runs the guests.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The functions.
    pub fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// The tenants, in the configuration's order.
    pub fn tenants(&self) -> &[Arc<Tenant>] {
        &self.shared.tenants
    }

    /// The limits of the host.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// The host's memory account: the limit, and the bytes taken.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.shared.memory
    }

    /// The sessions.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The reading of inputs that guests have refused.
    pub(crate) fn readings(&self) -> &Readings {
        &self.readings
    }

    /// Does what a host does beside its calls: drops and parks idle sessions, makes room of them for others, and keeps
    /// issuers' keys fresh. All of it ends when the set is dropped.
    pub fn upkeep(&self) -> JoinSet<()> {
        let general = &self.config.general;
        let (timeout, interval) = (general.per_user_workflow_timeout, general.per_user_workflow_cleanup_interval);
        let mut tasks = self.config.identity.stay_fresh();
        session::upkeep(&self.registry, timeout, interval, &mut tasks);
        tasks
    }

    /// Makes `/health` report that the host is being stopped, so that a load balancer sends requests elsewhere.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) || self.is_draining()
    }

    /// Refuses requests from now on.
    pub fn drain(&self) {
        self.registry.drain();
    }

    /// Asks the host to stop.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// Ends when the host is asked to stop.
    pub async fn stopped(&self) {
        self.stop.notified().await;
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.registry.is_draining()
    }

    /// The figures, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.metrics.text()
    }

    /// The figures, in the text format of OpenMetrics.
    pub fn open_metrics(&self) -> String {
        self.metrics.open_metrics()
    }

    /// Counts a request to a function that was answered with an error; without a tenant if it named no user.
    pub(crate) fn failed(&self, tenant: Option<u16>, code: &'static str) {
        let tenant = tenant.and_then(|number| self.shared.tenants.get(usize::from(number)));
        self.metrics.failed(tenant.map(|tenant| &**tenant.name()), code);
    }
}

/// Finds functions that tenants name and that do not exist.
fn unknown_functions(config: &Config, catalog: &Catalog) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    for tenant in &config.tenants {
        for name in tenant.functions.iter().flatten().filter(|name| catalog.position(name).is_none()) {
            let names = || catalog.functions().iter().map(|function| &*function.name);
            let hint = match nearest(name, names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", list(names())),
            };
            let key = tenant.key.with("functions");
            problems.push(Problem::new(key, format!("there is no function `{name}`")).hint(hint));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::{
        call::{Answer, Failure},
        identity::User,
        instance::StopKind,
    };
    use std::{path::Path, time::Duration};

    const NOTEPAD: &str = "{workflow: {_type: per_user_notepad}}";

    async fn host(memories: usize, stacks: usize) -> Arc<Host> {
        let config = Config::parse(Path::new("test.yml"), NOTEPAD).unwrap();
        let lane = Lane::new(2, [1]);
        Host::with_engine(config, Engine::with_slots(memories, stacks, &lane), lane).await.unwrap()
    }

    async fn call(host: &Host, user: &str, input: &str) -> Answer {
        let handle = host.registry().session(User::from_credential(user)).unwrap();
        handle.call(0, Arc::new(input.to_owned()), None).await
    }

    async fn add(host: &Host, user: &str) -> Answer {
        call(host, user, r#"{"action":"add","content":"milk"}"#).await
    }

    #[track_caller]
    fn is_full(answer: &Answer) {
        let Err(Failure::Stopped { stop, undone: true }) = &answer.result else { panic!("{answer:?}") };
        assert_eq!(stop.kind, StopKind::HostFull);
    }

    /// So it costs next to nothing to tell if a call of theirs went deep.
    #[tokio::test]
    #[cfg(target_arch = "x86_64")]
    async fn no_function_of_carrels_own_guests_takes_more_than_a_page_of_stack() {
        const ALL: &str = "{workflow: {_type: per_user_assistant}, functions: {
            notepad: {_type: per_user_notepad}, preferences: {_type: per_user_preferences}}}";
        let config = Config::parse(Path::new("test.yml"), ALL).unwrap();
        let lane = Lane::new(2, [1]);
        let host = Host::with_engine(config, Engine::with_slots(100, 100, &lane), lane).await.unwrap();
        assert_eq!(host.catalog().functions().len(), 3);
        for function in host.catalog().functions() {
            assert_eq!(function.guest.code.frames(), carrel_arena::Frames::Small, "{}", function.name);
        }
    }

    #[tokio::test]
    async fn when_no_memory_or_no_stack_is_left_a_call_is_refused_and_served_when_others_leave() {
        for (memories, stacks) in [(3, 100), (100, 3)] {
            let host = host(memories, stacks).await;
            for user in ["a", "b", "c"] {
                assert!(add(&host, user).await.result.is_ok());
            }
            for _ in 0..3 {
                is_full(&add(&host, "d").await);
            }
            assert!(add(&host, "a").await.result.is_ok(), "who is there is served");
            assert_eq!(host.registry().park_idle(Duration::ZERO).await, 4);
            assert!(add(&host, "d").await.result.is_ok());
            let list = call(&host, "a", r#"{"action":"list"}"#).await;
            assert!(list.result.unwrap().contains(r#""count":2"#), "and so is who was parked for it");
        }
    }

    #[tokio::test]
    async fn when_no_memory_is_left_idle_sessions_are_parked_before_anybody_is_refused() {
        let host = host(3, 100).await;
        let _upkeep = host.upkeep();
        for round in 1..=3 {
            for user in 0..20 {
                let answer = add(&host, &format!("user {user}")).await;
                assert!(answer.result.unwrap().contains("added"), "user {user} in round {round}");
            }
        }
        let list = call(&host, "user 7", r#"{"action":"list"}"#).await;
        assert!(list.result.unwrap().contains(r#""count":3"#));
    }
}
