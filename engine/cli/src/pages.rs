//! The pages of error codes, from `docs/errors`.

include!(concat!(env!("OUT_DIR"), "/pages.rs"));

/// The page of a code, whatever its case.
pub(crate) fn page(code: &str) -> Option<&'static str> {
    PAGES.iter().find(|(name, _)| name.eq_ignore_ascii_case(code)).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code that any source of the project can put into an error has its page, and every page its code.
    #[test]
    fn every_code_has_its_page_and_every_page_its_code() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut used = std::collections::BTreeMap::new();
        for folder in ["engine", "tasks"] {
            search(&root.join(folder), &mut used);
        }
        let missing: Vec<_> = used.iter().filter(|(code, _)| page(code).is_none()).collect();
        assert!(missing.is_empty(), "codes without docs/errors/CODE.md: {missing:?}");
        let unused: Vec<_> = PAGES.iter().filter(|(code, _)| !used.contains_key(*code)).map(|(code, _)| code).collect();
        assert!(unused.is_empty(), "pages of codes that no source uses: {unused:?}");
        for (code, text) in PAGES {
            assert!(text.starts_with(&format!("# {code}: ")), "docs/errors/{code}.md begins with `# {code}: title`");
        }
    }

    /// Codes in string literals of the sources: a letter and three digits.
    fn search(folder: &std::path::Path, used: &mut std::collections::BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let in_tests = path.components().any(|part| part.as_os_str() == "tests")
                || path.to_string_lossy().contains("tests.rs");
            if path.is_dir() {
                search(&path, used);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !in_tests {
                let text = std::fs::read_to_string(&path).unwrap();
                // Tests inside a source file use codes of their own making.
                let text = text.split("#[cfg(test)]").next().unwrap_or_default();
                for part in text.split('"') {
                    let code = part.len() == 4
                        && part.starts_with(|c: char| "FESRMDCXLKN".contains(c))
                        && part[1..].bytes().all(|b| b.is_ascii_digit());
                    if code {
                        used.entry(part.to_owned()).or_insert_with(|| path.display().to_string());
                    }
                }
            }
        }
    }
}
