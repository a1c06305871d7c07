//! The tree as git sees it: tracked files and new ones that are not ignored.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file of the tree.
pub struct Source {
    /// Its path from the root.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
        .to_owned()
}

/// Every file whose path ends in `suffix`, as text. Golden files of the format are none.
pub fn files(suffix: &str) -> Vec<Source> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the tree");
    assert!(listed.status.success(), "git: {}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    let mut found = Vec::new();
    for path in listed.lines().filter(|path| path.ends_with(suffix)) {
        // A file deleted and not yet committed is still listed.
        let Ok(bytes) = std::fs::read(root().join(path)) else { continue };
        if path.ends_with(".pack") {
            continue;
        }
        let text = String::from_utf8(bytes).unwrap_or_else(|_| panic!("{path} is not UTF-8"));
        found.push(Source { path: path.to_owned(), text });
    }
    assert!(!found.is_empty(), "no file ends in {suffix}: the check would check nothing");
    found
}

/// Fails with every finding, one a line.
pub fn none(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}:\n{}", findings.join("\n"));
}
