//! The seam to a log: what a store does before, under and after a stream's lock so that its changes can be
//! kept.
//!
//! A store in memory alone uses [`NoLog`], which costs nothing. `hotrestart` brings the real one. The order
//! of calls in a change, and the reasons, stand in `ARCHITECTURE.md`:
//!
//! 1. [`Log::reserve`], before the lock: room for the record; the key and value are copied here. It may wait,
//!    never under a lock.
//! 2. Under the stream's lock: [`Log::position`] must not be before the stream's last one, or the change
//!    starts over (so that what survives a crash is a prefix of the stream); [`Log::admits`] must allow the
//!    record's seq, or the change waits for that outside the lock ([`Log::wait_to_admit`]) and starts over;
//!    then [`Log::commit`] with the seq, which may neither wait nor fail.
//! 3. After the lock: [`Log::settle`] waits until the change is as durable as its map asks.
//!
//! A group of changes goes the same way with [`Log::reserve_group`], [`Log::group_position`] and
//! [`Log::commit_group`]: one room for all of its records, which one step completes.

use crate::ids::{MapId, Seq, StreamId};

/// An error of the log behind a store.
pub type LogError = Box<dyn std::error::Error + Send + Sync>;

/// What a change leaves in the log.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Change<'a> {
    /// The key has this value from now on.
    Entry {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// When it expires, in milliseconds since 1970.
        expiry_ms: Option<u64>,
    },
    /// The key is gone from now on.
    Absence {
        /// The key.
        key: &'a [u8],
    },
    /// Every key of the map's part in the stream is gone from now on.
    Clear,
}

/// Who says in which stream a key of a map lies. Fixed when the map is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// The store, by the key's hash.
    #[default]
    ByHash,
    /// The map's owner, by [`Map::in_stream`](crate::Map::in_stream).
    ByOwner,
}

impl std::fmt::Display for Placement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Placement::ByHash => "by their hashes",
            Placement::ByOwner => "by its owner",
        })
    }
}

/// What a map is, as the log must remember it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapSpec<L> {
    /// Its number.
    pub id: MapId,
    /// Its name.
    pub name: String,
    /// The name of the codec of its keys.
    pub key_type: String,
    /// The name of the codec of its values.
    pub value_type: String,
    /// How durable its changes are before they are acknowledged.
    pub level: L,
    /// Who says in which stream a key lies.
    pub placement: Placement,
}

/// A log behind a store. Called by the store alone.
pub trait Log: Send + Sync + Sized + 'static {
    /// How durable a change is before it is acknowledged. The default is the least.
    type Level: Copy + Default + Send + Sync + std::fmt::Debug + Ord + 'static;
    /// Room for one record. Dropping it gives it up.
    type Room<'a>;
    /// Room for the records of a group. Dropping it gives up what was not committed.
    type GroupRoom<'a>;
    /// A change that was committed to the log.
    type Ticket: Copy + Send + std::fmt::Debug;

    /// Remembers a new map, before its first change. It may block; of those who use the store it keeps only
    /// who makes or drops another map waiting then.
    fn create_map(&self, spec: &MapSpec<Self::Level>) -> Result<(), LogError>;

    /// Forgets a map for ever, with all its changes, before anything of it is forgotten in memory. It may
    /// block, like `create_map`. Changes that are under way may still come; they count for nothing.
    fn drop_map(&self, map: MapId) -> Result<(), LogError>;

    /// Finds room for a change. It may wait up to the log's own deadline.
    fn reserve(
        &self,
        map: MapId,
        stream: StreamId,
        change: Change<'_>,
    ) -> Result<Self::Room<'_>, LogError>;

    /// Copies the key and value of the change that the room was reserved for, once.
    fn write(&self, room: &mut Self::Room<'_>, change: Change<'_>);

    /// Where in its writer's order the room lies.
    fn position(room: &Self::Room<'_>) -> u64;

    /// Whether a seq may be given: a log promises durably which seqs were never given, so that none is given
    /// twice after a crash. Under the stream's lock: it does not wait.
    fn admits(&self, seq: Seq) -> bool;

    /// Waits until a seq may be given, up to the log's own deadline.
    fn wait_to_admit(&self, seq: Seq) -> Result<(), LogError>;

    /// Completes the record, which was written. Under the stream's lock: it neither waits nor fails.
    fn commit(&self, room: Self::Room<'_>, seq: Seq) -> Self::Ticket;

    /// Finds room for the records of changes of a stream that are kept all or not at all, and copies their
    /// keys and values there. It may wait up to the log's own deadline, and refuses more than it can keep so.
    fn reserve_group(
        &self,
        stream: StreamId,
        changes: &[(MapId, Change<'_>)],
    ) -> Result<Self::GroupRoom<'_>, LogError>;

    /// Where in its writer's order the room of a group lies.
    fn group_position(room: &Self::GroupRoom<'_>) -> u64;

    /// Completes the records of a group, once: of each change that has a seq. One that has none came to
    /// nothing, and leaves no record; at least one has. Under the stream's lock: it neither waits nor fails,
    /// and leaves the room's memory to the caller, who lets it go later.
    fn commit_group(&self, room: &mut Self::GroupRoom<'_>, seqs: &[Option<Seq>]) -> Self::Ticket;

    /// Waits until a change is as durable as asked. Asked of every change before its caller is told that it
    /// is done, at any level and after the stream's lock was let go: an error says that nobody knows whether
    /// the change is kept.
    fn settle(&self, ticket: Self::Ticket, level: Self::Level) -> Result<(), LogError>;

    /// Whether changes are still accepted; asked before anything else is done.
    fn check(&self) -> Result<(), LogError>;
}

/// The log of a store that lives in memory alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLog;

impl Log for NoLog {
    type Level = ();
    type Room<'a> = ();
    type GroupRoom<'a> = ();
    type Ticket = ();

    fn create_map(&self, _: &MapSpec<()>) -> Result<(), LogError> {
        Ok(())
    }

    fn drop_map(&self, _: MapId) -> Result<(), LogError> {
        Ok(())
    }

    #[inline]
    fn reserve(&self, _: MapId, _: StreamId, _: Change<'_>) -> Result<(), LogError> {
        Ok(())
    }

    #[inline]
    fn write(&self, (): &mut (), _: Change<'_>) {}

    #[inline]
    fn position((): &()) -> u64 {
        0
    }

    #[inline]
    fn admits(&self, _: Seq) -> bool {
        true
    }

    #[inline]
    fn wait_to_admit(&self, _: Seq) -> Result<(), LogError> {
        Ok(())
    }

    #[inline]
    fn commit(&self, (): (), _: Seq) {}

    #[inline]
    fn reserve_group(&self, _: StreamId, _: &[(MapId, Change<'_>)]) -> Result<(), LogError> {
        Ok(())
    }

    #[inline]
    fn group_position((): &()) -> u64 {
        0
    }

    #[inline]
    fn commit_group(&self, (): &mut (), _: &[Option<Seq>]) {}

    #[inline]
    fn settle(&self, (): (), (): ()) -> Result<(), LogError> {
        Ok(())
    }

    #[inline]
    fn check(&self) -> Result<(), LogError> {
        Ok(())
    }
}
