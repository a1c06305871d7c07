//! Opens a store, prints what the opening found, and closes it: `reopen DIR [MEMORY_LIMIT_MIB]`.

use hotrestart::Store;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: reopen DIR [MEMORY_LIMIT_MIB]")?;
    let limit_mib: u64 = args.next().map_or(Ok(1024), |text| text.parse())?;
    let store = Store::builder().memory_limit_bytes(limit_mib << 20).open(&dir)?;
    println!("{:#?}", store.recovery());
    store.close()?;
    Ok(())
}
