//! Trying out: before the host serves, each function is made and configured once for each tenant that may call it,
//! with that tenant's limits and list of functions. The result is the image that the tenant's instances begin with.
//!
//! Two tenants share an image if the function was told nothing that differs between them. Equal images are stored
//! once.

use crate::{
    call::Call,
    config::Problem,
    function::Function,
    identity::{TenantConfig, User},
    instance::{Making, Services, Stop, StopKind, Told},
    limits::{Allowance, Quota},
    observe::Metrics,
    session::{Session, Shared, Tenant},
    state::Image,
};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};
use tokio::time::Instant;

/// Tries out each function for each of the tenants, of which these are the configurations, and gives them their images.
pub(super) async fn try_out(shared: &Arc<Shared>, tenants: &[TenantConfig]) -> Result<(), Vec<Problem>> {
    let functions = shared.catalog.functions();
    let mut images: Vec<Vec<Option<Arc<Image>>>> = tenants.iter().map(|_| vec![None; functions.len()]).collect();
    let mut all = HashMap::new();
    let mut problems = Vec::new();
    for (position, function) in functions.iter().enumerate() {
        let mut tried = Vec::new();
        let may_call = |number: &usize| shared.tenants[*number].may_call(position);
        for number in (0..tenants.len()).filter(may_call) {
            let tenant = &tenants[number];
            let tried_by = match tried.iter().position(|other: &Tried<'_>| other.is_so_for(tenant)) {
                Some(there) => &tried[there],
                None => match Tried::of(shared, position, tenant, &mut all).await {
                    Ok(new) => tried.push_mut(new),
                    Err(stop) => {
                        // If the host's own limits would do, the tenant's are too small, and each of its calls says so.
                        let of_host = TenantConfig { limits: shared.limits.clone(), ..tenant.clone() };
                        if Tried::of(shared, position, &of_host, &mut all).await.is_err() {
                            problems.push(problem(function, stop));
                            break;
                        }
                        let (key, name) = (&tenant.key, &function.name);
                        tracing::warn!("{key}: its limits are too small for the function `{name}`: it {}", stop.kind);
                        continue;
                    }
                },
            };
            images[number][position] = tried_by.image.clone();
        }
        // A function that nobody may call yet is tried out too, to report if it cannot be set up.
        if !(0..tenants.len()).any(|number| may_call(&number))
            && let Err(stop) = Tried::of(shared, position, &TenantConfig::only(&shared.limits), &mut all).await
        {
            problems.push(problem(function, stop));
        }
    }
    for (tenant, images) in shared.tenants.iter().zip(images) {
        tenant.set_images(images.into());
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// A function that was tried out for a tenant.
struct Tried<'a> {
    image: Option<Arc<Image>>,
    told: Told,
    tenant: &'a TenantConfig,
}

impl<'a> Tried<'a> {
    /// Tries out a function in a session of its own, which is dropped afterwards. `all` are the existing images.
    async fn of(
        shared: &Arc<Shared>,
        position: usize,
        tenant: &'a TenantConfig,
        all: &mut HashMap<[u8; 16], Arc<Image>>,
    ) -> Result<Self, Stop> {
        let function = &shared.catalog.functions()[position];
        // The tenant is not charged, and the figures do not show it.
        let of_memory =
            |quota: &Quota| Quota { memory: quota.memory, open_files: quota.open_files, ..Quota::default() };
        let mut config = tenant.clone();
        config.limits.user = of_memory(&tenant.limits.user);
        config.limits.tenant = of_memory(&tenant.limits.tenant);
        let metrics = Metrics::new().of_tenant(&config.name);
        let functions = shared.catalog.functions();
        let nobody = Arc::new(Tenant::new(&config, functions, &shared.memory, &shared.descriptors, metrics));
        let session = Session::of(nobody, User::from_credential("carrel: trying out"), shared.clone());
        let limits = &config.limits;
        let allowance = Allowance { fuel: limits.fuel_per_call, deadline: Instant::now() + limits.deadline };
        let services: Arc<dyn Services> = Call::new(session, allowance.deadline, None);
        let made = Making {
            blueprint: function.blueprint(),
            image: None,
            undone: false,
            services: &services,
            limits,
            allowance,
            depth: 1,
        };
        let made = made.image().await;
        services.permit().give_back();
        let (image, told) = made?;
        let image = image.map(|image| match all.entry(*image.key()) {
            Entry::Occupied(there) => there.get().clone(),
            Entry::Vacant(place) => place.insert(Arc::new(image)).clone(),
        });
        Ok(Self { image, told, tenant })
    }

    /// Returns true if the image would be the same for another tenant: the function was told nothing that differs
    /// there.
    fn is_so_for(&self, other: &TenantConfig) -> bool {
        let quotas = |tenant: &TenantConfig| {
            let limits = &tenant.limits;
            (limits.memory_per_instance, limits.user.memory, limits.tenant.memory)
        };
        let fits = |quota: Option<usize>| quota.is_none_or(|bytes| bytes >= self.told.of_user);
        let (instance, user, tenant) = quotas(other);
        let as_much = quotas(self.tenant) == (instance, user, tenant)
            || !self.told.refused && self.told.memory <= instance && fits(user) && fits(tenant);
        as_much && (!self.told.functions || self.tenant.functions == other.functions)
    }
}

/// The problem of a function that could not be set up.
fn problem(function: &Function, stop: Stop) -> Problem {
    let (why, hint) = match &stop.kind {
        StopKind::Unconfigurable(why) => (
            format!("the guest `{}` does not take this configuration: {why}", function.guest.name),
            "`carrel info --config_file=..` shows what it takes".to_owned(),
        ),
        kind => {
            let setting = kind.limit().map(|limit| format!("; {} is for this, too", limit.key));
            let hint = format!("the guest is {}{}", function.guest.source, setting.unwrap_or_default());
            (format!("the function could not be set up: it {kind}"), hint)
        }
    };
    Problem::new(function.key.clone(), why).hint(hint)
}
