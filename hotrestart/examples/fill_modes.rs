//! How a new chunk should be made: allocated blocks, or zeros really written. Prints both, alternating.
//!
//! `cargo run --release --example fill_modes -- DIR [ROUNDS]`; the decision is in
//! `docs/decisions/0013-chunks-are-allocated-not-zeroed.md`.

use std::time::{Duration, Instant};

use hotrestart::codec::{Bytes, U64};
use hotrestart::{Durability, Fill, MapOptions, Store};

const PHASE: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: fill_modes DIR [ROUNDS]")?;
    let rounds: u32 = args.next().map_or(Ok(3), |text| text.parse())?;
    println!("{:10} {:10} {:>12} {:>16}", "fill", "level", "puts/s", "bytes written/s");
    for round in 0..rounds {
        for fill in [Fill::Allocate, Fill::Zero] {
            for level in [Durability::Buffered, Durability::Synced] {
                let path = format!("{dir}/fill-{round}-{fill:?}-{level}");
                let (puts, bytes) = measure(&path, fill, level)?;
                std::fs::remove_dir_all(&path)?;
                println!(
                    "{:10} {:10} {puts:>12.0} {bytes:>16.0}",
                    format!("{fill:?}"),
                    level.to_string()
                );
            }
        }
    }
    Ok(())
}

fn measure(
    path: &str,
    fill: Fill,
    level: Durability,
) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let store = Store::builder().memory_limit_bytes(512 << 20).fill(fill).open(path)?;
    let map = store.map::<U64, Bytes>("m", MapOptions::default().durability(level))?;
    let start = Instant::now();
    let counts: Vec<u64> = std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..2u64)
            .map(|thread| {
                let map = &map;
                scope.spawn(move || {
                    let mut count = 0;
                    while start.elapsed() < PHASE {
                        if map.insert(&((thread << 32) | (count % 200_000)), &[7; 239]).is_err() {
                            break;
                        }
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        spawned.into_iter().map(|thread| thread.join().unwrap_or(0)).collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    let stats = store.stats();
    store.close()?;
    let bytes = (stats.bytes_submitted + stats.zero_fill_bytes) as f64;
    Ok((counts.iter().sum::<u64>() as f64 / seconds, bytes / seconds))
}
