//! What scripts may rely on: exit statuses, refusals by name, the JSON report (docs/benchmarking.md).
//!
//! Each test runs the built program as a script would. `refusals` needs no store; `runs` fills small
//! ones.

mod harness;
mod orphans;
mod refusals;
mod runs;
