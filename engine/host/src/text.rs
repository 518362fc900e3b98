//! The text of a flow on its way to a plan: read once, then checked, drawn or planned with what is asked of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use swath_flow::{Diagnostic, Diagnostics, Flow, Reading, Source};
use swath_plan::{Catalogue, Given, Plan, PlanInput};
use swath_schedule::Fire;

use crate::launch::read_text;

/// Texts of files by their absolute paths.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The text of a flow, and where it is from.
pub struct FlowText {
    /// As the user named it.
    pub name: String,
    /// Absolute folder that relative paths in it start from.
    pub folder: PathBuf,
    /// The text.
    pub bytes: Vec<u8>,
    reading: Reading,
    /// The flows it runs as steps, where they are pinned: files are not looked at then.
    pinned: Option<Files>,
}

/// What is asked of a flow.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Parameters by name.
    pub params: Vec<(String, Given)>,
    /// The folder that relative paths among them start from.
    pub params_folder: PathBuf,
    /// The fire of a schedule that starts the run.
    pub fire: Option<Fire>,
}

impl Asked {
    /// Parameters as they are written on a command line.
    pub fn of(params: impl IntoIterator<Item = (String, String)>, params_folder: impl Into<PathBuf>) -> Self {
        let params = params.into_iter().map(|(name, value)| (name, Given::Text(value))).collect();
        Self { params, params_folder: params_folder.into(), fire: None }
    }
}

impl FlowText {
    /// Reads a text. What is wrong with it is told when it is checked or planned.
    pub fn new(name: impl Into<String>, folder: impl Into<PathBuf>, bytes: Vec<u8>) -> Self {
        let name = name.into();
        let reading = swath_flow::read(&name, &bytes);
        Self { name, folder: folder.into(), bytes, reading, pinned: None }
    }

    /// The same with the flows that it runs as steps taken from `files`.
    pub fn pinned_to(self, files: Files) -> Self {
        Self { pinned: Some(files), ..self }
    }

    /// The flow, as far as it could be understood.
    pub fn flow(&self) -> Option<&Flow> {
        self.reading.flow.as_ref()
    }

    /// The source that a run is pinned to.
    pub fn source(&self) -> &Arc<Source> {
        &self.reading.source
    }

    /// Everything that is wrong. Parameters that are required and not given are no mistake here.
    pub fn check(&self, asked: &Asked, catalogue: &Catalogue, now: Timestamp) -> Vec<Diagnostic> {
        let mut problems = Diagnostics::default();
        self.reading.diagnostics.iter().cloned().for_each(|problem| problems.push(problem));
        if let Some(flow) = self.flow() {
            let (more, _) = self.with_input(asked, catalogue, now, |input| swath_plan::check(flow, input));
            more.into_iter().for_each(|problem| problems.push(problem));
        }
        problems.into_vec()
    }

    /// The plan, or everything that is wrong. `now` is what relative periods count from.
    pub fn plan(&self, asked: &Asked, catalogue: &Catalogue, now: Timestamp) -> Result<Plan, Vec<Diagnostic>> {
        self.plan_with_files(asked, catalogue, now).map(|(plan, _)| plan)
    }

    /// The plan with the texts of the flows that it runs as steps, or everything that is wrong.
    pub fn plan_with_files(
        &self,
        asked: &Asked,
        catalogue: &Catalogue,
        now: Timestamp,
    ) -> Result<(Plan, Files), Vec<Diagnostic>> {
        let flow = self.sound().ok_or_else(|| self.check(asked, catalogue, now))?;
        let (planned, files) = self.with_input(asked, catalogue, now, |input| swath_plan::plan(flow, input));
        planned.map(|plan| (plan, files))
    }

    /// A plan for drawing: required parameters may lack a value.
    pub fn sketch(&self, asked: &Asked, catalogue: &Catalogue, now: Timestamp) -> Result<Plan, Vec<Diagnostic>> {
        let flow = self.sound().ok_or_else(|| self.check(asked, catalogue, now))?;
        self.with_input(asked, catalogue, now, |input| swath_plan::sketch(flow, input)).0
    }

    fn sound(&self) -> Option<&Flow> {
        self.flow().filter(|_| self.reading.diagnostics.is_empty())
    }

    fn with_input<T>(
        &self,
        asked: &Asked,
        catalogue: &Catalogue,
        now: Timestamp,
        with: impl FnOnce(PlanInput<'_>) -> T,
    ) -> (T, Files) {
        let files = RefCell::new(Files::new());
        let load = |path: &Path| {
            let text = match &self.pinned {
                Some(pinned) => {
                    pinned.get(path).cloned().ok_or("it is not among the files that were deployed".to_owned())
                }
                None => read_text(path).map_err(|error| error.to_string()),
            }?;
            files.borrow_mut().insert(path.to_owned(), text.clone());
            Ok(text)
        };
        let done = with(PlanInput {
            catalogue,
            params: &asked.params,
            params_folder: &asked.params_folder,
            folder: &self.folder,
            now,
            fire: asked.fire,
            load: &load,
        });
        (done, files.into_inner())
    }
}
