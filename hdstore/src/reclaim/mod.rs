//! Reclamation: when a slot that left the index may be used again.
//!
//! A slot is retired after its index word was replaced. It is free when (1) every pin that was there at that
//! time has ended, and (2) no guard has published it. Pins last inside a call or an explicit batch; guards
//! may last for minutes and hold back nothing but their own slot.

pub(crate) mod hazard;
#[cfg(all(test, loom))]
mod models;
pub(crate) mod pin;
pub(crate) mod retire;
