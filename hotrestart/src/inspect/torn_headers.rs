//! Chunks whose headers cannot be read: judged as an opening judges them (`restart/torn_headers.rs`), and
//! those of zeros also where no block follows them.
//!
//! Invariant: where the header can be restored and the chunk counts, its blocks are looked at like all
//! others. Called by the survey once it knows which life is undecided. Cost: such a chunk is read once more.

use super::chunks::ChunkFile;
use super::records::content_of;
use super::survey::Survey;
use crate::format::{ChunkHeaderError, Manifest};
use crate::restart::torn_headers::Judge;

pub(super) fn judge(survey: &mut Survey, manifest: &Manifest) {
    let mut chunks = std::mem::take(&mut survey.chunks);
    let readable = chunks.iter().filter_map(|chunk| chunk.header.as_ref().ok());
    let own = readable.filter(|header| header.store == manifest.store);
    let same_boot = survey.undecided.as_ref().is_some_and(|undecided| undecided.same_boot);
    let judge = Judge::new(manifest, same_boot, own);
    for chunk in &mut chunks {
        judge_one(survey, &judge, manifest, chunk);
    }
    survey.chunks = chunks;
}

fn judge_one(survey: &mut Survey, judge: &Judge<'_>, manifest: &Manifest, chunk: &mut ChunkFile) {
    let error = match &chunk.header {
        Ok(_) | Err(ChunkHeaderError::TooShort { .. }) => return,
        Err(error) => error.clone(),
    };
    let damage = if chunk.bytes == manifest.chunk_size {
        let Some(content) = content_of(survey, chunk) else { return };
        judge.judge(&content).map(|damage| (damage, content))
    } else {
        None
    };
    match damage {
        Some((damage, content)) => {
            let found = format!("{error}; {}", damage.what);
            survey.problem(&chunk.name, 0, "a valid chunk header", &found);
            if let Some(header) = damage.restored {
                chunk.restore(header, &content);
            }
        }
        None if error == ChunkHeaderError::Blank => {}
        None => {
            let found = error.to_string();
            survey.problem_if_clean(&chunk.name, 0, "a valid chunk header", &found);
        }
    }
}
