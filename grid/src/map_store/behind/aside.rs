//! Changes that are set aside: refused again and again, while the database took others.

use std::sync::Arc;

use super::{Away, Behind};
use crate::data::PartitionId;

impl Behind {
    /// What is set aside, with the database's reason.
    pub(crate) fn aside(&self) -> Vec<(Away, Arc<str>)> {
        let mut all = Vec::new();
        for partition in (0..self.queues.len() as u32).map(PartitionId) {
            let queue = self.queue(partition);
            for (due, why) in queue.aside() {
                if let Ok(Some(value)) = self.record(partition, &due.key, due.number) {
                    all.push((Away { partition, due, value }, why));
                }
            }
        }
        all
    }

    /// Has what is set aside be tried again. How many changes that are.
    pub(crate) fn try_again(&self) -> u64 {
        let now_ms = self.clock.monotonic_ms();
        let each = (0..self.queues.len() as u32).map(PartitionId).map(|partition| {
            let mut queue = self.queue(partition);
            let again = queue.try_again(now_ms);
            self.announce(partition, &mut queue);
            again
        });
        each.sum()
    }

    /// Gives a change up that is set aside. Whether it still was.
    pub(crate) fn drop_aside(&self, away: &Away) -> bool {
        let mut queue = self.queue(away.partition);
        let is_dropped = queue.is_aside(&away.due) && self.forget(away);
        if is_dropped {
            queue.drop_aside(&away.due);
            self.announce(away.partition, &mut queue);
            self.settled.notify_waiters();
        }
        is_dropped
    }

    /// Changes that are set aside.
    pub(crate) fn aside_count(&self) -> u64 {
        let partitions = (0..self.queues.len() as u32).map(PartitionId);
        partitions.map(|partition| self.queue(partition).counts().1).sum()
    }

    /// Changes that are set aside, and those behind them.
    pub(crate) fn held_up_count(&self) -> u64 {
        let partitions = (0..self.queues.len() as u32).map(PartitionId);
        partitions.map(|partition| self.queue(partition).held_up()).sum()
    }
}
