//! Flows as texts: reading and planning them as the command line does, from the folder they came from.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use swath_flow::{Diagnostic, Source};
use swath_host::{Asked, FlowText, launch};
use swath_plan::{Catalogue, Plan};
use swath_task::Digest;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::convert::wrong;
use crate::v1;

/// A flow as a request gives it.
pub struct Text {
    flow: FlowText,
    source: String,
    params: Vec<(String, String)>,
    asked: Asked,
}

impl Text {
    /// From the fields of a request.
    pub fn new(
        text: String,
        source: String,
        params: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Status> {
        if text.is_empty() {
            return Err(wrong("flow_text", "the text of a flow is needed"));
        }
        if !Path::new(&source).is_absolute() {
            return Err(wrong(
                "source",
                "an absolute path is needed: relative paths in the flow start from its folder",
            ));
        }
        let mut params: Vec<_> = params.into_iter().collect();
        params.sort();
        let folder = Path::new(&source).parent().unwrap_or(Path::new("/")).to_owned();
        let asked = Asked::of(params.iter().cloned(), &folder);
        Ok(Self { flow: FlowText::new(&source, folder, text.into_bytes()), source, params, asked })
    }

    /// The same with relative paths among its parameters starting from `folder`, unless that is empty.
    pub fn with_params_from(mut self, folder: String) -> Result<Self, Status> {
        match folder.as_str() {
            "" => {}
            folder if Path::new(folder).is_absolute() => self.asked.params_folder = folder.into(),
            _ => return Err(wrong("parameter_folder", "an absolute path is needed")),
        }
        Ok(self)
    }

    /// The same for a run that covers `interval`, unless that is empty.
    pub fn covering(mut self, interval: &str, now: Timestamp) -> Result<Self, Status> {
        if !interval.is_empty() {
            self.asked.fire = Some(launch::interval(interval, now).map_err(|why| wrong("interval", why))?);
        }
        Ok(self)
    }

    /// What tells this request from another.
    pub fn digest(&self) -> String {
        let text = String::from_utf8_lossy(&self.flow.bytes);
        let fire = self.asked.fire.map(|fire| (fire.since.to_string(), fire.at.to_string()));
        let whole = serde_json::json!([text, self.source, self.params, self.asked.params_folder, fire]);
        Digest::of(whole.to_string().as_bytes()).hex()
    }

    /// Everything that is wrong.
    pub fn check(&self, catalogue: &Catalogue) -> Vec<Diagnostic> {
        self.flow.check(&self.asked, catalogue, Timestamp::now())
    }

    /// The plan with the text it is pinned to, or everything that is wrong.
    pub fn plan(&self, catalogue: &Catalogue, now: Timestamp) -> Result<(Plan, Arc<Source>), Vec<Diagnostic>> {
        Ok((self.flow.plan(&self.asked, catalogue, now)?, self.flow.source().clone()))
    }
}

/// Bytes of an error's details: they travel in a header, which clients bound.
const MOST_DETAILS: usize = 4 << 10;

/// What is wrong with a flow as a status: each diagnostic a violation whose field is its place.
pub fn refuse(problems: &[Diagnostic]) -> Status {
    let (mut details, mut left) = (ErrorDetails::new(), MOST_DETAILS);
    for report in problems.iter().map(Diagnostic::report) {
        let place = match (report.line, report.column) {
            (Some(line), Some(column)) => format!("flow_text:{line}:{column}"),
            _ => "flow_text".to_owned(),
        };
        let help = report.help.map(|help| format!(" ({help})")).unwrap_or_default();
        let told = format!("[{}] {}{help}", report.code, report.message);
        let Some(rest) = left.checked_sub(place.len() + told.len()) else {
            details.add_bad_request_violation("flow_text", "there are more: ValidateFlow tells all");
            break;
        };
        left = rest;
        details.add_bad_request_violation(place, told);
    }
    let count = problems.len();
    let message = format!("the flow has {count} mistake{}", if count == 1 { "" } else { "s" });
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// The flow service.
pub struct FlowService {
    pub catalogue: Arc<Catalogue>,
}

#[tonic::async_trait]
impl v1::flow_service_server::FlowService for FlowService {
    async fn validate_flow(
        &self,
        request: Request<v1::ValidateFlowRequest>,
    ) -> Result<Response<v1::ValidateFlowResponse>, Status> {
        let v1::ValidateFlowRequest { flow_text, source, parameters } = request.into_inner();
        let text = Text::new(flow_text, source, parameters)?;
        let catalogue = self.catalogue.clone();
        let problems = tokio::task::spawn_blocking(move || text.check(&catalogue)).await;
        let problems = problems.map_err(|error| Status::internal(error.to_string()))?;
        let diagnostics = problems.iter().map(Diagnostic::report).map(|report| v1::Diagnostic {
            code: report.code.to_owned(),
            line: report.line.map_or(0, |line| line as u32),
            column: report.column.map_or(0, |column| column as u32),
            message: report.message,
            help: report.help.unwrap_or_default(),
        });
        Ok(Response::new(v1::ValidateFlowResponse { diagnostics: diagnostics.collect() }))
    }
}
