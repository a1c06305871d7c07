//! Waiting for durability without a thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::durability::{Durability, LogFailure, Ticket};
use crate::log::Shared;
use crate::writer::progress::TaskId;

/// Ends when everything that the store had taken at its making is as durable as asked; made by
/// [`Store::persisted`](crate::Store::persisted).
#[derive(Debug)]
#[must_use = "a future does nothing until it is polled"]
pub struct Persisted {
    shared: Arc<Shared>,
    pending: Vec<Ticket>,
    level: Durability,
    registered: Option<(u32, TaskId)>,
}

impl Persisted {
    pub(crate) fn new(shared: Arc<Shared>, level: Durability) -> Persisted {
        let writers = 0..shared.lanes.len() as u32;
        let pending = writers.filter_map(|writer| shared.last_ticket(writer)).collect();
        Persisted { shared, pending, level, registered: None }
    }

    fn deregister(&mut self) {
        if let Some((writer, task)) = self.registered.take() {
            self.shared.lanes[writer as usize].progress.forget(task);
        }
    }
}

impl Future for Persisted {
    type Output = Result<(), LogFailure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            if let Err(failure) = this.shared.poison.check() {
                return Poll::Ready(Err(failure));
            }
            let Some(ticket) = this.pending.last().copied() else { return Poll::Ready(Ok(())) };
            let lane = &this.shared.lanes[ticket.writer as usize];
            if !lane.progress.reached(ticket.buffer, this.level) {
                if lane.progress.want(ticket.buffer, this.level) {
                    lane.ring.wake_writer();
                }
                let former = this.registered.filter(|(writer, _)| *writer == ticket.writer);
                let task = lane.progress.register(former.map(|(_, task)| task), context.waker());
                this.registered = Some((ticket.writer, task));
                // The watermark may have moved before the task was registered.
                if !lane.progress.reached(ticket.buffer, this.level)
                    && this.shared.poison.get().is_none()
                {
                    return Poll::Pending;
                }
            }
            this.deregister();
            if this.shared.poison.get().is_none() {
                this.pending.pop();
            }
        }
    }
}

impl Drop for Persisted {
    fn drop(&mut self) {
        self.deregister();
    }
}
