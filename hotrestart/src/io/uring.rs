//! The io_uring backend: one ring per queue, made on the thread that uses it.
//!
//! Invariants: what the ring may access is owned by the slot table (or is the wake counter, which the
//! queue owns) until its completion has been reaped; at most `capacity` operations and one wake read are
//! in flight, which is what the ring is sized for; `Drop` waits for all of them and aborts the process if
//! it cannot. Flags are tried richest first and dropped where the kernel refuses them; the floor is Linux
//! 5.11. Cost: one system call per `wait`, whatever the number of operations.
#![allow(unsafe_code, reason = "the kernel accesses the memory of submitted entries")]

use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use io_uring::squeue::Entry;
use io_uring::{IoUring, types};

use super::directory::Directory;
use super::error::{IoErrorClass, IoOperation};
use super::syscall::metadata_calls;
use super::uring_slots::{Outcome, Slots, wake_entry};
use super::{
    Completion, DirEntry, Disk, FileHandle, Fill, IoError, IoKind, Op, OpenMode, Queue, Waker,
    system,
};

const WAKE: u64 = u64::MAX;
const DEPTH_MAX: u32 = 4096;
/// Kernel threads for what cannot be begun at once: bounded and unbounded work.
const KERNEL_WORKERS_MAX: [u32; 2] = [4, 2];

/// A directory that is read and written through io_uring.
#[derive(Debug)]
pub struct UringDisk {
    directory: Directory,
}

impl UringDisk {
    /// Opens a directory; `is_direct` bypasses the page cache, which the file system must support. Whether
    /// rings can be made shows when the first queue is.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn open(path: &Path, is_direct: bool) -> Result<UringDisk, IoError> {
        Ok(UringDisk { directory: Directory::open(path, is_direct)? })
    }
}

impl Disk for UringDisk {
    metadata_calls!();

    fn queue(&self, depth: u32) -> Result<Box<dyn Queue>, IoError> {
        Ok(Box::new(UringQueue::new(depth)?))
    }

    fn kind(&self) -> IoKind {
        IoKind::Uring
    }
}

/// A ring, the operations that it has, and the wake that is armed in it.
pub(super) struct UringQueue {
    ring: IoUring,
    slots: Slots,
    flags: &'static str,
    waker: Waker,
    event: RawFd,
    _event: File,
    counter: Box<[u8; 8]>,
    is_wake_armed: bool,
    ended: Vec<Completion>,
    _not_send: PhantomData<*const ()>,
}

impl std::fmt::Debug for UringQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringQueue")
            .field("flags", &self.flags)
            .field("slots", &self.slots)
            .finish()
    }
}

impl UringQueue {
    pub(super) fn new(depth: u32) -> Result<UringQueue, IoError> {
        let depth = depth.clamp(1, DEPTH_MAX);
        let (ring, flags) = make_ring(depth + 1).map_err(|error| queue_failed(&error))?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            let reason = "io_uring of this kernel is older than Linux 5.11".to_owned();
            let error = IoError::from_errno(IoOperation::Queue, "", libc::ENOSYS);
            return Err(error.of_class(IoErrorClass::Unavailable { reason }));
        }
        // Kernels before 5.15 do not know the limit; they have their own.
        let _ = ring.submitter().register_iowq_max_workers(&mut { KERNEL_WORKERS_MAX });
        let event = system::event().map_err(|error| queue_failed(&error))?;
        let second = event.try_clone().map_err(|error| queue_failed(&error))?;
        Ok(UringQueue {
            ring,
            slots: Slots::new(depth),
            flags,
            waker: Waker::of_event(second),
            event: event.as_raw_fd(),
            _event: event,
            counter: Box::new([0; 8]),
            is_wake_armed: false,
            ended: Vec::new(),
            _not_send: PhantomData,
        })
    }

    /// The ring's flags, for reports.
    pub(super) fn flags(&self) -> &'static str {
        self.flags
    }

    fn push(&mut self, entry: &Entry) {
        let mut submission = self.ring.submission();
        // SAFETY: the memory of the entry is owned by its slot, or is the queue's counter; both outlive the
        // operation, because a slot is freed only by its completion and `Drop` waits for all.
        let pushed = unsafe { submission.push(entry) };
        pushed.expect("the ring has an entry for every slot and the wake");
    }

    fn arm_wake(&mut self) {
        if !self.is_wake_armed {
            let entry = wake_entry(self.event, self.counter.as_mut_ptr(), WAKE);
            self.push(&entry);
            self.is_wake_armed = true;
        }
    }

    fn reap(&mut self) {
        let mut again = Vec::new();
        for completion in self.ring.completion() {
            if completion.user_data() == WAKE {
                self.is_wake_armed = false;
                continue;
            }
            let slot = completion.user_data() as u32;
            match self.slots.complete(slot, completion.result()) {
                Outcome::Again => again.push(slot),
                Outcome::Ended(completion) => self.ended.push(completion),
            }
        }
        for slot in again {
            let entry = self.slots.entry(slot);
            self.push(&entry);
        }
    }

    /// Submits what is queued and waits for `want` completions, until the deadline.
    fn enter(&self, want: usize, deadline: Option<Instant>) -> Result<(), IoError> {
        let submitter = self.ring.submitter();
        let entered = match deadline {
            None => submitter.submit_and_wait(want),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let timespec = types::Timespec::from(left);
                submitter.submit_with_args(want, &types::SubmitArgs::new().timespec(&timespec))
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(queue_failed(&error)),
            },
        }
    }

    fn has_work_for_the_kernel(&mut self) -> bool {
        let submission = self.ring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }
}

impl Queue for UringQueue {
    fn submit(&mut self, token: u64, op: Op) {
        assert!(self.in_flight() < self.capacity(), "more than {} in flight", self.capacity());
        op.assert_valid();
        let slot = self.slots.insert(token, op);
        let entry = self.slots.entry(slot);
        self.push(&entry);
    }

    fn in_flight(&self) -> usize {
        self.slots.occupied() + self.ended.len()
    }

    fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        out: &mut Vec<Completion>,
    ) -> Result<(), IoError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let before = out.len();
        self.reap();
        out.append(&mut self.ended);
        let mut is_awake = self.waker.take();
        if out.len() > before || is_awake || timeout.is_some_and(|timeout| timeout.is_zero()) {
            return self.poll(out);
        }
        while out.len() == before && !is_awake {
            self.arm_wake();
            self.enter(1, deadline)?;
            self.reap();
            out.append(&mut self.ended);
            is_awake = self.waker.take();
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
        }
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<(), IoError> {
        if self.has_work_for_the_kernel() {
            self.enter(0, None)?;
        }
        self.reap();
        out.append(&mut self.ended);
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

impl Drop for UringQueue {
    fn drop(&mut self) {
        let mut fruitless = 0;
        while self.slots.occupied() > 0 || self.is_wake_armed {
            if self.is_wake_armed {
                // A wake that is pending may have written its event already, so it is not relied on.
                self.waker.take();
                self.waker.wake();
            }
            let result = self.enter(1, Some(Instant::now() + Duration::from_secs(1)));
            self.reap();
            self.ended.clear();
            fruitless = if result.is_err() { fruitless + 1 } else { 0 };
            if fruitless > 100 {
                // The kernel may still write to memory that would be freed: there is no way on from here.
                std::process::abort();
            }
        }
    }
}

fn queue_failed(error: &std::io::Error) -> IoError {
    IoError::from_std(IoOperation::Queue, "", error)
}

type Setup = fn(&mut io_uring::Builder);

/// Sets of flags from the richest to none, with their names.
const SETUPS: [(&str, Setup); 4] = [
    ("SINGLE_ISSUER|DEFER_TASKRUN|TASKRUN_FLAG|SUBMIT_ALL", |builder| {
        builder.setup_single_issuer().setup_defer_taskrun();
        builder.setup_taskrun_flag().setup_submit_all();
    }),
    ("COOP_TASKRUN|TASKRUN_FLAG|SUBMIT_ALL", |builder| {
        builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
    }),
    ("SUBMIT_ALL", |builder| {
        builder.setup_submit_all();
    }),
    ("none", |_| {}),
];

fn make_ring(entries: u32) -> std::io::Result<(IoUring, &'static str)> {
    let mut refused = std::io::Error::from_raw_os_error(libc::EINVAL);
    for (name, setup) in SETUPS {
        let mut builder = IoUring::builder();
        builder.dontfork();
        setup(&mut builder);
        match builder.build(entries) {
            Ok(ring) => return Ok((ring, name)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}
