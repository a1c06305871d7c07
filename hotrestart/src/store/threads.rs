//! The machines of an open store: how they are made and started.
//!
//! Invariant: writers run from before anything is logged again; the compactor only once the former lives are
//! decided, since until then what they logged may not be freed. Callers: the opening, in this order.

use std::path::Path;
use std::sync::Arc;

use super::close::{self, ClockHandle, Facts, Running};
use super::identity::environment;
use super::runner::Runner;
use crate::buffers::layout::{Geometry, Owner};
use crate::buffers::place::{Made, Places};
use crate::chunks::blocks::{Blocks, Identity};
use crate::compact;
use crate::compact::machine::Compactor;
use crate::compact::survey::Surveys;
use crate::config::Builder;
use crate::dir::lock::DirLock;
use crate::error::OpenError;
use crate::format::{ChunkOrigin, LifeNumber, StoreId, WriterId};
use crate::io::Disk;
use crate::log::{DiskLog, Shared};
use crate::poison::Poison;
use crate::writer::drive::{self, Control, Keeper};
use crate::writer::machine::{Intervals, Writer};

fn blocks_of(
    shared: &Shared,
    (store, life, writer): (StoreId, LifeNumber, WriterId),
    origin: ChunkOrigin,
) -> Blocks {
    let chunk_size = shared.supply.chunk_size();
    Blocks::new(
        Identity { store, life, writer, chunk_size, origin },
        Arc::clone(&shared.supply),
        Arc::clone(&shared.counters),
        Arc::clone(&shared.catalogue),
    )
}

/// Starts the writers and the keeper.
#[allow(clippy::too_many_arguments, reason = "the parts are made by the opening, once")]
pub(super) fn start(
    runner: &mut dyn Runner,
    builder: &Builder,
    disk: &Arc<dyn Disk>,
    memory: &hdstore::Store<DiskLog>,
    shared: &Arc<Shared>,
    poison: &Arc<Poison>,
    geometry: &Geometry,
    (places, made, lock, owner): (Places, Made, Option<DirLock>, Owner),
) -> Result<Running, OpenError> {
    shared.look_at(memory);
    shared.restock();
    let intervals =
        Intervals { write_ms: builder.write_interval_ms, flush_ms: builder.flush_interval_ms };
    let mut writers = Vec::new();
    for (index, lane) in shared.lanes.iter().enumerate() {
        let who = (owner.store, owner.life, WriterId(index as u32));
        let blocks = blocks_of(shared, who, ChunkOrigin::Changes);
        let writer = Writer::new(
            blocks,
            Arc::clone(&lane.ring),
            Arc::clone(&lane.progress),
            Arc::clone(&shared.supply),
            Arc::clone(poison),
            Arc::clone(&shared.counters),
            shared.hash.clone(),
            intervals,
        );
        let control = Arc::new(Control { patience: shared.put_timeout, ..Control::default() });
        let parts = drive::Parts {
            writer,
            disk: Arc::clone(disk),
            ring: Arc::clone(&lane.ring),
            poison: Arc::clone(poison),
            clock: Arc::clone(&builder.clock),
            control: Arc::clone(&control),
        };
        match runner.start_writer(index, parts) {
            Ok(thread) => writers.push((control, thread)),
            Err(error) => {
                close::stop(shared, writers, None);
                return Err(environment(Path::new("."), "starting a writer")(error));
            }
        }
    }
    let keeper = Keeper::new(Arc::clone(shared), memory.clone(), Arc::clone(&builder.clock));
    let keeper = match runner.start_keeper(keeper) {
        Ok(keeper) => keeper,
        Err(error) => {
            close::stop(shared, writers, None);
            return Err(environment(Path::new("."), "starting the keeper")(error));
        }
    };
    Ok(Running {
        writers,
        compactor: None,
        keeper,
        places,
        place: made.place,
        _buffers_lock: made.lock,
        store: owner.store,
        life: owner.life,
        clock: ClockHandle(Arc::clone(&builder.clock)),
        facts: Facts { io_used: disk.kind(), buffer_bytes: geometry.file_bytes() as u64 },
        _lock: lock,
    })
}

/// Starts the compactor.
pub(super) fn start_compactor(
    runner: &mut dyn Runner,
    builder: &Builder,
    disk: &Arc<dyn Disk>,
    memory: &hdstore::Store<DiskLog>,
    shared: &Arc<Shared>,
    running: &mut Running,
) -> Result<(), OpenError> {
    let writer = WriterId(shared.lanes.len() as u32);
    let blocks = blocks_of(shared, (running.store, running.life, writer), ChunkOrigin::Survivors);
    let surveys =
        Surveys::new(builder.memory_limit_bytes, shared.supply.chunk_size(), builder.surveys_often);
    let (shared_too, disk_too) = (Arc::clone(shared), Arc::clone(disk));
    let compactor =
        Compactor::new(shared_too, disk_too, memory.clone(), running.store, blocks, surveys);
    let control = Arc::new(Control::default());
    let parts = compact::drive::Parts {
        compactor,
        shared: Arc::clone(shared),
        disk: Arc::clone(disk),
        clock: Arc::clone(&builder.clock),
        control: Arc::clone(&control),
    };
    let thread = runner
        .start_compactor(parts)
        .map_err(environment(Path::new("."), "starting the compactor"))?;
    running.compactor = Some((control, thread));
    Ok(())
}
