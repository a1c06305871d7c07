//! The log buffers of a process that died: what an opening would read from them.
//!
//! Invariant: they are read as the opening reads them (`store/load.rs`): only those of the one life that is
//! undecided, only in the boot in which it ran, and only when store, life and boot in their header are the
//! manifest's. Nothing is written or removed, or locked for longer than a look. Of a store that is open the
//! result is a moment's. Called by the survey; `docs/restart.md` has the rules.

use super::Options;
use super::survey::Survey;
use crate::buffers::layout::Owner;
use crate::buffers::place::{Left, Places};
use crate::buffers::recover::{LeftBehind, parse};
use crate::format::manifest::BuffersPlace;
use crate::format::{BootId, LifeNumber, WriterId};
use crate::restart::plan;
use crate::store::identity::current_boot;

/// How the undecided life ended.
#[derive(Debug)]
pub(super) struct Undecided {
    pub(super) life: LifeNumber,
    /// Whether the machine has run ever since, so that every completed write is still there.
    pub(super) same_boot: bool,
    /// What its buffers hold, if they are there.
    pub(super) left: Option<LeftBehind>,
    /// Blocks that are in the buffers and on no device.
    pub(super) only_here: Vec<(WriterId, u64)>,
}

/// Finds the undecided life and its buffers.
pub(super) fn read(survey: &mut Survey, options: &Options) -> Option<Undecided> {
    let manifest = survey.manifest.clone()?;
    let number = plan::undecided(&manifest)?;
    let life = manifest.life(number)?;
    let boot = match options.boot.map_or_else(current_boot, |boot| Ok(BootId(boot))) {
        Ok(boot) => boot,
        Err(error) => {
            survey.notes.push(format!("this boot's id cannot be read: {error}"));
            BootId([0; 16])
        }
    };
    let mut undecided =
        Undecided { life: number, same_boot: life.boot == boot, left: None, only_here: Vec::new() };
    let place = match life.buffers {
        BuffersPlace::None => {
            survey.notes.push(format!("life {number} was not closed; it left no log buffers"));
            return Some(undecided);
        }
        BuffersPlace::SharedMemory => options.buffers_dir.display().to_string(),
        BuffersPlace::Directory => "the directory".to_owned(),
    };
    if !undecided.same_boot {
        let text = format!(
            "life {number} was not closed, and ran in another boot: its log buffers went with that, and what \
             counts is what is on the device"
        );
        survey.notes.push(text);
        return Some(undecided);
    }
    let places =
        Places::Files { shared: options.buffers_dir.clone(), directory: survey.path.clone() };
    let owner = Owner { store: manifest.store, life: number, boot };
    let read = match places.read(manifest.store, number, life.buffers) {
        Ok(Left::Bytes(bytes)) => parse(bytes, &owner),
        Ok(Left::Nothing) => Err("no such file: what was only there is lost".to_owned()),
        Ok(Left::OfAnother(other)) => Err(format!(
            "{} belongs to {}: this directory is a copy, without what was only there",
            other.file.display(),
            other.owner
        )),
        Err(error) => Err(error.to_string()),
    };
    match read {
        Ok(left) => undecided.left = Some(left),
        Err(found) => {
            let expected = format!("the log buffers of life {number} in {place}");
            survey.problem("", 0, &expected, &found);
        }
    }
    Some(undecided)
}

impl Undecided {
    /// The numbers of a writer's blocks in the buffers.
    pub(super) fn blocks_of(&self, writer: WriterId) -> impl Iterator<Item = u64> {
        let of_writer = (writer.0, 0)..=(writer.0, u64::MAX);
        let blocks = self.left.iter().flat_map(move |left| left.blocks.range(of_writer.clone()));
        blocks.map(|((_, number), _)| *number)
    }

    /// All blocks of a writer below this were on the device, since their buffers were given back.
    pub(super) fn written_of(&self, writer: WriterId) -> u64 {
        let written = self.left.as_ref().and_then(|left| left.written.get(writer.0 as usize));
        written.copied().unwrap_or(0)
    }

    /// The bytes of what became whole at once, a record or a group of them, and only the buffers hold:
    /// writer, block, offset in the file.
    pub(super) fn rooms(&self) -> impl Iterator<Item = (WriterId, u64, usize, &[u8])> {
        let blocks = self.only_here.iter().filter_map(|(writer, number)| {
            let left = self.left.as_ref()?;
            let rooms = left.blocks.get(&(writer.0, *number))?;
            let bytes =
                |(offset, len): &(usize, usize)| (*offset, &left.bytes[*offset..offset + len]);
            Some(rooms.iter().map(bytes).map(|(offset, bytes)| (*writer, *number, offset, bytes)))
        });
        blocks.flatten()
    }
}
