//! The run service.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use jiff::Timestamp;
use serde_json::Value;
use swath_host::again::Wish;
use swath_host::standing::Wait;
use swath_run::RunState;
use swath_store::{LogFilter, RunCursor, RunFilter, RunRow};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use crate::convert::{self, is_live, refused, stored_states, time, wrong};
use crate::fleet::{Fleet, id_of};
use crate::flows::Text;
use crate::v1;

/// Runs of a page where none is asked for, and the most that may be.
const PAGE: i32 = 100;
const MOST: i32 = 1000;
/// Events and log lines that are read at once.
const BATCH: u32 = 500;
/// What waits for a slow watcher.
const AHEAD: usize = 64;
/// How often another process' runs are looked at again.
const LOOK: Duration = Duration::from_secs(1);
/// Changes that come together are looked at together.
const TOGETHER: Duration = Duration::from_millis(20);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The run service.
pub struct RunService {
    pub fleet: Fleet,
}

impl RunService {
    async fn run(&self, row: RunRow) -> Result<v1::Run, Status> {
        self.runs(vec![row]).await?.pop().ok_or_else(|| Status::internal("a run is a run"))
    }

    /// Runs as they stand: one question for all that are live.
    async fn runs(&self, rows: Vec<RunRow>) -> Result<Vec<v1::Run>, Status> {
        let live: Vec<String> = rows.iter().filter(|row| is_live(row)).map(|row| row.id.clone()).collect();
        let driven = match live.is_empty() {
            true => HashMap::new(),
            false => self.fleet.store().holders(&live).await.map_err(refused)?,
        };
        let run = |row: RunRow| {
            let driven = driven.contains_key(&row.id);
            convert::run(row, driven)
        };
        Ok(rows.into_iter().map(run).collect())
    }
}

/// The `traceparent` of whoever asks, where that is traced.
fn caller_of<T>(request: &Request<T>) -> Option<String> {
    request.metadata().get("traceparent").and_then(|place| place.to_str().ok()).map(str::to_owned)
}

#[tonic::async_trait]
impl v1::run_service_server::RunService for RunService {
    async fn start_run(&self, request: Request<v1::StartRunRequest>) -> Result<Response<v1::StartRunResponse>, Status> {
        let caller = caller_of(&request);
        let v1::StartRunRequest { flow_text, source, parameters, idempotency_key, parameter_folder, interval } =
            request.into_inner();
        let text = Text::new(flow_text, source, parameters)?.with_params_from(parameter_folder)?;
        let text = text.covering(&interval, Timestamp::now())?;
        let (row, started) = self.fleet.start(text, &idempotency_key, caller).await?;
        Ok(Response::new(v1::StartRunResponse { run: Some(self.run(row).await?), started }))
    }

    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::GetRunResponse>, Status> {
        let id = id_of("id", request.into_inner().id)?;
        let stored = self.fleet.store().get_run(&id).await.map_err(refused)?;
        let summary = stored.row.summary.as_deref().map(swath_store::redact);
        let summary = summary.and_then(|summary| serde_json::from_str::<Value>(&summary).ok());
        let outputs = summary.as_ref().and_then(|summary| summary.get("outputs"));
        let outputs = outputs.filter(|outputs| stored.row.state == "completed" && outputs.is_object());
        Ok(Response::new(v1::GetRunResponse {
            outputs_json: outputs.map(Value::to_string).unwrap_or_default(),
            parameters_json: swath_store::redact(&stored.params).into(),
            run: Some(self.run(stored.row).await?),
        }))
    }

    async fn list_runs(&self, request: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let v1::ListRunsRequest { states, flow, page_size, page_token } = request.into_inner();
        let size = page_of(page_size)?;
        let mut wanted = Vec::new();
        let mut asked = Vec::new();
        for state in states {
            let state = v1::RunState::try_from(state).map_err(|_| wrong("states", format!("{state} is no state")))?;
            asked.push(i32::from(state));
            wanted.extend(stored_states(state)?.iter().map(|state| (*state).to_owned()));
        }
        let mut after = match page_token.as_str() {
            "" => None,
            token => Some(cursor(token).ok_or_else(|| wrong("page_token", "it is none that a response gave"))?),
        };
        let flow = Some(flow).filter(|flow| !flow.is_empty());
        let (mut page, mut next_page_token) = (Vec::new(), String::new());
        // Whether a live run is driven is not in its row: what is read may not be what was asked for.
        'pages: loop {
            let filter = RunFilter {
                states: wanted.clone(),
                flow: flow.clone(),
                without_sub_flows: true,
                after,
                limit: Some(size as u32 + 1),
                ..RunFilter::default()
            };
            let rows = self.fleet.store().list_runs(&filter).await.map_err(refused)?;
            let cursors: Vec<RunCursor> = rows.iter().map(RunRow::cursor).collect();
            let last = rows.len() <= size;
            for (run, cursor) in self.runs(rows).await?.into_iter().zip(cursors) {
                if !asked.is_empty() && !asked.contains(&run.state) {
                    after = Some(cursor);
                } else if page.len() == size {
                    next_page_token = after.map(token).unwrap_or_default();
                    break 'pages;
                } else {
                    after = Some(cursor);
                    page.push(run);
                }
            }
            if last {
                break;
            }
        }
        Ok(Response::new(v1::ListRunsResponse { runs: page, next_page_token }))
    }

    type WatchRunStream = Answers<v1::WatchRunResponse>;

    async fn watch_run(&self, request: Request<v1::WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let v1::WatchRunRequest { id, after } = request.into_inner();
        let id = id_of("id", id)?;
        let last = self.fleet.store().run_row(&id).await.map_err(refused)?.seq;
        if after > last {
            return Err(wrong("after", format!("the last event of run `{id}` is {last}")));
        }
        let (events, answers) = mpsc::channel(AHEAD);
        tokio::spawn(watch(self.fleet.clone(), id, after, events));
        Ok(Response::new(stream(answers)))
    }

    async fn cancel_run(
        &self,
        request: Request<v1::CancelRunRequest>,
    ) -> Result<Response<v1::CancelRunResponse>, Status> {
        let row = self.fleet.cancel(&id_of("id", request.into_inner().id)?).await?;
        Ok(Response::new(v1::CancelRunResponse { run: Some(self.run(row).await?) }))
    }

    async fn pause_run(&self, request: Request<v1::PauseRunRequest>) -> Result<Response<v1::PauseRunResponse>, Status> {
        let row = self.fleet.pause(&id_of("id", request.into_inner().id)?).await?;
        Ok(Response::new(v1::PauseRunResponse { run: Some(self.run(row).await?) }))
    }

    async fn resume_run(
        &self,
        request: Request<v1::ResumeRunRequest>,
    ) -> Result<Response<v1::ResumeRunResponse>, Status> {
        let row = self.fleet.resume(&id_of("id", request.into_inner().id)?).await?;
        Ok(Response::new(v1::ResumeRunResponse { run: Some(self.run(row).await?) }))
    }

    async fn rerun_run(&self, request: Request<v1::RerunRunRequest>) -> Result<Response<v1::RerunRunResponse>, Status> {
        let caller = caller_of(&request);
        let v1::RerunRunRequest { id, from, parameters, parameter_folder, idempotency_key } = request.into_inner();
        let mut params: Vec<(String, String)> = parameters.into_iter().collect();
        params.sort_unstable();
        let (id, wish) = (id_of("id", id)?, Wish { from, params });
        let (row, started) = self.fleet.rerun(&id, wish, &parameter_folder, &idempotency_key, caller).await?;
        Ok(Response::new(v1::RerunRunResponse { run: Some(self.run(row).await?), started }))
    }

    async fn list_steps(
        &self,
        request: Request<v1::ListStepsRequest>,
    ) -> Result<Response<v1::ListStepsResponse>, Status> {
        let v1::ListStepsRequest { run_id, page_size, page_token } = request.into_inner();
        let (id, size) = (id_of("run_id", run_id)?, page_of(page_size)?);
        let first = match page_token.as_str() {
            "" => 0,
            token => token.parse().map_err(|_| wrong("page_token", "it is none that a response gave"))?,
        };
        let all = convert::steps(self.fleet.store().as_ref(), &id).await.map_err(refused)?;
        let next = usize::saturating_add(first, size);
        let next_page_token = if next < all.len() { next.to_string() } else { String::new() };
        let steps = all.into_iter().skip(first).take(size).collect();
        Ok(Response::new(v1::ListStepsResponse { steps, next_page_token }))
    }

    async fn explain_step(
        &self,
        request: Request<v1::ExplainStepRequest>,
    ) -> Result<Response<v1::ExplainStepResponse>, Status> {
        let v1::ExplainStepRequest { run_id, step } = request.into_inner();
        let standing = self.fleet.standing(&id_of("run_id", run_id)?, &step).await?;
        let wait = |wait: Wait| v1::StepWait {
            kind: wait.kind.name().to_owned(),
            words: swath_store::redact(&wait.words()).into_owned(),
            since: Some(time(wait.since)),
            until: wait.until.map(time),
        };
        Ok(Response::new(v1::ExplainStepResponse {
            state: standing.state.to_owned(),
            instances_ended: standing.done.0,
            instances: standing.done.1,
            waits_for: standing.waits_for.into_iter().map(wait).collect(),
        }))
    }

    type ReadLogsStream = Answers<v1::ReadLogsResponse>;

    async fn read_logs(&self, request: Request<v1::ReadLogsRequest>) -> Result<Response<Self::ReadLogsStream>, Status> {
        let v1::ReadLogsRequest { run_id, step, after, follow } = request.into_inner();
        let id = id_of("run_id", run_id)?;
        self.fleet.store().run_row(&id).await.map_err(refused)?;
        let filter = LogFilter { step: Some(step).filter(|step| !step.is_empty()), after, limit: Some(BATCH) };
        let (lines, answers) = mpsc::channel(AHEAD);
        tokio::spawn(read_logs(self.fleet.clone(), id, filter, follow, lines));
        Ok(Response::new(stream(answers)))
    }
}

/// How many are on a page, when `page_size` is asked for.
fn page_of(page_size: i32) -> Result<usize, Status> {
    match page_size {
        0 => Ok(PAGE as usize),
        1..=MOST => Ok(page_size as usize),
        _ => Err(wrong("page_size", format!("it is from 1 to {MOST}, or 0 for {PAGE}"))),
    }
}

/// A place in the list of runs, as clients carry it from page to page.
fn token(cursor: RunCursor) -> String {
    format!("{:x}.{:x}", cursor.created_at, cursor.number)
}

fn cursor(token: &str) -> Option<RunCursor> {
    let (created_at, number) = token.split_once('.')?;
    let created_at = i64::from_str_radix(created_at, 16).ok()?;
    Some(RunCursor { created_at, number: u64::from_str_radix(number, 16).ok()? })
}

fn stream<T: Send + 'static>(mut answers: mpsc::Receiver<Result<T, Status>>) -> Answers<T> {
    Box::pin(futures::stream::poll_fn(move |context| answers.poll_recv(context)))
}

fn stopping() -> Status {
    Status::unavailable("the server stops: ask the next one for what follows")
}

/// Whether somebody drives a run on, or it waits for its turn.
async fn goes_on(fleet: &Fleet, row: &RunRow) -> Result<bool, Status> {
    if row.state == RunState::Pending.name() {
        return Ok(true);
    }
    Ok(is_live(row) && fleet.store().run_holder(&row.id).await.map_err(refused)?.is_some())
}

/// Sends events as they come, until the run has ended or nobody listens.
async fn watch(fleet: Fleet, id: String, mut after: u64, events: mpsc::Sender<Result<v1::WatchRunResponse, Status>>) {
    let mut changes = fleet.changes().subscribe(&id);
    let work = async {
        loop {
            changes.mark_unchanged();
            // Asked before the events are read: what is written until it ends is seen.
            let row = fleet.store().run_row(&id).await.map_err(refused)?;
            let goes_on = goes_on(&fleet, &row).await?;
            // Most changes are of other runs; one that has ended may have written since it was looked at.
            while row.seq > after || !goes_on {
                let batch = fleet.store().load_events(&id, after, BATCH).await.map_err(refused)?;
                let whole = batch.len() == BATCH as usize;
                for stored in batch {
                    after = stored.seq;
                    let answer = v1::WatchRunResponse { event: Some(convert::event(stored)) };
                    if events.send(Ok(answer)).await.is_err() {
                        return Ok(());
                    }
                }
                if !whole {
                    break;
                }
            }
            if !goes_on {
                return Ok(());
            }
            tokio::select! {
                _ = changes.changed() => tokio::time::sleep(TOGETHER).await,
                () = tokio::time::sleep(LOOK) => {}
                () = events.closed() => return Ok(()),
                () = fleet.drained() => return Err(stopping()),
            }
        }
    };
    let ended: Result<(), Status> = work.await;
    if let Err(status) = ended {
        // Nobody may listen any more.
        let _ = events.send(Err(status)).await;
    }
}

/// Sends log lines, and with `follow` those to come.
async fn read_logs(
    fleet: Fleet,
    id: String,
    mut filter: LogFilter,
    follow: bool,
    lines: mpsc::Sender<Result<v1::ReadLogsResponse, Status>>,
) {
    let work = async {
        let mut last = !follow;
        loop {
            let goes_on = !last && goes_on(&fleet, &fleet.store().run_row(&id).await.map_err(refused)?).await?;
            loop {
                let batch = fleet.store().read_logs(&id, &filter).await.map_err(refused)?;
                let whole = batch.len() == BATCH as usize;
                for stored in batch {
                    filter.after = stored.id;
                    let answer = v1::ReadLogsResponse {
                        position: stored.id,
                        at: Some(time(stored.line.at)),
                        step: stored.step,
                        instance: stored.instance,
                        attempt: stored.attempt,
                        level: stored.line.level,
                        message: stored.line.message,
                        dropped: stored.dropped,
                    };
                    if lines.send(Ok(answer)).await.is_err() {
                        return Ok(());
                    }
                }
                if !whole {
                    break;
                }
            }
            if last {
                return Ok(());
            }
            // Lines are carried into the store a few times a second, the last ones when the run has ended.
            last = !goes_on;
            tokio::select! {
                () = tokio::time::sleep(LOOK / 2) => {}
                () = lines.closed() => return Ok(()),
                () = fleet.drained() => return Err(stopping()),
            }
        }
    };
    let ended: Result<(), Status> = work.await;
    if let Err(status) = ended {
        // Nobody may listen any more.
        let _ = lines.send(Err(status)).await;
    }
}
