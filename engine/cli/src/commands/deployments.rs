//! `swath deploy`, `swath deployments`, `swath backfill`: flows that go by themselves, in this store or on a server.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use swath_control::v1::deployment_service_client::DeploymentServiceClient;
use swath_control::v1::deployment_service_server::DeploymentService as _;
use swath_control::{DeploymentService, v1};
use swath_plan::Catalogue;
use swath_schedule::DeploymentSpec;
use swath_store::Access;
use tonic::{Request, Response, Status};

use crate::arguments::{Backfill, Deploy, Deployments, DeploymentsCommand, Global, ScheduleArguments};
use crate::failure::Failure;
use crate::server::{Server, connect, refused};
use crate::{flows, style};

/// Where deployments are: the same service, here or over the network.
enum Place {
    Here(DeploymentService),
    There(DeploymentServiceClient<Server>),
}

/// Calls a method of the service.
macro_rules! call {
    ($place:expr, $method:ident, $request:expr) => {
        match &mut $place {
            Place::Here(service) => service.$method(Request::new($request)).await,
            Place::There(client) => client.$method($request).await,
        }
        .map(Response::into_inner)
        .map_err(told)
    };
}

impl Place {
    async fn open(global: &Global, server: Option<&str>, catalogue: Arc<Catalogue>) -> Result<Self, Failure> {
        match server {
            Some(server) => Ok(Self::There(DeploymentServiceClient::new(connect(server).await?))),
            None => {
                let store = global.address().open(Access::Write).await?;
                Ok(Self::Here(DeploymentService::new(store, catalogue)))
            }
        }
    }
}

/// What the service refuses is what the user asked for wrongly, unless the store or the network failed.
fn told(status: Status) -> Failure {
    match status.code() {
        tonic::Code::FailedPrecondition => Failure::Usage(status.message().to_owned()),
        _ => refused(status),
    }
}

pub(crate) fn deploy(global: &Global, command: Deploy, catalogue: Arc<Catalogue>) -> Result<ExitCode, Failure> {
    let flow = flows::open(&command.flow.flow)?;
    // Told here, with the lines of the text.
    let problems = flows::check(&flow, &command.flow.params, &catalogue)?;
    if !problems.is_empty() {
        return match global.json {
            true => super::validate::refuse(&flow.name, &problems),
            false => Err(Failure::Flow(problems)),
        };
    }
    let here = std::env::current_dir().map_err(|error| Failure::io("find", Path::new("."), &error))?;
    let file = Path::new(&flow.name).file_name().unwrap_or_default();
    let request = v1::DeployFlowRequest {
        flow_text: String::from_utf8_lossy(&flow.bytes).into_owned(),
        source: flow.folder.join(file).display().to_string(),
        parameters: command.flow.params.iter().cloned().collect(),
        parameter_folder: here.display().to_string(),
        name: command.name.unwrap_or_default(),
        schedule: schedule(command.schedule),
        unscheduled: command.no_schedule,
        paused: command.paused,
    };
    super::block_on(async move {
        let mut place = Place::open(global, command.server.as_deref(), catalogue).await?;
        let known = call!(place, list_deployments, v1::ListDeploymentsRequest {})?.deployments;
        let answer = call!(place, deploy_flow, request)?;
        let deployment = answer.deployment.unwrap_or_default();
        let next = next(&mut place, &deployment.name, 3).await?;
        if global.json {
            let mut document = shown(&deployment);
            document["next"] = json!(next);
            super::print_json(&document)?;
            return Ok(ExitCode::SUCCESS);
        }
        let before = known.iter().find(|one| one.name == deployment.name).map(|one| one.version);
        let (name, version) = (&deployment.name, deployment.version);
        match before {
            Some(before) if before == version => tell!("{name} is as it was: version {version}"),
            Some(_) => tell!("{name} deployed: version {version}; live runs stay with theirs"),
            None => tell!("{name} deployed"),
        }
        if deployment.paused {
            tell!("it is paused: `swath deployments resume {name}` lets it go");
        } else if next.is_empty() {
            tell!("it has no schedule: `swath deployments trigger {name}` runs it");
        } else {
            tell!("next due {}", next.join(", "));
        }
        if command.server.is_none() && !served(&global.home) {
            tell!("note: no server runs on this store; `swath serve` starts its runs");
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn schedule(given: ScheduleArguments) -> Option<v1::Schedule> {
    let ScheduleArguments { cron, every, at, zone, gap, overlap, start, end, jitter, catch_up } = given;
    let schedule = v1::Schedule {
        cron: cron.unwrap_or_default(),
        every: every.unwrap_or_default(),
        at,
        zone: zone.unwrap_or_default(),
        gap: gap.unwrap_or_default(),
        overlap: overlap.unwrap_or_default(),
        start: start.unwrap_or_default(),
        end: end.unwrap_or_default(),
        jitter: jitter.unwrap_or_default(),
        catch_up: catch_up.unwrap_or_default(),
    };
    (schedule != v1::Schedule::default()).then_some(schedule)
}

/// Whether a server holds the store's mark. It is a hint for people, nothing is decided by it.
fn served(home: &Path) -> bool {
    swath_store::Home::new(home).is_served()
}

pub(crate) fn deployments(
    global: &Global,
    command: Deployments,
    catalogue: Arc<Catalogue>,
) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let mut place = Place::open(global, command.server.as_deref(), catalogue).await?;
        match command.command {
            None => list(global, &mut place).await?,
            Some(DeploymentsCommand::Show { name }) => show(global, &mut place, name).await?,
            Some(DeploymentsCommand::Pause { name }) => {
                call!(place, pause_deployment, v1::PauseDeploymentRequest { name: name.clone() })?;
                tell!("{name} is paused: it starts no more runs");
            }
            Some(DeploymentsCommand::Resume { name }) => {
                call!(place, resume_deployment, v1::ResumeDeploymentRequest { name: name.clone() })?;
                let next = next(&mut place, &name, 1).await?;
                tell!("{name} goes on{}", next.first().map(|at| format!(": next due {at}")).unwrap_or_default());
            }
            Some(DeploymentsCommand::Delete { name }) => {
                call!(place, delete_deployment, v1::DeleteDeploymentRequest { name: name.clone() })?;
                tell!("{name} is deleted; its runs stay");
            }
            Some(DeploymentsCommand::Trigger { name, params, key }) => {
                let request = v1::TriggerDeploymentRequest {
                    name: name.clone(),
                    parameters: params.into_iter().collect(),
                    idempotency_key: key.unwrap_or_default(),
                };
                let fire = call!(place, trigger_deployment, request)?.fire.unwrap_or_default();
                match global.json {
                    true => super::print_json(&fire_shown(&fire))?,
                    false => {
                        tell!("{name} runs as soon as a server looks; `swath deployments show {name}` tells its run")
                    }
                }
            }
            Some(DeploymentsCommand::Next { name, count }) => {
                let next = next(&mut place, &name, count).await?;
                match global.json {
                    true => super::print_json(&next)?,
                    false => super::print(&next.iter().map(|at| format!("{at}\n")).collect::<String>())?,
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

pub(crate) fn backfill(global: &Global, command: Backfill, catalogue: Arc<Catalogue>) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let now = Timestamp::now();
        let end = |text: &str, first: bool| -> Result<prost_types::Timestamp, Failure> {
            let wrong = |why: String| Failure::Usage(format!("`{text}`: {why}"));
            let fire = swath_host::launch::interval(&format!("{text}/{text}"), now).map_err(wrong)?;
            let at = if first { fire.since } else { fire.at.min(now) };
            Ok(prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() })
        };
        let request = v1::BackfillDeploymentRequest {
            name: command.name.clone(),
            from: Some(end(&command.from, true)?),
            to: Some(match &command.to {
                Some(to) => end(to, false)?,
                None => prost_types::Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() },
            }),
            again: command.again,
        };
        let mut place = Place::open(global, command.server.as_deref(), catalogue).await?;
        let done = call!(place, backfill_deployment, request)?;
        if global.json {
            super::print_json(&json!({ "fires": done.fires, "added": done.added }))?;
            return Ok(ExitCode::SUCCESS);
        }
        let (fires, added) = (done.fires, done.added);
        match (fires, fires - added) {
            (0, _) => tell!("{} was not due in this time", command.name),
            (_, 0) => tell!("{added} run{} asked for", if added == 1 { " is" } else { "s are" }),
            (_, had) => tell!("{added} of {fires} are asked for; {had} had been (`--again` runs them too)"),
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn next(place: &mut Place, name: &str, count: i32) -> Result<Vec<String>, Failure> {
    let answer = call!(*place, list_next_fires, v1::ListNextFiresRequest { name: name.to_owned(), count })?;
    Ok(answer.fires.iter().map(|at| time(Some(at))).collect())
}

async fn list(global: &Global, place: &mut Place) -> Result<(), Failure> {
    let deployments = call!(*place, list_deployments, v1::ListDeploymentsRequest {})?.deployments;
    if global.json {
        return super::print_json(&deployments.iter().map(shown).collect::<Vec<_>>());
    }
    if deployments.is_empty() {
        tell!("nothing is deployed: `swath deploy FLOW` does it");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = deployments
        .iter()
        .map(|one| {
            let next = match (one.paused, &one.next_fire_at) {
                (true, _) => "paused".to_owned(),
                (false, None) => "-".to_owned(),
                (false, at) => time(at.as_ref()),
            };
            vec![one.name.clone(), one.flow.clone(), one.version.to_string(), summary(one), next]
        })
        .collect();
    super::print(&style::table(&["DEPLOYMENT", "FLOW", "VERSION", "RUNS", "NEXT"], &rows, false))
}

async fn show(global: &Global, place: &mut Place, name: String) -> Result<(), Failure> {
    let answer = call!(*place, get_deployment, v1::GetDeploymentRequest { name })?;
    let deployment = answer.deployment.unwrap_or_default();
    let versions = answer.versions.iter().map(|version| {
        json!({
            "version": version.version, "digest": version.digest, "source": version.source,
            "created_at": time(version.created_at.as_ref()),
        })
    });
    if global.json {
        let mut document = shown(&deployment);
        document["versions"] = versions.collect();
        document["fires"] = answer.fires.iter().map(fire_shown).collect();
        return super::print_json(&document);
    }
    let mut text = format!("{}  flow {}, version {}\n", deployment.name, deployment.flow, deployment.version);
    text.push_str(&format!("runs  {}\n", summary(&deployment)));
    match (deployment.paused, &deployment.next_fire_at) {
        (true, _) => text.push_str("next  paused\n"),
        (false, Some(at)) => text.push_str(&format!("next  {}\n", time(Some(at)))),
        (false, None) => {}
    }
    text.push_str("\nversions\n");
    let rows: Vec<Vec<String>> = answer
        .versions
        .iter()
        .map(|one| {
            vec![
                format!("  {}", one.version),
                time(one.created_at.as_ref()),
                one.digest.chars().take(12).collect(),
                one.source.clone(),
            ]
        })
        .collect();
    text.push_str(&style::table(&["  VERSION", "DEPLOYED", "DIGEST", "FLOW"], &rows, false));
    if !answer.fires.is_empty() {
        text.push_str("\nlast\n");
        let rows: Vec<Vec<String>> = answer
            .fires
            .iter()
            .map(|fire| {
                let state = match fire.run_state() {
                    v1::RunState::Unspecified => fire.state.clone(),
                    state => state_name(state),
                };
                let what = if fire.run_id.is_empty() { fire.note.clone() } else { fire.run_id.clone() };
                let note = if fire.run_id.is_empty() || fire.note.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", fire.note)
                };
                vec![
                    format!("  {}", fire.cause),
                    time(fire.interval_start.as_ref()),
                    time(fire.interval_end.as_ref()),
                    state,
                    format!("{what}{note}"),
                ]
            })
            .collect();
        text.push_str(&style::table(&["  CAUSE", "COVERS FROM", "TO", "STATE", "RUN"], &rows, false));
    }
    super::print(&text)
}

/// When a deployment runs, in a few words.
fn summary(deployment: &v1::Deployment) -> String {
    let spec: DeploymentSpec = serde_json::from_str(&deployment.spec_json).unwrap_or_default();
    let mut parts = Vec::new();
    if let Some(schedule) = &spec.schedule {
        let zone = schedule.zone.as_deref().map(|zone| format!(" {zone}")).unwrap_or_default();
        match (&schedule.cron, &schedule.every, &schedule.at) {
            (Some(cron), ..) => parts.push(format!("{cron}{zone}")),
            (_, Some(every), _) => parts.push(format!("every {every}")),
            (_, _, Some(at)) => parts.push(format!("at {} instants", at.len())),
            _ => {}
        }
    }
    for trigger in &spec.triggers {
        match (&trigger.after, &trigger.webhook) {
            (Some(after), _) => parts.push(format!("after {after}")),
            (None, Some(_)) => parts.push("webhook".to_owned()),
            (None, None) => {}
        }
    }
    if parts.is_empty() { "by hand".to_owned() } else { parts.join(", ") }
}

fn shown(one: &v1::Deployment) -> Value {
    json!({
        "name": one.name, "flow": one.flow, "version": one.version, "paused": one.paused,
        "spec": serde_json::from_str::<Value>(&one.spec_json).unwrap_or_default(),
        "created_at": time(one.created_at.as_ref()), "updated_at": time(one.updated_at.as_ref()),
        "next_fire_at": one.next_fire_at.as_ref().map(|at| time(Some(at))),
    })
}

fn fire_shown(fire: &v1::Fire) -> Value {
    json!({
        "key": fire.key, "cause": fire.cause, "state": fire.state, "note": fire.note,
        "start": fire.interval_start.as_ref().map(|at| time(Some(at))), "end": time(fire.interval_end.as_ref()),
        "run": Some(&fire.run_id).filter(|run| !run.is_empty()),
        "run_state": Some(fire.run_state()).filter(|state| *state != v1::RunState::Unspecified).map(state_name),
    })
}

fn state_name(state: v1::RunState) -> String {
    state.as_str_name().trim_start_matches("RUN_STATE_").to_ascii_lowercase()
}

/// An instant in RFC 3339; `-` where there is none.
fn time(at: Option<&prost_types::Timestamp>) -> String {
    let at = at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
    at.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
