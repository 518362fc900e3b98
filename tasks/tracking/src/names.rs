//! Names and values as MLflow takes them, so that nothing is refused for a character.

/// Longest name of a parameter, metric or tag, in characters.
const LONGEST_NAME: usize = 250;
/// Longest value of a parameter, in characters.
const LONGEST_PARAM: usize = 6000;
/// Longest value of a tag, in characters.
const LONGEST_TAG: usize = 5000;

/// The name of a parameter, metric or tag: letters, digits and `_-. /`; all else becomes `_`. Parts between slashes are never
/// empty, `.` or `..`, for they are folders in a file store.
pub(crate) fn key(name: &str) -> String {
    let allowed = |c: char| if c.is_alphanumeric() || "_-. /".contains(c) { c } else { '_' };
    let name: String = name.chars().map(allowed).take(LONGEST_NAME).collect();
    parts(&name)
}

/// The place of an artifact below its run: a relative path with slashes.
pub(crate) fn artifact(path: &str) -> String {
    let allowed = |c: char| if c.is_control() || "\\#%?:*\"<>|".contains(c) { '_' } else { c };
    parts(&path.chars().map(allowed).collect::<String>())
}

/// The name of a registered model: without what separates parts of an address or a filter.
pub(crate) fn model(name: &str) -> String {
    let allowed = |c: char| if c.is_control() || "/:\\'\"`%".contains(c) { '_' } else { c };
    parts(&name.chars().map(allowed).take(LONGEST_NAME).collect::<String>())
}

/// The value of a parameter, cut to the length that is kept.
pub(crate) fn param_value(value: &str) -> String {
    cut(value, LONGEST_PARAM)
}

/// The value of a tag, cut to the length that is kept.
pub(crate) fn tag_value(value: &str) -> String {
    cut(value, LONGEST_TAG)
}

fn parts(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    if parts.is_empty() { "_".to_owned() } else { parts.join("/") }
}

fn cut(value: &str, longest: usize) -> String {
    if value.chars().count() <= longest {
        return value.to_owned();
    }
    value.chars().take(longest - 3).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_such_as_mlflow_takes_and_never_leave_their_folder() {
        for (given, name) in [
            ("val/iou", "val/iou"),
            ("iou (built-up)", "iou _built-up_"),
            ("größe", "größe"),
            ("/a//b/", "a/b"),
            ("../../etc/passwd", "etc/passwd"),
            ("./.", "_"),
            ("", "_"),
            ("a\nb", "a_b"),
        ] {
            assert_eq!(key(given), name, "{given:?}");
        }
        assert_eq!(key(&"x".repeat(300)).len(), 250);
        assert_eq!(artifact("../a/./curves #1.png"), "a/curves _1.png");
        assert_eq!(model("a/b:c"), "a_b_c");
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        assert_eq!(param_value(&"ä".repeat(6000)), "ä".repeat(6000));
        assert_eq!(param_value(&"ä".repeat(6001)), format!("{}...", "ä".repeat(5997)));
        assert_eq!(tag_value(&"x".repeat(9000)).len(), 5000);
    }
}
