//! An MLflow server, by its REST API 2.0.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use swath_access::{Body, Client, Limits, Request};
use swath_task::{Bytes, Fault, TaskError};
use url::Url;

use crate::entry::{Fact, SINCE_TAG, State, Version};
use crate::report::UNSENT_RUN;
use crate::settings::{Credentials, Pace};
use crate::sink::{Run, Sink, Trouble};
use crate::spool::Head;

/// The tag by which a run is found again whose making was not answered.
const SPOOL_TAG: &str = "swath.spool";

/// A server, and what opens it.
pub(crate) struct Mlflow {
    base: Url,
    authorization: Option<String>,
    client: Client,
}

/// What MLflow says when it refuses.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error_code: String,
    message: String,
}

#[derive(Deserialize)]
struct ExperimentAnswer {
    experiment: Experiment,
}

#[derive(Deserialize)]
struct Experiment {
    experiment_id: String,
    #[serde(default)]
    lifecycle_stage: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ExperimentsAnswer {
    experiments: Vec<Experiment>,
}

#[derive(Deserialize)]
struct CreatedExperiment {
    experiment_id: String,
}

#[derive(Deserialize)]
struct RunAnswer {
    run: FoundRun,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RunsAnswer {
    runs: Vec<FoundRun>,
}

#[derive(Deserialize)]
struct FoundRun {
    info: RunInfo,
}

#[derive(Deserialize)]
struct RunInfo {
    run_id: String,
    experiment_id: String,
    artifact_uri: String,
    #[serde(default)]
    lifecycle_stage: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VersionsAnswer {
    model_versions: Vec<ModelVersion>,
}

#[derive(Deserialize)]
struct VersionAnswer {
    model_version: ModelVersion,
}

#[derive(Deserialize)]
struct ModelVersion {
    version: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

impl ModelVersion {
    fn since(&self) -> Option<&str> {
        self.tags.iter().find(|tag| tag.key == SINCE_TAG).map(|tag| tag.value.as_str())
    }
}

impl Mlflow {
    pub(crate) fn new(base: Url, credentials: Credentials, pace: &Pace) -> Result<Self, Fault> {
        let limits = Limits {
            connect: pace.answer.min(Limits::default().connect),
            first_byte: pace.answer,
            idle: pace.answer,
            total: pace.answer * 2,
            body: Bytes::mib(16),
            ..Limits::default()
        };
        let client = Client::new(limits).map_err(fault)?;
        let authorization = match credentials {
            Credentials::None => None,
            Credentials::Token(token) => Some(format!("Bearer {token}")),
            Credentials::User(user, password) => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
        };
        Ok(Self { base, authorization, client })
    }

    /// What version of MLflow answers, once the credentials were taken.
    pub(crate) async fn version(&self) -> Result<String, Trouble> {
        let asked = Request::get(&self.address("version")).map_err(passing)?;
        let answer = self.done(asked).await?;
        let version = String::from_utf8_lossy(answer.text()).trim().to_owned();
        if version.is_empty() || version.len() > 40 || !version.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(Trouble::Blocked(self.stranger("tells no version")));
        }
        self.post::<Value>("experiments/search", &json!({ "max_results": 1 })).await?;
        Ok(version)
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, Trouble> {
        let mut url = Url::parse(&self.address(&format!("api/2.0/mlflow/{path}"))).map_err(|error| {
            Trouble::Blocked(self.stranger(&format!("has an address that cannot be asked: {error}")))
        })?;
        url.query_pairs_mut().extend_pairs(query);
        let answer = self.done(Request::get(url.as_str()).map_err(passing)?).await?;
        answer.json().map_err(passing)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Trouble> {
        let request = Request::post(&self.address(&format!("api/2.0/mlflow/{path}")), body).map_err(passing)?;
        self.done(request).await?.json().map_err(passing)
    }

    /// Sends a request; an answer that is not a success is what it means.
    async fn done(&self, mut request: Request) -> Result<Body, Trouble> {
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization).map_err(passing)?;
        }
        let address = request.url().clone();
        let answer = self.client.fetch_any(request).await.map_err(passing)?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(self.refusal(&answer, &address))
    }

    fn refusal(&self, answer: &Body, address: &Url) -> Trouble {
        let said: Option<Refusal> = serde_json::from_slice(answer.text()).ok();
        let said = said.filter(|said| !said.error_code.is_empty());
        let failure = answer.failure(address);
        let words = said.as_ref().map_or_else(|| told(&failure), |said| one_line(&said.message));
        let code = said.as_ref().map_or("", |said| said.error_code.as_str());
        match (answer.status.as_u16(), code, failure) {
            (401 | 403, ..) => Trouble::Blocked(
                Fault::new("K106", format!("the tracking server `{}` refuses the credentials: {words}", self.base))
                    .help("set `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`, of who may write to this experiment"),
            ),
            (_, _, TaskError::Transient { fault, retry_after }) => Trouble::Passing { fault, wait: retry_after },
            // A server that lacks the path knows nothing of runs.
            (404 | 405 | 501, "" | "ENDPOINT_NOT_FOUND", _) => {
                Trouble::Blocked(self.stranger(&format!("does not know its interface: {words}")))
            }
            (404, ..) | (_, "RESOURCE_DOES_NOT_EXIST", _) => Trouble::Blocked(gone(&words)),
            _ => Trouble::Refused(Fault::new("K108", words)),
        }
    }

    fn stranger(&self, what: &str) -> Fault {
        Fault::new("K110", format!("`{}` is not an MLflow server: it {what}", self.base))
            .help("give the address that MLflow's page opens at, without what follows `#`")
    }

    fn found(&self, info: RunInfo) -> Result<Run, Trouble> {
        if info.lifecycle_stage == "deleted" {
            let message = format!("the run `{}` was deleted on the tracking server", info.run_id);
            let help = format!("restore it: mlflow runs restore --run-id {}", info.run_id);
            return Err(Trouble::Blocked(Fault::new("K107", message).help(help)));
        }
        let page = format!("{}#/experiments/{}/runs/{}", self.base, info.experiment_id, info.run_id);
        Ok(Run { experiment: info.experiment_id, id: info.run_id, artifacts: info.artifact_uri, page })
    }

    async fn experiment(&self, name: &str) -> Result<String, Trouble> {
        for _ in 0..3 {
            match self.get::<ExperimentAnswer>("experiments/get-by-name", &[("experiment_name", name)]).await {
                Ok(ExperimentAnswer { experiment }) if experiment.lifecycle_stage == "deleted" => {
                    let message = format!("the experiment `{name}` was deleted on the tracking server");
                    let help = format!("restore it: mlflow experiments restore -x {}", experiment.experiment_id);
                    return Err(Trouble::Blocked(Fault::new("K107", message).help(help)));
                }
                Ok(ExperimentAnswer { experiment }) => return Ok(experiment.experiment_id),
                Err(Trouble::Blocked(fault)) if fault.code == "K107" => {}
                Err(other) => return Err(other),
            }
            // What MLflow calls an experiment of trainings, not of language models.
            let kind = pair(("mlflow.experimentKind", "custom_model_development"));
            let asked = json!({ "name": name, "tags": [kind] });
            match self.post::<CreatedExperiment>("experiments/create", &asked).await {
                Ok(CreatedExperiment { experiment_id }) => return Ok(experiment_id),
                // Another training was faster: it is there now.
                Err(Trouble::Refused(_)) => {}
                Err(other) => return Err(other),
            }
        }
        let message = format!("the experiment `{name}` is neither there nor can it be made");
        Err(Trouble::Blocked(Fault::new("K107", message).help("make it on the page of the server")))
    }

    /// The run of a spool, among the runs of these experiments.
    async fn of_spool(&self, id: &str, experiments: &[String]) -> Result<Option<Run>, Trouble> {
        let filter = format!("tags.`{SPOOL_TAG}` = '{id}'");
        let asked = json!({ "experiment_ids": experiments, "filter": filter, "max_results": 1 });
        let made: RunsAnswer = self.post("runs/search", &asked).await?;
        made.runs.into_iter().next().map(|run| self.found(run.info)).transpose()
    }

    /// The run of another spool, which may not have been sent yet.
    async fn of_other_spool(&self, id: &str) -> Result<Run, Trouble> {
        let all: ExperimentsAnswer = self.post("experiments/search", &json!({ "max_results": 10_000 })).await?;
        let all: Vec<String> = all.experiments.into_iter().map(|experiment| experiment.experiment_id).collect();
        self.of_spool(id, &all).await?.ok_or_else(|| {
            let message = format!(
                "the training whose run has the tag `{SPOOL_TAG}` `{id}` has told nothing to `{}` yet",
                self.base
            );
            let help = "send what waits of it: `swath tracking send FOLDER`";
            Trouble::Blocked(Fault::new("K111", message).help(help))
        })
    }

    /// A request for a run was refused: because of the run or because of what it carries?
    async fn refused(&self, run: &Run, fault: Fault) -> Trouble {
        match self
            .get::<RunAnswer>("runs/get", &[("run_id", &run.id)])
            .await
            .and_then(|answer| self.found(answer.run.info))
        {
            Ok(_) => Trouble::Refused(fault),
            Err(trouble) => trouble,
        }
    }

    fn number(&self, version: &ModelVersion) -> Result<u32, Trouble> {
        let number = &version.version;
        number.parse().map_err(|_| Trouble::Blocked(self.stranger(&format!("numbers a model's version `{number}`"))))
    }

    /// Where an artifact is put: servers that hand out the addresses of a bucket or a disk take none themselves.
    fn upload(&self, run: &Run, to: &str) -> Result<String, Trouble> {
        let Some(path) = run.artifacts.strip_prefix("mlflow-artifacts:") else {
            let scheme = run.artifacts.split(':').next().unwrap_or_default();
            let message = format!("the tracking server takes in no files, it keeps them at `{scheme}:`");
            return Err(Trouble::Refused(
                Fault::new("K109", message).help("start it with `--serve-artifacts`, for a new experiment"),
            ));
        };
        // `mlflow-artifacts:/path`, or `mlflow-artifacts://host:port/path` of this server.
        let path = path.strip_prefix("//").map_or(path, |rest| rest.split_once('/').map_or("", |(_, path)| path));
        let mut url = self.base.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(["api", "2.0", "mlflow-artifacts", "artifacts"]);
            parts.extend(path.split('/').chain(to.split('/')).filter(|part| !part.is_empty()));
        }
        Ok(url.into())
    }
}

impl Sink for Mlflow {
    async fn run(&mut self, head: &Head) -> Result<Run, Trouble> {
        if let Some(id) = &head.joined {
            if let Some(spool) = id.strip_prefix(UNSENT_RUN) {
                return self.of_other_spool(spool).await;
            }
            let answer: RunAnswer = self.get("runs/get", &[("run_id", id)]).await?;
            return self.found(answer.run.info);
        }
        let experiment = self.experiment(&head.experiment).await?;
        if let Some(run) = self.of_spool(&head.id, std::slice::from_ref(&experiment)).await? {
            return Ok(run);
        }
        let own = [("mlflow.source.name", "swath"), ("mlflow.source.type", "LOCAL"), (SPOOL_TAG, head.id.as_str())];
        let given = head.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let tags: Vec<Value> = own.into_iter().chain(given).map(pair).collect();
        let asked = json!({
            "experiment_id": experiment,
            "run_name": head.name,
            "start_time": head.created,
            "tags": tags,
        });
        let answer: RunAnswer = self.post("runs/create", &asked).await?;
        self.found(answer.run.info)
    }

    async fn facts(&mut self, run: &Run, facts: &[Fact]) -> Result<(), Trouble> {
        let (mut metrics, mut params, mut tags) = (Vec::new(), Vec::new(), Vec::new());
        for fact in facts {
            match fact {
                Fact::Metric { key, value, step, at } => {
                    metrics.push(json!({ "key": key, "value": number(*value), "timestamp": at, "step": step }));
                }
                Fact::Param { key, value } => params.push(pair((key, value))),
                Fact::Tag { key, value } => tags.push(pair((key, value))),
            }
        }
        let asked = json!({ "run_id": run.id, "metrics": metrics, "params": params, "tags": tags });
        match self.post::<Value>("runs/log-batch", &asked).await {
            Ok(_) => Ok(()),
            Err(Trouble::Refused(fault)) => Err(self.refused(run, fault).await),
            Err(other) => Err(other),
        }
    }

    async fn artifact(&mut self, run: &Run, file: &Path, to: &str) -> Result<(), Trouble> {
        let address = self.upload(run, to)?;
        let open = || -> std::io::Result<_> {
            let file = std::fs::File::open(file)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        let (content, size) = open().map_err(|error| {
            Trouble::Refused(Fault::new("K109", format!("`{}` cannot be read: {error}", file.display())))
        })?;
        match self.done(Request::put(&address, content, size).map_err(passing)?).await {
            Ok(_) => Ok(()),
            Err(Trouble::Refused(fault)) => Err(self.refused(run, Fault { code: "K109".into(), ..fault }).await),
            Err(other) => Err(other),
        }
    }

    async fn find_version(&mut self, run: &Run, model: &str, source: &str) -> Result<Option<u32>, Trouble> {
        let source = source_of(run, source);
        let filter = format!("name = '{model}' and run_id = '{}'", run.id);
        let made: VersionsAnswer =
            self.get("model-versions/search", &[("filter", &filter), ("max_results", "1000")]).await?;
        let found = made.model_versions.into_iter().find(|made| made.source == source);
        found.map(|found| self.number(&found)).transpose()
    }

    async fn add_version(&mut self, run: &Run, version: &Version, source: &str) -> Result<u32, Trouble> {
        let Version { name, about, tags, .. } = version;
        let asked = json!({ "name": name, "description": about });
        match self.post::<Value>("registered-models/create", &asked).await {
            // One that is there already is what was wanted; whether it is, the next request tells.
            Ok(_) | Err(Trouble::Refused(_)) => {}
            Err(other) => return Err(other),
        }
        let tags: Vec<Value> = tags.iter().map(pair).collect();
        let source = source_of(run, source);
        let asked = json!({ "name": name, "source": source, "run_id": run.id, "description": about, "tags": tags });
        let made: VersionAnswer = self.post("model-versions/create", &asked).await?;
        self.number(&made.model_version)
    }

    async fn point(&mut self, alias: &str, number: u32, version: &Version) -> Result<(), Trouble> {
        let (name, to) = (version.name.as_str(), number.to_string());
        let holder = match self.get("registered-models/alias", &[("name", name), ("alias", alias)]).await {
            Ok(VersionAnswer { model_version }) => Some(model_version),
            // It points to nothing.
            Err(Trouble::Refused(_)) => None,
            Err(Trouble::Blocked(fault)) if fault.code == "K107" => None,
            Err(other) => return Err(other),
        };
        if holder.is_some_and(|holder| version.comes_late(holder.since())) {
            return Ok(());
        }
        let since = json!({ "name": name, "version": to, "key": SINCE_TAG, "value": version.since.to_string() });
        self.post::<Value>("model-versions/set-tag", &since).await?;
        let asked = json!({ "name": name, "alias": alias, "version": to });
        self.post::<Value>("registered-models/alias", &asked).await.map(drop)
    }

    async fn state(&mut self, run: &Run, state: State, at: i64) -> Result<(), Trouble> {
        let mut asked = json!({ "run_id": run.id, "status": state.name() });
        if state != State::Running {
            asked["end_time"] = at.into();
        }
        match self.post::<Value>("runs/update", &asked).await {
            Ok(_) => Ok(()),
            Err(Trouble::Refused(fault)) => Err(self.refused(run, fault).await),
            Err(other) => Err(other),
        }
    }
}

/// The artifacts of a run below a folder, as a URI of MLflow's.
fn source_of(run: &Run, folder: &str) -> String {
    format!("{}/{folder}", run.artifacts.trim_end_matches('/'))
}

/// A number as protobuf writes it in JSON, which has no words for these.
fn number(value: f64) -> Value {
    if value.is_finite() {
        value.into()
    } else if value.is_nan() {
        "NaN".into()
    } else if value > 0.0 {
        "Infinity".into()
    } else {
        "-Infinity".into()
    }
}

fn pair((key, value): (impl AsRef<str>, impl AsRef<str>)) -> Value {
    json!({ "key": key.as_ref(), "value": value.as_ref() })
}

fn gone(words: &str) -> Fault {
    Fault::new("K107", format!("the tracking server no longer has the run or its experiment: {words}"))
        .help("restore it there, or remove the spool folder to begin a new run")
}

fn passing(error: TaskError) -> Trouble {
    match error {
        TaskError::Transient { fault, retry_after } => Trouble::Passing { fault, wait: retry_after },
        TaskError::Permanent(fault) => Trouble::Blocked(fault),
        TaskError::Cancelled => Trouble::Blocked(Fault::new("K105", "the request was cancelled")),
    }
}

fn fault(error: TaskError) -> Fault {
    match passing(error) {
        Trouble::Passing { fault, .. } | Trouble::Blocked(fault) | Trouble::Refused(fault) => fault,
    }
}

fn told(error: &TaskError) -> String {
    match error {
        TaskError::Transient { fault, .. } | TaskError::Permanent(fault) => fault.message.clone(),
        TaskError::Cancelled => "cancelled".to_owned(),
    }
}

/// At most 300 characters of what a server said, on one line, without the advice that follows.
fn one_line(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.split(" The cause of this error is typically").next().unwrap_or_default();
    let short: String = line.chars().take(300).collect();
    short.trim_end_matches('.').to_owned()
}
