//! The deployment service.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};
use swath_host::FlowText;
use swath_plan::Catalogue;
use swath_schedule::ScheduleSpec;
use swath_store::{DeploymentRow, FireFilter, FireRow, Store};
use tokio::sync::Notify;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::registry::{DeployError, Deployable, Registry};
use crate::convert::{refused, run_state, time, wrong};
use crate::flows::refuse;
use crate::v1;

/// Fires that are told with a deployment.
const FIRES: u32 = 20;
/// Next fires where no count is given, and the most.
const NEXT: i32 = 5;
const MOST_NEXT: i32 = 1000;

/// The deployment service.
pub struct DeploymentService {
    pub(crate) registry: Registry,
    /// Tells the scheduler that something changed.
    pub(crate) wake: Arc<Notify>,
}

impl DeploymentService {
    /// Over a store that a server may run on: it sees within a second what changes here.
    pub fn new(store: Arc<dyn Store>, catalogue: Arc<Catalogue>) -> Self {
        Self { registry: Registry::new(store, catalogue), wake: Arc::default() }
    }

    fn changed(&self, row: &DeploymentRow) -> v1::Deployment {
        self.wake.notify_one();
        deployment(row)
    }

    async fn pause(&self, name: &str, paused: bool) -> Result<v1::Deployment, Status> {
        let now = Timestamp::now().as_millisecond();
        let row = self.registry.store().set_paused(name, paused, now).await.map_err(refused)?;
        Ok(self.changed(&row))
    }
}

#[tonic::async_trait]
impl v1::deployment_service_server::DeploymentService for DeploymentService {
    async fn deploy_flow(
        &self,
        request: Request<v1::DeployFlowRequest>,
    ) -> Result<Response<v1::DeployFlowResponse>, Status> {
        let v1::DeployFlowRequest {
            flow_text,
            source,
            parameters,
            parameter_folder,
            name,
            schedule,
            unscheduled,
            paused,
        } = request.into_inner();
        if flow_text.is_empty() {
            return Err(wrong("flow_text", "the text of a flow is needed"));
        }
        let path = Path::new(&source);
        if !path.is_absolute() {
            return Err(wrong(
                "source",
                "an absolute path is needed: relative paths in the flow start from its folder",
            ));
        }
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let params_folder = match parameter_folder.as_str() {
            "" => folder.clone(),
            given if Path::new(given).is_absolute() => given.into(),
            _ => return Err(wrong("parameter_folder", "an absolute path is needed")),
        };
        let schedule = match (schedule, unscheduled) {
            (Some(_), true) => return Err(wrong("unscheduled", "a schedule is given")),
            (Some(schedule), false) => Some(Some(spec_of(schedule)?)),
            (None, true) => Some(None),
            (None, false) => None,
        };
        let mut params: Vec<_> = parameters.into_iter().collect();
        params.sort();
        let given = Deployable {
            flow: FlowText::new(&source, folder, flow_text.into_bytes()),
            source,
            params,
            params_folder,
            name: Some(name).filter(|name| !name.is_empty()),
            schedule,
            paused,
        };
        let row = self.registry.deploy(given, Timestamp::now()).await.map_err(told)?;
        Ok(Response::new(v1::DeployFlowResponse { deployment: Some(self.changed(&row)) }))
    }

    async fn list_deployments(
        &self,
        _request: Request<v1::ListDeploymentsRequest>,
    ) -> Result<Response<v1::ListDeploymentsResponse>, Status> {
        let rows = self.registry.store().deployments().await.map_err(refused)?;
        Ok(Response::new(v1::ListDeploymentsResponse { deployments: rows.iter().map(deployment).collect() }))
    }

    async fn get_deployment(
        &self,
        request: Request<v1::GetDeploymentRequest>,
    ) -> Result<Response<v1::GetDeploymentResponse>, Status> {
        let name = request.into_inner().name;
        let row = self.registry.store().deployment(&name).await.map_err(refused)?;
        let versions = self.registry.store().versions(&name).await.map_err(refused)?;
        let versions = versions.into_iter().map(|version| v1::DeploymentVersion {
            version: version.version,
            digest: version.digest,
            created_at: Some(time(version.created_at)),
            source: version.source,
        });
        let filter = FireFilter { deployment: Some(name), limit: Some(FIRES), ..FireFilter::default() };
        let fires = self.registry.store().fires(&filter).await.map_err(refused)?;
        Ok(Response::new(v1::GetDeploymentResponse {
            deployment: Some(deployment(&row)),
            versions: versions.collect(),
            fires: fires.into_iter().map(fire).collect(),
        }))
    }

    async fn pause_deployment(
        &self,
        request: Request<v1::PauseDeploymentRequest>,
    ) -> Result<Response<v1::PauseDeploymentResponse>, Status> {
        let deployment = self.pause(&request.into_inner().name, true).await?;
        Ok(Response::new(v1::PauseDeploymentResponse { deployment: Some(deployment) }))
    }

    async fn resume_deployment(
        &self,
        request: Request<v1::ResumeDeploymentRequest>,
    ) -> Result<Response<v1::ResumeDeploymentResponse>, Status> {
        let deployment = self.pause(&request.into_inner().name, false).await?;
        Ok(Response::new(v1::ResumeDeploymentResponse { deployment: Some(deployment) }))
    }

    async fn delete_deployment(
        &self,
        request: Request<v1::DeleteDeploymentRequest>,
    ) -> Result<Response<v1::DeleteDeploymentResponse>, Status> {
        self.registry.store().delete_deployment(&request.into_inner().name).await.map_err(refused)?;
        self.wake.notify_one();
        Ok(Response::new(v1::DeleteDeploymentResponse {}))
    }

    async fn trigger_deployment(
        &self,
        request: Request<v1::TriggerDeploymentRequest>,
    ) -> Result<Response<v1::TriggerDeploymentResponse>, Status> {
        let v1::TriggerDeploymentRequest { name, parameters, idempotency_key } = request.into_inner();
        let params: Map<String, Value> =
            parameters.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
        let key = Some(idempotency_key).filter(|key| !key.is_empty());
        let row = self.registry.trigger(&name, "by_hand", params, key, Timestamp::now()).await.map_err(told)?;
        self.wake.notify_one();
        Ok(Response::new(v1::TriggerDeploymentResponse { fire: Some(fire(row)) }))
    }

    async fn backfill_deployment(
        &self,
        request: Request<v1::BackfillDeploymentRequest>,
    ) -> Result<Response<v1::BackfillDeploymentResponse>, Status> {
        let v1::BackfillDeploymentRequest { name, from, to, again } = request.into_inner();
        let end = |field: &'static str, at: Option<prost_types::Timestamp>| {
            let at = at.ok_or_else(|| wrong(field, "an instant is needed"))?;
            Timestamp::new(at.seconds, at.nanos).map_err(|_| wrong(field, "it lies beyond the calendar"))
        };
        let (from, to) = (end("from", from)?, end("to", to)?);
        let done = self.registry.backfill(&name, from, to, again, Timestamp::now()).await.map_err(told)?;
        self.wake.notify_one();
        Ok(Response::new(v1::BackfillDeploymentResponse { fires: done.fires as u32, added: done.added as u32 }))
    }

    async fn list_next_fires(
        &self,
        request: Request<v1::ListNextFiresRequest>,
    ) -> Result<Response<v1::ListNextFiresResponse>, Status> {
        let v1::ListNextFiresRequest { name, count } = request.into_inner();
        let count = match count {
            0 => NEXT,
            1..=MOST_NEXT => count,
            _ => return Err(wrong("count", format!("it is from 1 to {MOST_NEXT}, or 0 for {NEXT}"))),
        };
        let row = self.registry.store().deployment(&name).await.map_err(refused)?;
        let fires = Registry::next(&row, Timestamp::now(), count as usize);
        let fires = fires.into_iter().map(|at| time(at.as_millisecond())).collect();
        Ok(Response::new(v1::ListNextFiresResponse { fires }))
    }
}

fn deployment(row: &DeploymentRow) -> v1::Deployment {
    let next = Registry::next(row, Timestamp::now(), 1).first().map(|at| time(at.as_millisecond()));
    v1::Deployment {
        name: row.name.clone(),
        version: row.version,
        flow: row.flow.clone(),
        spec_json: row.spec.clone(),
        paused: row.paused,
        created_at: Some(time(row.created_at)),
        updated_at: Some(time(row.updated_at)),
        next_fire_at: next,
    }
}

fn fire(row: FireRow) -> v1::Fire {
    v1::Fire {
        key: row.key,
        cause: row.cause,
        interval_start: row.since.map(time),
        interval_end: Some(time(row.at)),
        state: row.state,
        // The id is settled before the run is there.
        run_id: row.run.filter(|_| row.run_state.is_some()).unwrap_or_default(),
        run_state: row.run_state.as_deref().map_or(v1::RunState::Unspecified, run_state).into(),
        note: row.note,
    }
}

fn spec_of(schedule: v1::Schedule) -> Result<ScheduleSpec, Status> {
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let mut json = Map::new();
    for (field, text) in [("gap", schedule.gap), ("overlap", schedule.overlap), ("catch_up", schedule.catch_up)] {
        if let Some(text) = given(text) {
            json.insert(field.to_owned(), Value::String(text));
        }
    }
    let words: ScheduleSpec =
        serde_json::from_value(Value::Object(json)).map_err(|error| wrong("schedule", error.to_string()))?;
    Ok(ScheduleSpec {
        cron: given(schedule.cron),
        every: given(schedule.every),
        at: Some(schedule.at).filter(|at| !at.is_empty()),
        zone: given(schedule.zone),
        start: given(schedule.start),
        end: given(schedule.end),
        jitter: given(schedule.jitter),
        ..words
    })
}

fn told(error: DeployError) -> Status {
    match error {
        DeployError::Flow(problems) => refuse(&problems),
        DeployError::Schedule(problems) => {
            let mut details = ErrorDetails::new();
            for problem in &problems {
                details
                    .add_bad_request_violation(problem.at.trim_start_matches('/').replace('/', "."), &problem.message);
            }
            let count = problems.len();
            let message = format!("the schedule has {count} mistake{}", if count == 1 { "" } else { "s" });
            Status::with_error_details(Code::InvalidArgument, message, details)
        }
        DeployError::Refused(why) => Status::failed_precondition(why),
        DeployError::Store(error) => refused(error),
    }
}
