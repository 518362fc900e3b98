//! The artifact service.

use std::io::{Read, Seek, SeekFrom};
use std::pin::Pin;

use futures::Stream;
use serde_json::Value;
use swath_host::artifacts_in;
use swath_store::Lineage;
use swath_task::{ArtifactRecord, Digest};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use crate::convert::{refused, time, wrong};
use crate::fleet::{Fleet, id_of};
use crate::v1;

/// Bytes of one part.
const PART: usize = 256 << 10;
/// Parts that wait for a slow client.
const AHEAD: usize = 4;

/// The artifact service.
pub struct ArtifactService {
    pub fleet: Fleet,
}

fn artifact(record: &ArtifactRecord) -> v1::Artifact {
    v1::Artifact {
        kind: record.kind.clone(),
        name: record.name.clone(),
        digest: record.digest.to_string(),
        size: record.size,
    }
}

fn holder(lineage: Lineage) -> v1::Holder {
    v1::Holder {
        run_id: lineage.run,
        step: lineage.step,
        instance: lineage.instance,
        attempt: lineage.attempt,
        at: Some(time(lineage.at)),
    }
}

fn digest_of(text: &str) -> Result<Digest, Status> {
    text.parse().map_err(|_| wrong("digest", "it is written `blake3:` and 64 hexadecimal digits"))
}

impl ArtifactService {
    async fn lineage(&self, digest: &str) -> Result<Vec<Lineage>, Status> {
        let found = self.fleet.store().lineage(&digest_of(digest)?).await.map_err(refused)?;
        if found.is_empty() {
            return Err(Status::not_found(format!("no run that is kept has made or used the artifact {digest}")));
        }
        Ok(found)
    }
}

#[tonic::async_trait]
impl v1::artifact_service_server::ArtifactService for ArtifactService {
    async fn list_artifacts(
        &self,
        request: Request<v1::ListArtifactsRequest>,
    ) -> Result<Response<v1::ListArtifactsResponse>, Status> {
        let v1::ListArtifactsRequest { run_id, step } = request.into_inner();
        let run = id_of("run_id", run_id)?;
        let step = Some(step).filter(|step| !step.is_empty());
        let results = self.fleet.store().results(&run, step.as_deref()).await.map_err(refused)?;
        let mut artifacts = Vec::new();
        for result in results {
            let outputs: Value = serde_json::from_str(&result.outputs).unwrap_or_default();
            artifacts.extend(artifacts_in(&outputs).iter().map(|record| v1::list_artifacts_response::Held {
                artifact: Some(artifact(record)),
                holder: Some(v1::Holder {
                    run_id: run.clone(),
                    step: result.step.clone(),
                    instance: result.instance.clone(),
                    attempt: result.attempt,
                    at: Some(time(result.at)),
                }),
            }));
        }
        Ok(Response::new(v1::ListArtifactsResponse { artifacts }))
    }

    async fn get_lineage(
        &self,
        request: Request<v1::GetLineageRequest>,
    ) -> Result<Response<v1::GetLineageResponse>, Status> {
        let holders = self.lineage(&request.into_inner().digest).await?.into_iter().map(holder).collect();
        Ok(Response::new(v1::GetLineageResponse { holders }))
    }

    type ReadArtifactStream = Pin<Box<dyn Stream<Item = Result<v1::ReadArtifactResponse, Status>> + Send>>;

    async fn read_artifact(
        &self,
        request: Request<v1::ReadArtifactRequest>,
    ) -> Result<Response<Self::ReadArtifactStream>, Status> {
        let v1::ReadArtifactRequest { digest, offset } = request.into_inner();
        // What no result holds is not for anybody, whatever lies in the store.
        let record = self.lineage(&digest).await?.swap_remove(0).record;
        let path = self.fleet.artifacts().locate(&record).await.map_err(refused)?;
        if path.is_dir() {
            return Err(Status::failed_precondition(format!("`{}` is a folder: only files can be read", record.name)));
        }
        if offset > record.size {
            return Err(wrong("offset", format!("`{}` has {} bytes", record.name, record.size)));
        }
        let (parts, mut answers) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            let failed = |error: std::io::Error| Status::internal(format!("`{}`: {error}", path.display()));
            let send = |part: Result<v1::ReadArtifactResponse, Status>| parts.blocking_send(part).is_ok();
            let mut told = Some(artifact(&record));
            let mut read = || -> Result<(), Status> {
                let mut file = std::fs::File::open(&path).map_err(failed)?;
                file.seek(SeekFrom::Start(offset)).map_err(failed)?;
                loop {
                    let mut data = vec![0; PART];
                    let count = file.read(&mut data).map_err(failed)?;
                    data.truncate(count);
                    let last = count == 0;
                    if last && told.is_none() {
                        return Ok(());
                    }
                    if !send(Ok(v1::ReadArtifactResponse { artifact: told.take(), data })) || last {
                        return Ok(());
                    }
                }
            };
            if let Err(status) = read() {
                // Nobody may listen any more.
                send(Err(status));
            }
        });
        let stream = futures::stream::poll_fn(move |context| answers.poll_recv(context));
        Ok(Response::new(Box::pin(stream)))
    }
}
