//! The JSON report of a run.
//!
//! Owns the contract that a report is whole or not there: it is written beside its place, flushed and
//! renamed. Called once by each command, for exit status 0 and 1 and for an interrupted run.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::failure::Failure;
use crate::system::host::Machine;

/// Raised when a field changes its name or meaning.
const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a, S, R> {
    schema_version: u32,
    command: &'a str,
    machine: Machine,
    settings: &'a S,
    results: &'a R,
}

fn parent_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Refuses a report that could not be written, before anything is measured for it.
pub fn check(path: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let probe = tempfile::Builder::new().prefix(".report-").tempfile_in(parent_of(path));
    probe.map(drop).map_err(Failure::file("write a report beside", path))
}

/// Writes the report to `path`, if one was asked for.
pub fn write<S: Serialize, R: Serialize>(
    path: Option<&Path>,
    command: &str,
    dir: &Path,
    settings: &S,
    results: &R,
) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let machine = Machine::read(dir);
    let document = Document { schema_version: SCHEMA_VERSION, command, machine, settings, results };
    let mut text = serde_json::to_vec_pretty(&document)
        .map_err(|error| Failure::environment(format!("cannot spell the report: {error}")))?;
    text.push(b'\n');
    let failed = |action| Failure::file(action, path);
    let mut file = tempfile::Builder::new()
        .prefix(".report-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(parent_of(path))
        .map_err(failed("write a report beside"))?;
    file.write_all(&text).map_err(failed("write"))?;
    file.as_file().sync_all().map_err(failed("flush"))?;
    file.persist(path).map_err(|error| failed("rename a report to")(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_replaces_the_old_one_whole_and_leaves_nothing_beside_it() {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("report.json");
        std::fs::write(&path, "old").expect("write");
        write(Some(&path), "probe", home.path(), &(), &[1, 2]).expect("report");
        let text = std::fs::read_to_string(&path).expect("read");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["schema_version"], 1);
        assert_eq!(value["results"][1], 2);
        assert_eq!(std::fs::read_dir(home.path()).expect("list").count(), 1);
    }

    #[test]
    fn a_report_that_cannot_be_written_is_the_environments_fault() {
        let nowhere = Path::new("/nonexistent/report.json");
        let failure = write(Some(nowhere), "probe", Path::new("/"), &(), &()).expect_err("refused");
        assert_eq!(failure.exit_status(), 3);
        assert_eq!(check(Some(nowhere)).expect_err("refused before").exit_status(), 3);
        check(None).expect("nothing was asked for");
    }
}
