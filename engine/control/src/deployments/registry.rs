//! Deployments as those who manage them see them. Everything here is a change of the store: the server that runs on it
//! acts on what it finds there.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use swath_flow::{Diagnostic, ParameterSpec, ParameterType};
use swath_host::{Asked, FlowText};
use swath_plan::{Catalogue, Plan, deployment_of};
use swath_schedule::{DeploymentSpec, Fire, Problem, ScheduleSpec};
use swath_store::{DeploymentRow, Error, FireFilter, FireRow, NewFire, NewVersion, Store};
use swath_task::Digest;

use super::content::Content;

/// Cause of the fires of webhooks.
pub(super) const WEBHOOK: &str = "webhook";
/// Fires of one backfill, at most.
const MOST_BACKFILLED: usize = 10_000;

/// The deployments of a store.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn Store>,
    catalogue: Arc<Catalogue>,
}

/// What is to be deployed.
pub struct Deployable {
    /// Absolute path of the flow.
    pub source: String,
    /// The flow.
    pub flow: FlowText,
    /// Its parameters, as they are written on a command line.
    pub params: Vec<(String, String)>,
    /// The folder that relative paths among them start from.
    pub params_folder: std::path::PathBuf,
    /// Name of the deployment; that of the flow where none is given.
    pub name: Option<String>,
    /// A schedule in the place of the flow's own; `Some(None)`: none.
    pub schedule: Option<Option<ScheduleSpec>>,
    /// Whether a new deployment begins paused.
    pub paused: bool,
}

/// Why a flow cannot be deployed, or a deployment not be run.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The flow or its parameters are wrong.
    #[error("the flow has {} mistakes", .0.len())]
    Flow(Vec<Diagnostic>),
    /// The schedule is wrong.
    #[error("{}", .0.iter().map(|one| one.message.clone()).collect::<Vec<_>>().join("; "))]
    Schedule(Vec<Problem>),
    /// What is asked for is not possible.
    #[error("{0}")]
    Refused(String),
    /// The store failed, or has no such deployment.
    #[error(transparent)]
    Store(#[from] Error),
}

/// What a backfill has added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backfilled {
    /// Fires of the schedule in the time that was given.
    pub fires: usize,
    /// Those that the deployment did not have yet: they run.
    pub added: usize,
}

impl Registry {
    /// The deployments of a store.
    pub fn new(store: Arc<dyn Store>, catalogue: Arc<Catalogue>) -> Self {
        Self { store, catalogue }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Deploys a flow, or a new version of it.
    pub async fn deploy(&self, given: Deployable, now: Timestamp) -> Result<DeploymentRow, DeployError> {
        let Deployable { source, flow, params, params_folder, name, schedule, paused } = given;
        let mut asked = Asked::of(params.iter().cloned(), &params_folder);
        let written = flow.flow().map(deployment_of);
        let mut spec = match written {
            Some(Ok(spec)) => spec,
            _ => return Err(DeployError::Flow(flow.check(&asked, &self.catalogue, now))),
        };
        if let Some(schedule) = schedule {
            spec.schedule = schedule;
            let problems = spec.problems();
            if !problems.is_empty() {
                return Err(DeployError::Schedule(problems));
            }
        }
        asked.fire = Some(since_last(&spec, now));
        let catalogue = self.catalogue.clone();
        let planned = swath_host::aside(move || {
            let planned = flow.plan_with_files(&asked, &catalogue, now);
            (planned, flow)
        });
        let (planned, flow) = planned.await.map_err(|error| DeployError::Refused(error.to_string()))?;
        let (plan, files) = planned.map_err(DeployError::Flow)?;
        let name = name.unwrap_or_else(|| plan.name.clone());
        check_name(&name)?;
        self.check_ends(&name, &spec).await?;
        // What is due by a schedule that stays as it is stays due.
        let before = match self.store.deployment(&name).await {
            Ok(row) => spec_of(&row.spec).ok(),
            Err(Error::NoDeployment(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let rescheduled = before.is_none_or(|before| before.schedule != spec.schedule);
        let content = Content::new(&source, &flow, files, params, params_folder);
        let version = NewVersion {
            name,
            flow: plan.name,
            source,
            spec: json!(spec).to_string(),
            content: json!(content).to_string(),
            paused,
            rescheduled,
            now: now.as_millisecond(),
        };
        Ok(self.store.deploy(version).await?)
    }

    /// Refuses a deployment that would start itself for ever, by its own trigger or by way of others.
    async fn check_ends(&self, name: &str, spec: &DeploymentSpec) -> Result<(), DeployError> {
        let mut specs = BTreeMap::new();
        for row in self.store.deployments().await? {
            // What is wrong with another one is told elsewhere.
            if let Ok(spec) = spec_of(&row.spec) {
                specs.insert(row.name, spec);
            }
        }
        specs.insert(name.to_owned(), spec.clone());
        let Some(cycle) = cycle(name, &specs) else { return Ok(()) };
        Err(DeployError::Refused(match cycle.as_slice() {
            [_] => format!("the deployment `{name}` would start itself for ever: its trigger `after` is itself"),
            cycle => {
                let each = cycle.iter().zip(cycle.iter().cycle().skip(1));
                let each: Vec<String> = each.map(|(one, before)| format!("`{one}` runs after `{before}`")).collect();
                format!("the deployment `{name}` would start itself for ever: {}", each.join(", "))
            }
        }))
    }

    /// Asks for a run now. With the same key it is asked for once.
    pub async fn trigger(
        &self,
        name: &str,
        cause: &str,
        params: Map<String, Value>,
        key: Option<String>,
        now: Timestamp,
    ) -> Result<FireRow, DeployError> {
        let row = self.store.deployment(name).await?;
        if row.paused {
            return Err(DeployError::Refused(format!(
                "the deployment `{name}` is paused: `swath deployments resume {name}` lets it go on"
            )));
        }
        let spec = spec_of(&row.spec)?;
        let fire = since_last(&spec, now);
        let (plan, _) = self.plan(name, params.clone(), fire, now).await?;
        // Whoever sends a request must not choose which of the server's secrets go where.
        let of_secret = |spec: &ParameterSpec| spec.of == ParameterType::Secret && params.contains_key(&spec.name);
        if let Some(secret) = plan.parameters.iter().find(|spec| cause == WEBHOOK && of_secret(spec)) {
            let why = format!("the parameter `{}` names a secret: a webhook cannot give it", secret.name);
            return Err(DeployError::Refused(why));
        }
        let salt = || Digest::of(format!("{now} {} {}", std::process::id(), json!(params)).as_bytes()).hex();
        let key = format!("{cause}:{}", key.unwrap_or_else(salt));
        let since = spec.schedule.is_some().then(|| fire.since.as_millisecond());
        let fire = NewFire {
            key: key.clone(),
            cause: cause.to_owned(),
            since,
            at: now.as_millisecond(),
            due: now.as_millisecond(),
            params: Value::Object(params).to_string(),
            created_at: now.as_millisecond(),
        };
        self.store.add_fires(name, vec![fire], None).await?;
        let filter = FireFilter { deployment: Some(name.to_owned()), key: Some(key), ..FireFilter::default() };
        let found = self.store.fires(&filter).await?.into_iter().next();
        found.ok_or_else(|| DeployError::Refused(format!("the deployment `{name}` was paused or deleted meanwhile")))
    }

    /// Asks for the runs of the schedule after `from` and up to `to` that the deployment did not have yet; with `again`
    /// for all of them.
    pub async fn backfill(
        &self,
        name: &str,
        from: Timestamp,
        to: Timestamp,
        again: bool,
        now: Timestamp,
    ) -> Result<Backfilled, DeployError> {
        let row = self.store.deployment(name).await?;
        if row.paused {
            return Err(DeployError::Refused(format!(
                "the deployment `{name}` is paused: `swath deployments resume {name}` lets it go on"
            )));
        }
        let spec = spec_of(&row.spec)?;
        let Some(schedule) = &spec.schedule else {
            return Err(DeployError::Refused(format!("the deployment `{name}` has no schedule to fill back by")));
        };
        let schedule = schedule.compile().map_err(DeployError::Schedule)?;
        if to > now {
            return Err(DeployError::Refused(format!("{to} lies ahead: a backfill ends at the present time")));
        }
        if from >= to {
            return Err(DeployError::Refused(format!("{to} does not lie after {from}")));
        }
        // The first instant itself belongs to what was asked for.
        let from = from.checked_sub(jiff::SignedDuration::from_nanos(1)).unwrap_or(from);
        let fires: Vec<Fire> = schedule.fires(from, to).take(MOST_BACKFILLED + 1).collect();
        if fires.len() > MOST_BACKFILLED {
            let why = format!("there are more than {MOST_BACKFILLED} in this time: fill back part of it first");
            return Err(DeployError::Refused(why));
        }
        let Some(first) = fires.first() else { return Ok(Backfilled { fires: 0, added: 0 }) };
        self.plan(name, Map::new(), *first, now).await?;
        let salt = if again { format!(" again {now}") } else { String::new() };
        let new = fires.iter().map(|fire| NewFire {
            key: format!("{}{salt}", scheduled_key(fire)),
            cause: "backfill".to_owned(),
            since: Some(fire.since.as_millisecond()),
            at: fire.at.as_millisecond(),
            due: now.as_millisecond(),
            params: "{}".to_owned(),
            created_at: now.as_millisecond(),
        });
        let added = self.store.add_fires(name, new.collect(), None).await?;
        Ok(Backfilled { fires: fires.len(), added })
    }

    /// The plan of a fire by the newest version, or everything that is wrong.
    pub(super) async fn plan(
        &self,
        name: &str,
        changed: Map<String, Value>,
        fire: Fire,
        now: Timestamp,
    ) -> Result<(Plan, String), DeployError> {
        let newest = self.store.deployment(name).await?.version;
        let content = self.store.content(name, newest).await?;
        let content = content.ok_or_else(|| DeployError::Refused(format!("`{name}` has no version {newest}")))?;
        let content: Content = read("deployment", &content)?;
        let catalogue = self.catalogue.clone();
        let planned = swath_host::aside(move || {
            let flow = content.flow();
            let text = flow.source().text().to_owned();
            flow.plan(&content.asked(changed, fire), &catalogue, now).map(|plan| (plan, text))
        });
        let planned = planned.await.map_err(|error| DeployError::Refused(error.to_string()))?;
        planned.map_err(DeployError::Flow)
    }

    /// When a deployment is next due, without jitter; nothing while it is paused.
    pub fn next(row: &DeploymentRow, after: Timestamp, count: usize) -> Vec<Timestamp> {
        let schedule = spec_of(&row.spec).ok().and_then(|spec| spec.schedule?.compile().ok());
        let Some(schedule) = schedule.filter(|_| !row.paused) else { return Vec::new() };
        std::iter::successors(schedule.next(after), |fire| schedule.next(fire.at))
            .map(|fire| fire.at)
            .take(count)
            .collect()
    }
}

/// A way from `name` along triggers back to it: each runs after the one that follows, the last after the first.
fn cycle<'a>(name: &'a str, specs: &'a BTreeMap<String, DeploymentSpec>) -> Option<Vec<&'a str>> {
    let mut seen = HashSet::new();
    let mut ways = vec![vec![name]];
    while let Some(way) = ways.pop() {
        let spec = way.last().and_then(|last| specs.get(*last));
        for before in spec.iter().flat_map(|spec| &spec.triggers).filter_map(|trigger| trigger.after.as_deref()) {
            if before == name {
                return Some(way);
            }
            if seen.insert(before) {
                ways.push([way.as_slice(), &[before]].concat());
            }
        }
    }
    None
}

/// What tells a fire of a schedule from the others.
pub(super) fn scheduled_key(fire: &Fire) -> String {
    format!("at:{}", fire.at)
}

/// How a deployment goes.
pub(super) fn spec_of(text: &str) -> Result<DeploymentSpec, Error> {
    read("deployment", text)
}

pub(super) fn read<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::Record { what: what.to_owned(), reason: error.to_string() })
}

/// What a run covers that is started at `now`.
fn since_last(spec: &DeploymentSpec, now: Timestamp) -> Fire {
    let schedule = spec.schedule.as_ref().and_then(|schedule| schedule.compile().ok());
    schedule.map_or(Fire { at: now, since: now }, |schedule| schedule.since_last(now))
}

/// Names stand in addresses, ids of runs and command lines.
fn check_name(name: &str) -> Result<(), DeployError> {
    let good = (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match good {
        true => Ok(()),
        false => Err(DeployError::Refused(format!(
            "`{}` is no name of a deployment: it begins with a letter and has letters, digits, `_` and `-`, 64 at most",
            name.escape_debug()
        ))),
    }
}
