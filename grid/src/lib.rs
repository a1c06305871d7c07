//! The data grid: what will live here.
//!
//! Named maps that mean what Hazelcast's maps mean, over the stores of `hotrestart`: partitions, expiry and
//! eviction policy, locks, listeners, entry processors, MapStore over the user's own database, configuration
//! from `hazelcast.yaml`, members and clients. What exists of it is [`data`], the bytes of keys and values;
//! nothing here pretends to more.
//!
//! What this crate may know: maps, partitions, policies, the public API of `hotrestart`. What it must not
//! know: files, slots, and `unsafe`, which is forbidden here.
#![forbid(unsafe_code)]

pub mod data;
