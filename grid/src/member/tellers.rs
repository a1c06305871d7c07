//! The threads that call listeners.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::upkeep::spawn;
use crate::error::StartError;
use crate::events::Lanes;

/// A thread for each lane; when this is dropped they tell nothing more, and have ended.
#[derive(Debug)]
pub(super) struct Tellers {
    lanes: Arc<Lanes>,
    threads: Vec<JoinHandle<()>>,
}

impl Tellers {
    pub(super) fn start(lanes: &Arc<Lanes>) -> Result<Tellers, StartError> {
        // Those that are there when another cannot be had end with it.
        let mut tellers = Tellers { lanes: Arc::clone(lanes), threads: Vec::new() };
        for lane in 0..lanes.count() {
            let lanes = Arc::clone(lanes);
            tellers.threads.push(spawn(format!("hd-event-{lane}"), move || lanes.run(lane))?);
        }
        Ok(tellers)
    }
}

impl Drop for Tellers {
    fn drop(&mut self) {
        self.lanes.stop();
        let here = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // A listener may have had the last handle of its member.
            if thread.thread().id() != here {
                let _ = thread.join();
            }
        }
    }
}
