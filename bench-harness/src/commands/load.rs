//! Loading: every key of the data set once, at version 1, on all threads.
//!
//! Keys go in batches, so that a load at durability `synced` costs a flush a batch and not a flush a
//! key. A load that is interrupted leaves a prefix of each thread's keys; the figures then say so.

use std::time::Instant;

use crate::cli::settings::DataSettings;
use crate::crash::table::Table;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::report::progress;
use crate::system::{cpu, interrupt};
use crate::workload::keys::Keys;
use crate::workload::values::Values;

/// Bytes that a batch should not exceed.
const BATCH_BYTES: u64 = 1 << 20;
/// Entries that a batch should not exceed.
const BATCH_ENTRIES: u64 = 64;

/// What came of a load.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Its time.
    pub seconds: f64,
    /// The user stopped it.
    pub interrupted: bool,
}

/// Loads all entries, noting versions in `table` if there is one.
pub fn load(
    engine: &Engine,
    data: &DataSettings,
    table: Option<&Table>,
) -> Result<Loaded, Failure> {
    let bar = progress::items("load", data.entries);
    let allowed = cpu::allowed();
    let start = Instant::now();
    let results: Vec<Result<(), Failure>> = std::thread::scope(|scope| {
        let spawn = |thread: u32| {
            let (bar, allowed) = (&bar, &allowed);
            scope.spawn(move || {
                if data.pin {
                    let _ = cpu::pin_current_thread(thread as usize, allowed);
                }
                load_share(engine, data, table, u64::from(thread), bar)
            })
        };
        let handles: Vec<_> = (0..data.threads).map(spawn).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, Result<(), Failure>>| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        handles.into_iter().map(join).collect()
    });
    bar.finish_and_clear();
    results.into_iter().collect::<Result<(), Failure>>()?;
    Ok(Loaded { seconds: start.elapsed().as_secs_f64(), interrupted: interrupt::requested() })
}

/// One thread's stretch of indexes.
fn load_share(
    engine: &Engine,
    data: &DataSettings,
    table: Option<&Table>,
    thread: u64,
    bar: &indicatif::ProgressBar,
) -> Result<(), Failure> {
    let threads = u64::from(data.threads);
    let bound =
        |thread: u64| (u128::from(data.entries) * u128::from(thread) / u128::from(threads)) as u64;
    let (first, end) = (bound(thread), bound(thread + 1));
    let entry_bytes = u64::from(data.key_size) + u64::from(data.value_size);
    let stride = (BATCH_BYTES / entry_bytes).clamp(1, BATCH_ENTRIES);
    let keys = Keys::new(data.key_size, data.seed);
    let values = Values::new(data.value_size, data.seed);
    let (mut key_bytes, mut value_bytes) = (Vec::new(), Vec::new());
    let mut from = first;
    while from < end && !interrupt::requested() {
        let to = (from + stride).min(end);
        key_bytes.clear();
        value_bytes.clear();
        for index in from..to {
            let version = table.map_or(1, |table| table.issue(index));
            keys.append(index, &mut key_bytes);
            values.append(index, version, &mut value_bytes);
        }
        let pairs = pairs(&key_bytes, keys.size(), &value_bytes, values.size());
        engine.put_many(&pairs)?;
        if let Some(table) = table {
            (from..to).for_each(|index| table.acknowledge(index, 1));
            table.add_loaded(to - from);
        }
        bar.inc(to - from);
        from = to;
    }
    Ok(())
}

/// Cuts keys and values of fixed sizes, laid end to end, into pairs.
pub fn pairs<'a>(
    keys: &'a [u8],
    key_size: usize,
    values: &'a [u8],
    value_size: usize,
) -> Vec<(&'a [u8], &'a [u8])> {
    let cut = |ordinal: usize| {
        let key = &keys[ordinal * key_size..(ordinal + 1) * key_size];
        (key, &values[ordinal * value_size..(ordinal + 1) * value_size])
    };
    (0..keys.len() / key_size).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_values_are_paired_with_their_keys() {
        let cut = pairs(b"aabbcc", 2, b"", 0);
        assert_eq!(cut, [(&b"aa"[..], &b""[..]), (b"bb", b""), (b"cc", b"")]);
    }
}
