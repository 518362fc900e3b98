//! `swath schema`: the JSON Schema of a flow, and the reference made from it.

use std::path::Path;
use std::process::ExitCode;

use swath_plan::Catalogue;

use crate::arguments::Schema;
use crate::failure::Failure;

pub(crate) fn run(command: Schema, catalogue: &Catalogue) -> Result<ExitCode, Failure> {
    let schema = swath_plan::flow_schema(catalogue);
    let Some(folder) = &command.reference else {
        super::print_json(&schema)?;
        return Ok(ExitCode::SUCCESS);
    };
    let mut files = swath_plan::reference_pages(catalogue);
    let text = serde_json::to_string_pretty(&schema).map_err(|error| Failure::Usage(error.to_string()))?;
    files.push(("flow.schema.json".to_owned(), format!("{text}\n")));
    if command.check {
        return check(folder, &files);
    }
    std::fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))?;
    for (name, text) in &files {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| Failure::io("write", &path, &error))?;
    }
    for stale in stale(folder, &files)? {
        let path = folder.join(stale);
        std::fs::remove_file(&path).map_err(|error| Failure::io("remove", &path, &error))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check(folder: &Path, files: &[(String, String)]) -> Result<ExitCode, Failure> {
    let differs =
        |(name, text): &&(String, String)| std::fs::read_to_string(folder.join(name)).ok().as_ref() != Some(text);
    let mut wrong: Vec<String> = files.iter().filter(differs).map(|(name, _)| name.clone()).collect();
    wrong.extend(stale(folder, files)?);
    if wrong.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let message = format!("not up to date: {}; run `swath schema --reference {}`", wrong.join(", "), folder.display());
    Err(Failure::Usage(message))
}

/// Files of the folder that no task has any more.
fn stale(folder: &Path, files: &[(String, String)]) -> Result<Vec<String>, Failure> {
    let listed = std::fs::read_dir(folder).map_err(|error| Failure::io("read", folder, &error))?;
    let names = listed.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    Ok(names.filter(|name| !files.iter().any(|(file, _)| file == name)).collect())
}
