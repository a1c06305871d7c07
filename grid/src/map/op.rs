//! Changes of one key, and what each makes of an entry: pure decisions, by Hazelcast's rules.
//!
//! Called by `change.rs` under the partition's lock, so nothing here runs a user's code. Costs a
//! comparison of bytes where the operation asks for one.

use crate::record::{Head, NewValue, Times};

/// A change of one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op<'a> {
    pub(crate) kind: Kind<'a>,
    pub(crate) when: When<'a>,
    /// Whether the caller wants the value that was there.
    pub(crate) returns_old: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind<'a> {
    /// The key gets a value.
    Put { value: NewValue<'a>, life: Life },
    /// The key goes.
    Remove(Going),
    /// The key gets the value that the map's database has.
    Load(NewValue<'a>),
    /// The value stays, and lives so long from now on, in milliseconds; 0: for ever.
    SetTtl(u64),
}

/// Why a key goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Going {
    Removed,
    /// And the map's database is not told.
    Evicted,
    /// With all others of the map; who asks for that tells the database.
    Cleared,
}

/// When a change happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When<'a> {
    Always,
    Absent,
    Present,
    /// The value is this one (stored form).
    Same(&'a [u8]),
}

impl When<'_> {
    /// Whether it is so, of a key's value (stored form).
    pub(crate) fn holds(self, old: Option<&[u8]>) -> bool {
        match self {
            When::Always => true,
            When::Absent => old.is_none(),
            When::Present => old.is_some(),
            When::Same(value) => old == Some(value),
        }
    }
}

/// How long an entry is to live.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Life {
    /// In milliseconds after it was put; 0: for ever; `None`: as long as before, or as the map says.
    pub(crate) ttl_ms: Option<u64>,
    /// Likewise, after it was used last.
    pub(crate) max_idle_ms: Option<u64>,
}

/// What a map says of its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Rules {
    /// How long they live, in milliseconds; 0: for ever.
    pub(crate) ttl_ms: u64,
    /// How long they live unused, in milliseconds; 0: for ever.
    pub(crate) max_idle_ms: u64,
    /// Whether it is kept when they were made and changed.
    pub(crate) keeps_times: bool,
}

/// An entry as it was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) head: Head,
    /// The stored form of its value.
    pub(crate) value: &'a [u8],
}

/// What becomes of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate<'a> {
    /// Nothing changes: the operation's condition does not hold.
    Refused,
    Put {
        head: Head,
        value: Value<'a>,
        /// When it expires, in milliseconds since 1970-01-01 UTC.
        expiry_ms: Option<u64>,
    },
    Remove,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Value<'a> {
    New(NewValue<'a>),
    /// The one that is there.
    Old,
}

impl Op<'static> {
    /// Removes a key, whatever it has.
    pub(crate) fn removal(going: Going) -> Op<'static> {
        Op { kind: Kind::Remove(going), when: When::Always, returns_old: false }
    }
}

impl Op<'_> {
    /// Whether a map's database is to hear of it.
    pub(crate) fn is_stored(&self) -> bool {
        matches!(self.kind, Kind::Put { .. } | Kind::Remove(Going::Removed | Going::Cleared))
    }

    /// Whether it asks what the database has of a key that memory does not have.
    pub(crate) fn asks_database(&self) -> bool {
        match self.kind {
            Kind::Put { .. } | Kind::Remove(Going::Removed) => {
                self.returns_old || self.when != When::Always
            }
            Kind::SetTtl(_) => true,
            Kind::Remove(_) | Kind::Load(_) => false,
        }
    }

    /// Whether what happens depends on what is there.
    pub(crate) fn must_look(&self, rules: &Rules, has_own_lives: bool) -> bool {
        self.returns_old
            || self.when != When::Always
            || match self.kind {
                Kind::Remove(_) => false,
                Kind::Put { life, .. } => {
                    let is_given = life.ttl_ms.is_some() && life.max_idle_ms.is_some();
                    rules.keeps_times || (has_own_lives && !is_given)
                }
                Kind::Load(_) => rules.keeps_times,
                Kind::SetTtl(_) => true,
            }
    }
}

impl<'a> Op<'a> {
    /// What becomes of a key; `old` is `None` where it is absent, and where [`Op::must_look`] says that
    /// it does not matter.
    pub(crate) fn decide(
        &self,
        old: Option<Seen<'_>>,
        rules: &Rules,
        now_ms: impl Fn() -> u64,
    ) -> Fate<'a> {
        if !self.when.holds(old.map(|old| old.value)) {
            return Fate::Refused;
        }
        let (life, value) = match self.kind {
            Kind::Remove(_) => return Fate::Remove,
            Kind::Put { value, life } => (life, Value::New(value)),
            Kind::Load(value) => (Life::default(), Value::New(value)),
            Kind::SetTtl(ttl_ms) => (Life { ttl_ms: Some(ttl_ms), max_idle_ms: None }, Value::Old),
        };
        let is_loaded = matches!(self.kind, Kind::Load(_));
        let before = old.map(|old| old.head).filter(|_| !is_loaded).unwrap_or_default();
        let ttl_ms = life.ttl_ms.or(before.ttl_ms);
        let max_idle_ms = life.max_idle_ms.or(before.max_idle_ms);
        let lives_ms = ttl_ms.unwrap_or(rules.ttl_ms);
        let times = match value {
            Value::New(_) if rules.keeps_times => {
                Some(times(before.times, old.is_some(), now_ms()))
            }
            Value::New(_) => None,
            Value::Old => before.times,
        };
        let head = Head { ttl_ms, max_idle_ms, times };
        let expiry_ms = (lives_ms > 0).then(|| now_ms().saturating_add(lives_ms));
        Fate::Put { head, value, expiry_ms }
    }
}

/// An entry's times after a change.
fn times(before: Option<Times>, was_there: bool, now_ms: u64) -> Times {
    match before {
        Some(times) => {
            Times { updated_ms: now_ms, version: times.version.saturating_add(1), ..times }
        }
        // Of an entry that is older than the wish to keep its times nothing else is known.
        None => Times { created_ms: now_ms, updated_ms: now_ms, version: u32::from(was_there) },
    }
}
