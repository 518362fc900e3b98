//! Flows as texts: reading and planning them as the command line does, from the folder they came from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use swath_flow::{Diagnostic, Diagnostics, Source};
use swath_host::launch;
use swath_plan::{Catalogue, Given, Plan, PlanInput};
use swath_task::Digest;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::convert::wrong;
use crate::v1;

/// A flow as a request gives it.
pub struct Text {
    text: String,
    source: String,
    params: Vec<(String, Given)>,
    params_folder: PathBuf,
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
        let mut params: Vec<_> = params.into_iter().map(|(name, value)| (name, Given::Text(value))).collect();
        params.sort_by(|one, other| one.0.cmp(&other.0));
        let params_folder = Path::new(&source).parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self { text, source, params, params_folder })
    }

    /// The same with relative paths among its parameters starting from `folder`, unless that is empty.
    pub fn with_params_from(self, folder: String) -> Result<Self, Status> {
        match folder.as_str() {
            "" => Ok(self),
            folder if Path::new(folder).is_absolute() => Ok(Self { params_folder: folder.into(), ..self }),
            _ => Err(wrong("parameter_folder", "an absolute path is needed")),
        }
    }

    /// What tells this request from another.
    pub fn digest(&self) -> String {
        let params: Vec<(&str, String)> =
            self.params.iter().map(|(name, value)| (name.as_str(), format!("{value:?}"))).collect();
        let whole = serde_json::json!([self.text, self.source, params, self.params_folder]);
        Digest::of(whole.to_string().as_bytes()).hex()
    }

    fn input<T>(&self, catalogue: &Catalogue, now: Timestamp, with: impl FnOnce(PlanInput<'_>) -> T) -> T {
        let folder = Path::new(&self.source).parent().unwrap_or(Path::new("/"));
        let load = |path: &Path| launch::read_text(path).map_err(|error| error.to_string());
        with(PlanInput {
            catalogue,
            params: &self.params,
            params_folder: &self.params_folder,
            folder,
            now,
            load: &load,
        })
    }

    /// Everything that is wrong.
    pub fn check(&self, catalogue: &Catalogue) -> Vec<Diagnostic> {
        let reading = swath_flow::read(&self.source, self.text.as_bytes());
        let mut problems = Diagnostics::default();
        reading.diagnostics.into_iter().for_each(|problem| problems.push(problem));
        if let Some(flow) = &reading.flow {
            let more = self.input(catalogue, Timestamp::now(), |input| swath_plan::check(flow, input));
            more.into_iter().for_each(|problem| problems.push(problem));
        }
        problems.into_vec()
    }

    /// The plan with the text it is pinned to, or everything that is wrong.
    pub fn plan(&self, catalogue: &Catalogue, now: Timestamp) -> Result<(Plan, Arc<Source>), Vec<Diagnostic>> {
        let reading = swath_flow::read(&self.source, self.text.as_bytes());
        match &reading.flow {
            Some(flow) if reading.diagnostics.is_empty() => {
                let plan = self.input(catalogue, now, |input| swath_plan::plan(flow, input))?;
                Ok((plan, flow.source.clone()))
            }
            _ => Err(self.check(catalogue)),
        }
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
