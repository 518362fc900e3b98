//! Puts the page of every error code into the program: `docs/errors/CODE.md`.

use std::fmt::Write;
use std::path::Path;

fn main() {
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../docs/errors");
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut pages: Vec<_> = std::fs::read_dir(&folder)
        .expect("docs/errors")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    let mut source = String::from("pub(crate) const PAGES: &[(&str, &str)] = &[\n");
    for page in pages {
        let code = page.file_stem().expect("a name").to_string_lossy().into_owned();
        let path = page.canonicalize().expect("a page");
        writeln!(source, "    ({code:?}, include_str!({path:?})),").expect("a string");
    }
    source.push_str("];\n");
    let out = Path::new(&std::env::var("OUT_DIR").expect("OUT_DIR")).join("pages.rs");
    std::fs::write(out, source).expect("write pages.rs");
}
