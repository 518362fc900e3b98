//! The task service.

use std::sync::Arc;

use swath_plan::Catalogue;
use tonic::{Request, Response, Status};

use crate::v1;

/// The task service.
pub struct TaskService {
    pub catalogue: Arc<Catalogue>,
}

#[tonic::async_trait]
impl v1::task_service_server::TaskService for TaskService {
    async fn list_tasks(
        &self,
        _request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let tasks = self.catalogue.tasks().map(|known| v1::Task {
            name: known.definition.name.to_owned(),
            version: known.definition.version,
            about: known.schema()["description"].as_str().unwrap_or_default().to_owned(),
            parameters_json: known.schema().to_string(),
        });
        Ok(Response::new(v1::ListTasksResponse { tasks: tasks.collect() }))
    }
}
