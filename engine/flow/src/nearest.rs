//! Did you mean ...: the nearest of the names that exist.

/// Candidates looked at: a flow of 100,000 steps must not make each mistake cost seconds.
const MOST_CANDIDATES: usize = 2_000;

/// The candidate nearest to `name`, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.chars().count() > 64 {
        return None;
    }
    let wanted = name.to_lowercase().replace('-', "_");
    let mut best: Option<(usize, &str)> = None;
    // A name that exists cannot be what was meant instead of it.
    for candidate in candidates.into_iter().take(MOST_CANDIDATES).filter(|candidate| *candidate != name) {
        let normal = candidate.to_lowercase().replace('-', "_");
        // `polygons` for `detect.polygons`, `max_cloud` for `max_cloud_cover`.
        let part = wanted.len() > 3 && (normal.split('.').any(|part| part == wanted) || normal.starts_with(&wanted));
        if !part && candidate.len().abs_diff(name.len()) > 4 {
            continue;
        }
        let distance = if part { 1 } else { strsim::damerau_levenshtein(&wanted, &normal) };
        let allowed = wanted.chars().count().max(normal.chars().count()).div_ceil(3).min(4);
        // Something of the name must be left: `a` is no slip of the finger for `b`.
        let alike = distance < wanted.chars().count();
        if distance <= allowed && alike && best.is_none_or(|(shortest, _)| distance < shortest) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// A help text: the nearest name, or all of them when they are few.
pub fn did_you_mean(name: &str, candidates: &[&str], what: &str) -> Option<String> {
    if let Some(near) = nearest(name, candidates.iter().copied()) {
        return Some(format!("did you mean `{near}`?"));
    }
    match candidates.len() {
        0 => None,
        1..=16 => Some(format!("{what}: {}", list(candidates))),
        _ => None,
    }
}

/// Names as a person lists them: `a`, `b` and `c`.
pub fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_what_was_meant_and_a_stranger_finds_nothing() {
        let names = ["stac.search", "raster.composite", "detect.polygons"];
        assert_eq!(nearest("stac.serach", names), Some("stac.search"));
        assert_eq!(nearest("raster.composit", names), Some("raster.composite"));
        assert_eq!(nearest("polygons", names), Some("detect.polygons"));
        assert_eq!(nearest("max_cloud", ["max_items", "max_cloud_cover"]), Some("max_cloud_cover"));
        assert_eq!(nearest("frobnicate", names), None);
        assert_eq!(nearest("stac.search", names), None);
        assert_eq!((nearest("a", ["b", "ab"]), nearest("ab", ["b"])), (None, Some("b")));
        assert_eq!(list(&["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
