//! A database of numbers in memory, that says what it was asked and does as it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::Stream;
use hdgrid::data::Natural;
use hdgrid::{Entries, MapLoader, MapStore, Properties, StoreError};

pub type Number = Natural<i32>;

#[derive(Default)]
pub struct State {
    pub rows: BTreeMap<i32, i32>,
    /// What was asked, one call after the other.
    pub asked: Vec<String>,
    /// Values that are refused.
    pub refused: BTreeSet<i32>,
    /// Calls that fail.
    pub failing: BTreeSet<&'static str>,
    /// Calls that wait, and how many do.
    pub paused: BTreeSet<&'static str>,
    pub waiting: usize,
    /// What every value that is stored is raised by.
    pub raised_by: i32,
}

/// All handles are of the same rows.
#[derive(Clone, Default)]
pub struct Rows {
    state: Arc<(Mutex<State>, Condvar)>,
    wake: Arc<tokio::sync::Notify>,
}

impl Rows {
    pub fn of(rows: impl IntoIterator<Item = (i32, i32)>) -> Rows {
        let made = Rows::default();
        made.state().rows = rows.into_iter().collect();
        made
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().expect("held by none that panicked")
    }

    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().asked)
    }

    pub fn rows(&self) -> Vec<(i32, i32)> {
        self.state().rows.iter().map(|(key, value)| (*key, *value)).collect()
    }

    pub fn pause(&self, call: &'static str) {
        self.state().paused.insert(call);
    }

    pub fn go_on(&self) {
        self.state().paused.clear();
        self.wake.notify_waiters();
    }

    /// Waits until so many calls are held up.
    pub fn await_waiting(&self, count: usize) {
        let state = self.state();
        let waited = self
            .state
            .1
            .wait_timeout_while(state, Duration::from_secs(20), |state| state.waiting < count);
        let (state, _) = waited.expect("held by none that panicked");
        assert!(state.waiting >= count, "{} of {count} calls came", state.waiting);
    }

    async fn ask(&self, call: &'static str, what: String) -> Result<(), StoreError> {
        {
            let mut state = self.state();
            state.asked.push(format!("{call} {what}").trim_end().to_owned());
        }
        loop {
            let woken = self.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            {
                let mut state = self.state();
                if !state.paused.contains(call) {
                    if state.failing.contains(call) {
                        return Err(format!("no {call} today").into());
                    }
                    return Ok(());
                }
                state.waiting += 1;
                self.state.1.notify_all();
            }
            woken.await;
            self.state().waiting -= 1;
        }
    }

    fn put(&self, key: i32, value: i32) -> Result<i32, StoreError> {
        assert!(value != 666, "the number of the beast");
        let mut state = self.state();
        if state.refused.contains(&value) {
            return Err(format!("{value} is refused").into());
        }
        let value = value + state.raised_by;
        state.rows.insert(key, value);
        Ok(value)
    }
}

impl MapLoader<Number, Number> for Rows {
    async fn init(&self, properties: &Properties, map: &str) -> Result<(), StoreError> {
        self.ask("init", format!("{map} {properties:?}")).await
    }

    async fn destroy(&self) {
        let _ = self.ask("destroy", String::new()).await;
    }

    async fn load(&self, key: &i32) -> Result<Option<i32>, StoreError> {
        self.ask("load", key.to_string()).await?;
        Ok(self.state().rows.get(key).copied())
    }

    async fn load_all(&self, keys: &[i32]) -> Result<Entries<Number, Number>, StoreError> {
        self.ask("load_all", format!("{keys:?}")).await?;
        let state = self.state();
        let row = |key: &i32| state.rows.get(key).map(|value| (*key, *value));
        // In any order, as databases have them.
        Ok(keys.iter().rev().filter_map(row).collect())
    }

    fn load_all_keys(&self) -> impl Stream<Item = Result<i32, StoreError>> + Send {
        let keys: Vec<i32> = self.state().rows.keys().copied().collect();
        let failing = self.state().failing.contains("load_all_keys");
        let end = failing.then(|| Err("no keys today".into()));
        futures_util::stream::iter(keys.into_iter().map(Ok).chain(end))
    }
}

impl MapStore<Number, Number> for Rows {
    async fn store(&self, key: &i32, value: &i32) -> Result<(), StoreError> {
        self.store_and_return(key, value).await.map(drop)
    }

    async fn store_and_return(&self, key: &i32, value: &i32) -> Result<Option<i32>, StoreError> {
        self.ask("store", format!("{key} {value}")).await?;
        let stored = self.put(*key, *value)?;
        Ok((stored != *value).then_some(stored))
    }

    fn post_processes(&self) -> bool {
        self.state().raised_by != 0
    }

    async fn store_all(&self, entries: &[(i32, i32)]) -> Result<(), StoreError> {
        self.ask("store_all", format!("{entries:?}")).await?;
        entries.iter().try_for_each(|(key, value)| self.put(*key, *value).map(drop))
    }

    async fn delete(&self, key: &i32) -> Result<(), StoreError> {
        self.ask("delete", key.to_string()).await?;
        self.state().rows.remove(key);
        Ok(())
    }

    async fn delete_all(&self, keys: &[i32]) -> Result<(), StoreError> {
        self.ask("delete_all", format!("{keys:?}")).await?;
        self.state().rows.retain(|key, _| !keys.contains(key));
        Ok(())
    }
}
