//! A published version among MLflow's registered models, by `swath-tracking`.

use std::path::Path;
use std::time::SystemTime;

use swath_kinds::ModelManifest;
use swath_task::{Context, Digest, Problem};
use swath_tracking::{Error, NewVersion, State, TrackBy};

use crate::folder::json;

/// What is told of a version that was published.
pub(crate) struct Published<'a> {
    /// Its manifest, seen from the model's folder.
    pub manifest: &'a ModelManifest,
    /// Its folder.
    pub folder: &'a Path,
    /// What is to point to it: nothing where it is not served.
    pub alias: Option<&'a str>,
    /// When it was promoted.
    pub since: SystemTime,
}

/// What an alias is called in MLflow, or why not.
pub(crate) fn check_alias(alias: &str) -> Option<Problem> {
    let letters = alias.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    let number =
        alias.strip_prefix(['v', 'V']).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()));
    let right = letters && !number && (1..=255).contains(&alias.len()) && !alias.eq_ignore_ascii_case("latest");
    (!right).then(|| {
        Problem::new("/alias", format!("`{alias}` cannot be an alias in MLflow"))
            .help("an alias has letters, digits, `_` and `-`, is not `latest`, and no `v` with a number")
    })
}

impl Published<'_> {
    /// Registers it: in the run that trained it, where that is known here. Its number there; none while it waits to be sent.
    /// Nothing in here fails: the version is published. Nothing is waited for when the attempt is cancelled.
    pub fn register(&self, by: &TrackBy, ctx: &Context) -> Option<u32> {
        let manifest = self.manifest;
        let name = format!("{} {}", manifest.name, manifest.version);
        let told = self.tell(by, &name, &|| ctx.is_cancelled());
        told.unwrap_or_else(|error| {
            tracing::warn!("`{name}` is published, and not registered: {error}; {}", error.help());
            None
        })
    }

    fn tell(&self, by: &TrackBy, name: &str, stop: &dyn Fn() -> bool) -> Result<Option<u32>, Error> {
        let manifest = self.manifest;
        let run = manifest.training.as_ref().and_then(|training| training.run.as_deref());
        // Where the training has not arrived, there is no run to register it in.
        let arrived = run.is_none_or(|run| by.send_run(run, stop));
        let key = Digest::of(&json(manifest)).hex()[..16].to_owned();
        let tracking = by.follow(run, name, &format!("published-{key}"))?;
        let alias: Vec<&str> = self.alias.into_iter().collect();
        tracking.register(&NewVersion {
            name: &manifest.name,
            folder: self.folder,
            about: Some(&manifest.about),
            tags: self.tags(),
            aliases: &alias,
            since: self.since,
            key: Some(key),
        });
        if !arrived {
            tracing::warn!(
                "`{name}` is registered when its training has been sent: `swath tracking send {}`",
                by.folder.0.display()
            );
            // What was told stays where it waits.
            drop(tracking);
            return Ok(None);
        }
        let report = tracking.finish_unless(State::Finished, stop);
        if report.waiting == 0 {
            report.tidy();
            by.send_earlier(stop);
        }
        Ok(report.models.last().map(|model| model.version))
    }

    /// What a person looks for there: which version it is, and how good.
    fn tags(&self) -> Vec<(&str, String)> {
        let manifest = self.manifest;
        let mut tags = vec![
            ("swath.version", manifest.version.to_string()),
            ("swath.digest", manifest.digest.to_string()),
            ("swath.folder", self.folder.display().to_string()),
        ];
        if let Some(architecture) = &manifest.architecture {
            tags.push(("swath.architecture", architecture.clone()));
        }
        if let Some(training) = &manifest.training {
            tags.push(("swath.dataset", training.dataset.to_string()));
            tags.extend(training.test.iter().map(|(score, value)| (score.as_str(), format!("{value:.4}"))));
        }
        tags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_one_that_mlflow_takes() {
        for alias in ["champion", "in-use_2", "v1b", "v"] {
            assert_eq!(check_alias(alias), None, "{alias}");
        }
        for alias in ["", "latest", "LATEST", "v12", "V1", "a b", "a/b", "grün", &"a".repeat(256)] {
            assert!(check_alias(alias).is_some(), "{alias}");
        }
    }
}
