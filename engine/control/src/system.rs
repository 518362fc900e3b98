//! The system service.

use jiff::Timestamp;
use tonic::{Request, Response, Status};

use crate::convert::time;
use crate::fleet::Fleet;
use crate::v1;

/// The system service.
pub struct SystemService {
    pub fleet: Fleet,
    pub started: Timestamp,
}

#[tonic::async_trait]
impl v1::system_service_server::SystemService for SystemService {
    async fn get_info(&self, _request: Request<v1::GetInfoRequest>) -> Result<Response<v1::GetInfoResponse>, Status> {
        Ok(Response::new(v1::GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Some(time(self.started.as_millisecond())),
            store: self.fleet.store().place(),
            live_runs: u32::try_from(self.fleet.live()).unwrap_or(u32::MAX),
            waiting_runs: u32::try_from(self.fleet.waiting()).unwrap_or(u32::MAX),
            draining: self.fleet.is_draining(),
        }))
    }
}
